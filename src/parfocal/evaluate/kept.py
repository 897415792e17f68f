"""Predictions of an arm that is finished, kept so that a run which is killed later need not fit it again."""

import hashlib
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.errors import StoreError
from parfocal.files import canonical_json, check_permission, writing
from parfocal.heads import FoldPrediction, ProbeSettings
from parfocal.version import __version__

__all__ = ["content_digest", "kept_predictions"]

_FORMAT = 3
"""Part of the key: raised when a probe gives other predictions from the same input."""

# The bags of a large cohort take seconds to digest, and many arms share them.
_BAGS: "WeakKeyDictionary[Bag, bytes]" = WeakKeyDictionary()


def kept_predictions(
    folder: Path | None,
    pool: str,
    bags: Sequence[Bag],
    outcome: Outcome,
    folds: Sequence[Fold],
    settings: ProbeSettings,
    fit: Callable[[], list[FoldPrediction]],
) -> tuple[list[FoldPrediction], float]:
    """Predictions and the seconds they took: from the folder where the same was fitted before, else by fitting.

    The key is a digest of everything that decides the predictions: the numbers in the bags themselves, not the names
    of files, so that nothing that has changed is ever used again.

    Args:
        folder: where predictions are kept; None only fits.
        pool: what names the probe, and what it reads beside bags.
        bags: what is pooled.
        outcome: the label of every slide of the bags.
        folds: who is fitted on, chosen on and tested.
        settings: what the probe chooses among.
        fit: gives one prediction for each fold.

    Raises:
        StoreError: a kept file is damaged.
    """
    if folder is None:
        return _timed(fit)
    choices = settings.model_dump(mode="json", exclude={"device"})
    digests = [_bag_digest(bag) for bag in bags]
    key = content_digest(_FORMAT, __version__, pool, digests, outcome, list(folds), canonical_json(choices))
    path = folder / f"{key}.npz"
    if path.is_file():
        found, took = _read(path)
        # Scores that are not finite are no result of anything: the fit is tried again.
        if all(np.isfinite(one.score).all() for one in found):
            return found, took
    predictions, seconds = _timed(fit)
    with writing(path) as temporary:
        np.savez(
            temporary,
            score=np.concatenate([one.score for one in predictions]),
            slides=np.array([len(one.score) for one in predictions]),
            chosen=np.array([one.chosen for one in predictions]),
            seconds=np.array(seconds),
        )
    return predictions, seconds


def content_digest(*values: Any) -> str:
    """The first 16 hexadecimal digits of a digest of texts, numbers, arrays, and dataclasses and lists of them.

    Raises:
        TypeError: a value is of another kind.
    """
    digest = hashlib.blake2b(digest_size=8)
    _update(digest, values)
    return digest.hexdigest()


def _timed(fit: Callable[[], list[FoldPrediction]]) -> tuple[list[FoldPrediction], float]:
    started = time.monotonic()
    return fit(), time.monotonic() - started


def _bag_digest(bag: Bag) -> bytes:
    found = _BAGS.get(bag)
    if found is None:
        found = _BAGS[bag] = content_digest(bag).encode()
    return found


def _update(digest: "hashlib.blake2b", value: Any) -> None:
    """Add a value with its type and size, so that no two different contents give one stream of bytes."""
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    elif isinstance(value, (tuple, list)):
        digest.update(f"list {len(value)} ".encode())
        for one in value:
            _update(digest, one)
    elif is_dataclass(value) and not isinstance(value, type):
        digest.update(f"{type(value).__name__} ".encode())
        for field in fields(value):
            digest.update(f"{field.name} ".encode())
            _update(digest, getattr(value, field.name))
    elif value is None or isinstance(value, (str, bytes, bool, int, float)):
        raw = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(f"{type(value).__name__} {len(raw)} ".encode())
        digest.update(raw)
    else:
        raise TypeError(f"a {type(value).__name__} has no digest")


def _read(path: Path) -> tuple[list[FoldPrediction], float]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            bounds = np.cumsum(file["slides"])[:-1]
            scores, chosen = np.split(file["score"], bounds), file["chosen"].tolist()
            seconds = float(file["seconds"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        check_permission(error, path)
        raise StoreError(
            f"cannot read {path}: it is damaged ({error}). Remove it, and the arm is fitted again."
        ) from error
    return [FoldPrediction(score, text) for score, text in zip(scores, chosen, strict=True)], seconds
