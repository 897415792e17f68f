"""`python:MODULE:FUNCTION`: a function of the user's, from uint8 tiles to rows."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from parfocal.encoders.base import Symmetry, TileEncoder, check_rows, check_tiles
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.errors import EncoderError, as_problem


class FunctionEncoder(TileEncoder):
    """Wraps a function that takes tiles (tile, y, x, 3) of uint8 and gives an array (tile, dim) of numbers."""

    def __init__(self, function: Callable[[Any], Any], name: str, spec: str, tile_px: int, digest: str) -> None:
        """Find the width of a row by encoding one white tile.

        Raises:
            EncoderError: the function does not give one row for one tile.
        """
        self.name = name
        self.spec = spec
        self.tile_px = tile_px
        self.trained_mpps = None
        self.symmetry = Symmetry("unknown")
        self._function = function
        self._digest = digest
        self.dim = self._call(np.full((1, tile_px, tile_px, 3), 255, dtype=np.uint8)).shape[1]

    def describe(self) -> dict[str, Any]:
        """The function, a digest of the source of its module, and the tile side."""
        return {"encoder": self.name, "function": self.spec, "source": self._digest, "tile_px": self.tile_px}

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """What the function gives, as float32; no tile asks for no call."""
        check_tiles(self, tiles)
        if not len(tiles):
            return np.empty((0, self.dim), dtype=np.float32)
        rows = self._call(tiles)
        if rows.shape[1] != self.dim:
            raise EncoderError(f"{self.spec} gave rows of {rows.shape[1]} numbers, and of {self.dim} before.")
        return check_rows(self, rows)

    def _call(self, tiles: np.ndarray) -> np.ndarray:
        try:
            rows = np.asarray(self._function(tiles))
        except Exception as error:  # the user's own code may raise anything
            raise EncoderError(f"{self.spec} failed on {len(tiles)} tiles: {as_problem(error).rstrip('.')}.") from error
        if rows.ndim != 2 or len(rows) != len(tiles):
            raise EncoderError(
                f"{self.spec} gave an array of shape {rows.shape} for {len(tiles)} tiles; it should be "
                f"({len(tiles)}, D), one row for each tile."
            )
        return rows.astype(np.float32)


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    """The encoder of a `python:` spec; the module may also be a path that ends in `.py`.

    Raises:
        EncoderError: the module or the function cannot be found.
    """
    module_name, colon, function_name = spec.target.rpartition(":")
    if not colon or not module_name or not function_name:
        raise EncoderError(f"cannot load {spec.text}: write python:MODULE:FUNCTION or python:FILE.py:FUNCTION.")
    module = _import(module_name, spec)
    function = vars(module).get(function_name)
    if not callable(function):
        raise EncoderError(f"cannot load {spec.text}: {module_name} has no function {function_name}.")
    tile_px = spec.whole_number("tile_px") or 224
    return FunctionEncoder(function, f"python-{function_name}", spec.text, tile_px, _source_digest(module))


def _import(name: str, spec: EncoderSpec) -> ModuleType:
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise EncoderError(
                f"cannot load {spec.text}: there is no module {error.name}. "
                f"Install it, set PYTHONPATH, or name the file: python:FILE.py:FUNCTION."
            ) from error
    path = Path(name)
    found = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or found is None or found.loader is None:
        raise EncoderError(f"cannot load {spec.text}: there is no file {path}.")
    module = importlib.util.module_from_spec(found)
    # Registered as an import would do, so that the module's own dataclasses and pickles find it.
    sys.modules.setdefault(path.stem, module)
    try:
        found.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        raise EncoderError(
            f"cannot load {spec.text}: importing {path} failed: {as_problem(error).rstrip('.')}."
        ) from error
    return module


def _source_digest(module: ModuleType) -> str:
    """A digest of the module's source: another version of the function is another encoder."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


PYTHON = EncoderKind("python", _load, options={"tile_px": True}, target="name")
