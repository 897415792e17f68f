"""Names of before the house was rebuilt: each still works, says what it is called now, and goes with version 0.3.

Three kinds: modules that moved, functions that have another name, and functions whose name is that of a folder now.
"""

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

from parfocal.errors import ParfocalDeprecationWarning

_GOES_WITH = "0.3"

# A module of before, and where its names are now.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "embeddings": ("store", "embed", "run"),
    "probes": ("heads",),
    "synthetic": ("lab.synthetic",),
    "tiles": ("regions.tiles",),
    "report.statistics": ("stats",),
    "studies": ("study", "evaluate", "predict", "lab.synergy.run", "lab.prove.run", "lab.explore", "lab.demo"),
    "studies.chain": ("study",),
    "studies.evaluation": ("evaluate",),
    "studies.exploration": ("lab.explore",),
    "studies.head": ("predict",),
    "studies.pairing": ("lab.synergy",),
    "studies.proof": ("lab.prove",),
}

# A function of before, and its name in `parfocal` now.
_FUNCTIONS = {
    "demo": "run_demo",
    "evaluate": "evaluate_arms",
    "explore": "explore_designs",
    "fit": "fit_head",
    "predict": "predict_slides",
    "pretrain": "pretrain_encoder",
    "prove": "prove_encoder",
    "represent": "represent_regions",
    "study": "run_study",
    "synergy": "measure_synergy",
}


def former_name(name: str, where: str = "parfocal") -> Any:
    """The function that `name` was called in a module.

    Raises:
        AttributeError: nothing was called so.
    """
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {where!r} has no attribute {name!r}")
    _warn(f"{where}.{name}", (f"parfocal.{_FUNCTIONS[name]}",))
    return getattr(importlib.import_module("parfocal"), _FUNCTIONS[name])


def call_as(module: str, function: str) -> None:
    """Let a folder that has the name of a function of before be called as that function."""

    class CallableFolder(ModuleType):
        """The folder, which can be called too."""

        def __call__(self, *args: Any, **options: Any) -> Any:
            return former_name(function)(*args, **options)

    sys.modules[module].__class__ = CallableFolder


def watch_imports() -> None:
    """Let `import` find the modules of before."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _warn(former: str, now: Sequence[str]) -> None:
    warnings.warn(
        f"{former} is now {' and '.join(now)}; the former name goes with version {_GOES_WITH}.",
        ParfocalDeprecationWarning,
        stacklevel=3,
    )


class _Finder(MetaPathFinder, Loader):
    """Asked after all others, so it sees only names that no file has."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self, is_package=True) if _homes(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        homes = _homes(module.__name__)
        _warn(module.__name__, homes)

        def get(name: str) -> Any:
            for home in () if name.startswith("__") else homes:
                value = getattr(importlib.import_module(home), name, None)
                if value is not None and not isinstance(value, ModuleType):
                    return value
            return former_name(name, module.__name__)

        vars(module)["__getattr__"] = get


def _homes(name: str) -> tuple[str, ...]:
    """Where the names of a module of before are now; a module below a moved one is below its new place."""
    top, _, rest = name.partition(".")
    parts = rest.split(".")
    for n in range(len(parts), 0, -1):
        homes = _MODULES.get(".".join(parts[:n]), ()) if top == "parfocal" else ()
        if homes and n == len(parts):
            return tuple(f"parfocal.{home}" for home in homes)
        below = [f"parfocal.{home}.{'.'.join(parts[n:])}" for home in homes]
        there = tuple(home for home in below if _exists(home))
        if there:
            return there
    return ()


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
