"""`python:MODULE:FUNCTION`: a function of the user's, from uint8 tiles (tile, y, x, 3) to an array (tile, dim)."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

from parfocal.encoders.base import CalledEncoder, TileEncoder
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.errors import EncoderError, as_problem


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
    description = {"function": spec.text, "source": _source_digest(module)}
    tile_px = spec.whole_number("tile_px") or 224
    return CalledEncoder(function, f"python-{function_name}", spec.text, tile_px, description)


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
