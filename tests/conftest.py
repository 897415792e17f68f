"""Shared by all tests: shapes are checked at every call, torch keeps to one thread, and where the real slides lie."""

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import partial, wraps
from inspect import isclass, isfunction, isgeneratorfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

# Tests run in several processes, and threads that wait for each other make small matrix products ten times slower (85 s
# to 14 s for the cohorts in feature space). A plugin has loaded numpy already, so its pool is told; libraries that are
# loaded later, and child processes, read the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
threadpool_limits(1)

# Memory that was freed stays with the processes that start from here on: to get the pages of large arrays anew takes up
# to a tenth of the time of a test. A test that is about memory starts its process without these.
os.environ |= {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}

# Where Lightning is loaded, torch looks for a GPU's driver at every step of an optimiser, for a third of the step.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# How long an example may take says how busy the machine is, and nothing of the code.
settings.register_profile("parfocal", deadline=None)
settings.load_profile("parfocal")

# A flush to the disk guards against a power cut, which no test makes; it takes as long as the work between two of them.
os.fsync = lambda file: None  # type: ignore[assignment]

# What is compiled is kept, whatever the environment says: compiling is a third of an import that is checked, and tests
# start many processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Imports make nearly all objects that stay; looking through them again and again takes a third of the time of imports.
gc.disable()

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_checks_shapes = jaxtyping.jaxtyped
_IN_WORDS = re.compile(r"^'|\"|ForwardRef|TypeVar|~")
_A_SHAPE = re.compile(r"(Float|Int|UInt|Bool|Num|Shaped|Inexact|Real|Complex|Key)\d*\[")

# A few functions that are called for every tile or step make nearly all calls, and checking all of these took a quarter
# of the tests' time: in each test a function's first calls are checked, and one of so many that follow.
_CHECKED_FIRST, _CHECKED_THEN = 16, 32
_test_number = 0


def _check_types(checked: Any = None, *, typechecker: Any) -> Any:
    """Check shapes where annotations speak of them; types alone are mypy's.

    Arguments and result are checked once, and the axes that they name belong to that one call. What jaxtyping makes of
    a function checks arguments twice and binds all of them to names first, for longer messages, which takes
    longer; it is left to annotations in words, which it can read, and to generators. Functions inside functions are not
    checked: they are made, and their checks would be compiled, at each call of those around them.
    """
    if checked is None:
        return partial(_check_types, typechecker=typechecker)
    if isclass(checked) and is_dataclass(checked) and "__init__" in vars(checked):
        checked.__init__ = _check_types(checked.__init__, typechecker=typechecker)  # type: ignore[misc]
        return checked
    if not isfunction(checked):
        return _checks_shapes(checked, typechecker=typechecker)
    if "<locals>" in checked.__qualname__ and checked.__name__ != "__init__":
        return checked
    annotations = [repr(one) for one in checked.__annotations__.values()]
    in_words = any(map(_IN_WORDS.search, annotations))
    if not in_words and not any(map(_A_SHAPE.search, annotations)):
        return checked
    if isgeneratorfunction(checked):
        return _checks_shapes(checked, typechecker=typechecker)
    every_call = _checks_shapes(checked, typechecker=typechecker) if in_words else _with_axes(checked, typechecker)
    return _sampled(checked, every_call)


def _with_axes(checked: Any, typechecker: Any) -> Any:
    inner = typechecker(checked)

    @wraps(checked)
    def with_axes(*given: Any, **named: Any) -> Any:
        with _checks_shapes("context"):
            return inner(*given, **named)

    return with_axes


def _sampled(unchecked: Any, every_call: Any) -> Any:
    test, calls = _test_number, 0

    @wraps(unchecked)
    def sampled(*given: Any, **named: Any) -> Any:
        nonlocal test, calls
        test, calls = _test_number, calls + 1 if test == _test_number else 1
        if calls > _CHECKED_FIRST and calls % _CHECKED_THEN:
            return unchecked(*given, **named)
        return every_call(*given, **named)

    return sampled


jaxtyping.jaxtyped = _check_types
_hook = jaxtyping.install_import_hook("parfocal", "beartype.beartype")

# A checkout may have test material beside it; it is never part of the project (see CONTRIBUTING.md).
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    """Take Ctrl-C, which a shell's background jobs ignore, and the processes that tests start and stop with them.

    What is spawned in this process comes from a server of the libraries, which begins with the variables of now.
    """
    from .run.fresh import ZYGOTE

    ZYGOTE.serve_spawn()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    """The server ends with the tests."""
    from .run.fresh import ZYGOTE

    ZYGOTE.end()


def pytest_runtest_setup() -> None:
    """Each test begins with checking all calls."""
    global _test_number
    _test_number += 1


def pytest_collection_finish() -> None:
    """From here on garbage is collected, but not looked for among what the imports have made."""
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


@pytest.fixture
def interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process spawns begins as with a user: as an interpreter that imports all that it needs."""
    from .run.fresh import START_INTERPRETER

    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", START_INTERPRETER)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium as the machine has it; none is downloaded, and without one the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `test`)")
    program = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed ({', '.join(_BROWSERS)}): apt-get install chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
