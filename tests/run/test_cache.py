"""Finished steps are used again for the same numbers only, and what was killed between two goes on there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.errors import ParfocalWarning
from parfocal.heads import FoldPrediction, ProbeSettings
from parfocal.run.cache import StepCache, content_digest

SLIDES = 6


def bag(seed: int = 0) -> Bag:
    rows = np.random.default_rng(seed).standard_normal((SLIDES, 3)).astype(np.float32)
    bounds = np.arange(SLIDES + 1)
    return Bag(
        name="0.5",
        slides=tuple(f"s{n}" for n in range(SLIDES)),
        rows=rows,
        start=bounds,
        n_instances=np.ones(SLIDES, dtype=np.int64),
        mean=rows,
        region_mean=rows,
        region_start=bounds,
        region_present=np.ones(SLIDES, dtype=bool),
    )


OUTCOME = Outcome.binary(np.arange(SLIDES) % 2 == 1)
FOLDS = [Fold(0, n, np.arange(n, 6, 2), np.arange(1 - n, 6, 2), np.array([0, 1, 0])) for n in (0, 1)]


Timed = tuple[list[FoldPrediction], float]


class Fits:
    """A fit that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Timed:
        self.asked += 1
        return [FoldPrediction(np.full((3, 1), n + 1 / 3), f"choice {n}") for n in (0, 1)], self.asked / 7


def kept(
    folder: Path | None,
    name: str,
    bags: Sequence[Bag],
    outcome: Outcome,
    folds: Sequence[Fold],
    settings: ProbeSettings,
    fit: Fits,
) -> Timed:
    choices = settings.model_dump(mode="json", exclude={"device"})
    return StepCache(folder, (FoldPrediction,)).step(name, [list(bags), outcome, list(folds), choices], fit)


def test_the_same_fit_is_done_once_and_gives_back_the_same_bits_and_the_first_time(tmp_path: Path) -> None:
    fit = Fits()
    first, took = kept(tmp_path, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(), fit)
    again, later = kept(tmp_path, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(device="cuda"), fit)

    assert fit.asked == 1
    assert later == took
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.score, other.score)
        assert one.chosen == other.chosen


def test_anything_that_decides_the_predictions_asks_for_a_new_fit(tmp_path: Path) -> None:
    fit = Fits()
    base = ("mean", [bag()], OUTCOME, FOLDS, ProbeSettings())
    others = (
        ("attention", *base[1:]),
        ("mean", [bag(1)], *base[2:]),
        ("mean", [bag(), bag()], *base[2:]),
        ("mean", [bag()], Outcome.binary(np.arange(SLIDES) % 3 == 1), *base[3:]),
        ("mean", [bag()], OUTCOME, [FOLDS[0], replace(FOLDS[1], inner=np.array([1, 1, 0]))], base[4]),
        (*base[:4], ProbeSettings(seed=1)),
        (*base[:4], ProbeSettings(components=(8,))),
    )
    for one in (base, *others):
        kept(tmp_path, *one, fit)

    assert fit.asked == 1 + len(others)


def test_nothing_is_kept_without_a_folder() -> None:
    fit = Fits()
    for _ in range(2):
        kept(None, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(), fit)

    assert fit.asked == 2


def test_a_damaged_file_is_named_and_not_used(tmp_path: Path) -> None:
    kept(tmp_path, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(), Fits())
    (file,) = tmp_path.glob("*.npz")
    whole = file.read_bytes()
    fit = Fits()
    for damaged in (whole[:40], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        file.write_bytes(damaged)
        with pytest.warns(ParfocalWarning, match=f"{file.name} is damaged .*computed again"):
            again, _ = kept(tmp_path, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(), fit)
        assert np.array_equal(again[1].score, np.full((3, 1), 4 / 3))

    assert fit.asked == 3
    assert kept(tmp_path, "mean", [bag()], OUTCOME, FOLDS, ProbeSettings(), fit)[1] == 3 / 7
    assert fit.asked == 3


@dataclass(frozen=True)
class Pair:
    one: float
    many: tuple[object, ...]


def test_a_result_comes_back_as_it_was_and_nothing_is_pickled(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, (Pair,))
    result = {
        "a": Pair(float("nan"), (1, True, None, "ü", [0.1, -0.0])),
        (1, 0.5): [np.arange(6, dtype=np.float32).reshape(2, 3).T, np.array(3), np.float64(0.1), np.int8(4)],
        3: (),
        "empty": [{}, np.zeros((0, 3)), np.array(["x", "yz"])],
    }
    cache.step("all kinds", [], lambda: result)
    again = cache.step("all kinds", [], dict)

    assert repr(again) == repr(result)
    assert [one.dtype for one in again[1, 0.5]] == [one.dtype for one in result[1, 0.5]]
    with pytest.raises(TypeError, match="set cannot be kept"):
        cache.step("a set", [], lambda: {1})
    with pytest.raises(TypeError, match="cannot be kept"):
        cache.step("objects", [], lambda: np.array([{}]))
    with pytest.raises(TypeError, match="Outcome cannot be kept"):
        cache.step("another record", [], lambda: OUTCOME)


def test_digests_see_where_a_text_ends_and_of_what_type_numbers_are() -> None:
    contents = (("ab", "c"), ("a", "bc"), (["ab", "c"],), (1,), (1.0,), (True,), (np.array([1]),), (np.array([1.0]),))

    assert len({content_digest(*one) for one in contents}) == len(contents)
    with pytest.raises(TypeError, match="set"):
        content_digest({1, 2})
