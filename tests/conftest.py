"""Shared by all tests: shapes are checked at every call, torch keeps to one thread, and where the real slides lie."""

import gc
import os
import re
import signal
import sys
from functools import partial
from inspect import isfunction
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from threadpoolctl import threadpool_limits

# Tests run in several processes, and threads that wait for each other make small matrix products ten times slower (85 s
# to 14 s for the cohorts in feature space). A plugin has loaded numpy already, so its pool is told; libraries that are
# loaded later, and child processes, read the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)

# What is compiled is kept, whatever the environment says: compiling is a third of an import that is checked, and tests
# start many processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Imports make nearly all objects that stay; looking through them again and again takes a third of the time of imports.
gc.disable()

_checks_shapes = jaxtyping.jaxtyped
_A_SHAPE = re.compile(r"(Float|Int|UInt|Bool|Num|Shaped|Inexact|Real|Complex|Key)\d*\[|^'|\"|ForwardRef|TypeVar|~")


def _check_types(checked: Any = None, *, typechecker: Any) -> Any:
    """Check shapes where annotations speak of them, and types alone, which is far quicker, where none does.

    Binding the arguments of every call to names of axes takes time, and most functions have none.
    """
    if checked is None:
        return partial(_check_types, typechecker=typechecker)
    annotations = getattr(checked, "__annotations__", {}).values()
    if isfunction(checked) and not any(_A_SHAPE.search(repr(one)) for one in annotations):
        return typechecker(checked)
    return _checks_shapes(checked, typechecker=typechecker)


jaxtyping.jaxtyped = _check_types
_hook = jaxtyping.install_import_hook("parfocal", "beartype.beartype")

# A checkout may have test material beside it; it is never part of the project (see CONTRIBUTING.md).
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Take Ctrl-C, which a shell's background jobs ignore, and the processes that tests start and stop with them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but not looked for among what the imports have made."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides; a test that asks for it is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real slides are not here ({REAL_DATA} is absent)")
    return REAL_DATA


@pytest.fixture(scope="session")
def colon(real_data: Path) -> Path:
    """A real H&E colon section, 15,360 x 30,976 px, 0.5 mpp."""
    return real_data / "slides" / "colon-he-section.tif"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Every test begins with one thread, whatever the one before it has set: sums of floats depend on their number."""
    import torch

    torch.set_num_threads(1)
