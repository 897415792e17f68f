"""Finished steps of long work, kept so that a command which was killed does only what is missing when it is run again.

A step is found again by a digest of everything that decides its result: the numbers that go in, not the names of files.
So nothing that has changed is ever used again, and nobody has to say that something has.
"""

import hashlib
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from parfocal.errors import ParfocalWarning
from parfocal.files import remove_leftovers, writing
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.version import __version__

Result = TypeVar("Result")

_FORMAT = 4
"""Part of every key: raised when a step gives another result from the same input."""

# Large inputs take seconds to digest, and many steps share them.
_KNOWN: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()


class KnowsContent(ABC):
    """A value that is larger than memory, and says itself what decides it."""

    @property
    @abstractmethod
    def content(self) -> Sequence[Any]:
        """Whatever decides the value, as values that have a digest."""


@dataclass(frozen=True)
class StepCache:
    """A folder of finished steps.

    A result may hold None, texts, numbers, arrays, and lists, tuples and dictionaries of them; and those dataclasses
    that `kinds` names. Nothing is pickled.

    Attributes:
        folder: where results are kept, one file each; None keeps nothing.
        kinds: dataclasses that results are made of.
    """

    folder: Path | None
    kinds: tuple[type, ...] = ()

    def step(self, name: str, inputs: Sequence[Any], work: Callable[[], Result]) -> Result:
        """The result of a step: the kept one where the same was done before, else what `work` gives, which is kept.

        A file that is damaged is named, and its step is done anew.

        Args:
            name: what is done; part of the key.
            inputs: everything else that decides the result, see `content_digest`. Where it runs is no part of it.
            work: does the step.

        Raises:
            OSError: the result cannot be written, as on a full disk, or a kept one may not be read.
        """
        if self.folder is None:
            return work()
        key = content_digest(_FORMAT, __version__, name, *inputs)
        path = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())[:60]}-{key}.npz"
        if path.is_file():
            kept: Result | Failed = attempt(partial(self._read, path), passing=(PermissionError,))
            if not isinstance(kept, Failed):
                return kept
            text = f"{path} is damaged ({kept}); what it held is computed again."
            warnings.warn(text, ParfocalWarning, stacklevel=2)
        result = work()
        self._write(path, result)
        return result

    def _write(self, path: Path, result: object) -> None:
        arrays: list[np.ndarray] = []
        tree = json.dumps(_as_tree(result, arrays, self.kinds))
        remove_leftovers(path)
        with writing(path) as temporary:
            np.savez(temporary, np.array(tree), np.array(content_digest(tree, arrays)), *arrays)

    def _read(self, path: Path) -> Any:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            tree, seal, *arrays = (file[f"arr_{place}"] for place in range(len(file.files)))
            if content_digest(str(tree), arrays) != str(seal):
                raise ValueError("its content is not what was written")
        return _from_tree(json.loads(str(tree)), arrays, {kind.__name__: kind for kind in self.kinds})


def content_digest(*values: Any) -> str:
    """The first 16 hexadecimal digits of a digest of texts, numbers, arrays, and dataclasses, lists and tables of them.

    Raises:
        TypeError: a value is of another kind.
    """
    digest = hashlib.blake2b(digest_size=8)
    _update(digest, values)
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", value: Any) -> None:
    """Add a value with its type and size, so that no two different contents give one stream of bytes."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = np.asarray(value)
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    elif isinstance(value, KnowsContent):
        _update(digest, [type(value).__name__, *value.content])
    elif isinstance(value, (tuple, list)):
        digest.update(f"list {len(value)} ".encode())
        for item in value:
            _update(digest, item)
    elif isinstance(value, Mapping):
        digest.update(f"table {len(value)} ".encode())
        _update(digest, sorted(([key, item] for key, item in value.items()), key=lambda pair: repr(pair[0])))
    elif is_dataclass(value) and not isinstance(value, type):
        # One that is compared by identity is never changed, and may be large.
        is_shared = type(value).__eq__ is object.__eq__
        text = _KNOWN.get(value) if is_shared else None
        if text is None:
            text = content_digest(type(value).__name__, {one.name: getattr(value, one.name) for one in fields(value)})
        if is_shared:
            _KNOWN[value] = text
        digest.update(f"record {text} ".encode())
    elif value is None or isinstance(value, (str, bytes, bool, int, float)):
        raw = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(f"{type(value).__name__} {len(raw)} ".encode())
        digest.update(raw)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")


def _as_tree(value: Any, arrays: list[np.ndarray], kinds: tuple[type, ...]) -> Any:
    """A result as plain values of JSON; its arrays are put aside, and their places are named."""
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        arrays.append(np.asarray(value))
        return ["array" if isinstance(value, np.ndarray) else "number", len(arrays) - 1]
    if type(value) in {list, tuple}:
        return [type(value).__name__, [_as_tree(one, arrays, kinds) for one in value]]
    if isinstance(value, Mapping):
        return ["dict", [[_as_tree(one, arrays, kinds) for one in pair] for pair in value.items()]]
    if type(value) in kinds:
        values = {one.name: _as_tree(getattr(value, one.name), arrays, kinds) for one in fields(value)}
        return [f"of {type(value).__name__}", values]
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def _from_tree(tree: Any, arrays: Sequence[np.ndarray], kinds: Mapping[str, type]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, content = tree
    if kind in {"array", "number"}:
        array = arrays[content]
        return array if kind == "array" else array[()]
    if kind in {"list", "tuple"}:
        values = [_from_tree(one, arrays, kinds) for one in content]
        return values if kind == "list" else tuple(values)
    if kind == "dict":
        return {_from_tree(key, arrays, kinds): _from_tree(one, arrays, kinds) for key, one in content}
    return kinds[kind.removeprefix("of ")](**{name: _from_tree(one, arrays, kinds) for name, one in content.items()})
