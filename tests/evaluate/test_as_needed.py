"""A cohort larger than memory: slides are read as needed, a few are there at a time, and results are the same."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.bags import Bag, reading
from parfocal.cohort import Cohort, Outcome, make_splits
from parfocal.evaluate import EvaluateSettings, evaluate_arms
from parfocal.evaluate.arms import read_arm_bags, table_of_arms
from parfocal.evaluate.fitting import FitPlan, cross_validate
from parfocal.evaluate.result import TargetResult
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort
from parfocal.store import EmbeddingSet, open_set

PROBES = ProbeSettings(
    components=(4,), inner_folds=2, lifted=(3,),
)  # fmt: skip
ARMS = ("0.5/mean", "0.5/second-moment")
FEW, MANY = 12, 16
SLIDES_AT_ONCE = 8


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    root = tmp_path_factory.mktemp("store")
    drawn = StratSettings(n_slides=MANY, n_types=1, product=False, model=FeatureModel(dim=32))
    return open_set(write_cohort(draw_cohort(drawn), root))


@pytest.fixture(autouse=True)
def _one_slide_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.bags.bag._TOGETHER", 1)


def compare(
    tiles: EmbeddingSet, n_slides: int, most_bytes: int, keep: Path | None = None, only: tuple[str, ...] = ARMS
) -> TargetResult:
    slides = tiles.slides[:n_slides]
    cohort = Cohort(slides, slides, Outcome.binary(np.arange(n_slides) % 2 == 0))
    arms = table_of_arms([tiles], only=only)
    bags = read_arm_bags(arms, [tiles], slides, most_instances=64, seed=0, most_bytes=most_bytes)
    splits = make_splits(cohort, folds=2, repeats=1)
    return cross_validate(arms, bags, cohort, splits, PROBES, FitPlan(keep=keep))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many slides' vectors of a bag are in memory whenever another one is made, whoever holds them."""
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []
    make = reading._part

    def spy(*given: Any) -> Any:
        part = make(*given)
        made[:] = [one for one in made if one() is not None]
        made.append(weakref.ref(part.region_mean))
        alive.append(len(made))
        return part

    with monkeypatch.context() as patched:
        patched.setattr(reading, "_part", spy)
        gc.collect()
        yield alive


@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_as_many_slides_are_in_memory_whatever_their_number(
    tiles: EmbeddingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []
    for n_slides in (FEW, MANY):
        with counted(monkeypatch) as alive:
            compare(tiles, n_slides, most_bytes=0)
        most.append(max(alive))

    # Those that were asked for last, and the one that is being made beside the one that leaves.
    assert most[0] == most[1]
    assert most[1] <= SLIDES_AT_ONCE + 2

    with counted(monkeypatch) as alive:  # what it would be without: every slide of every bag, while they are read
        compare(tiles, MANY, most_bytes=1 << 30)
    assert max(alive) > SLIDES_AT_ONCE + 2


@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_arms_say_the_same_as_with_all_in_memory(tiles: EmbeddingSet) -> None:
    held, needed = (compare(tiles, MANY, most) for most in (1 << 30, 0))

    assert not needed.failed
    assert [run.arm.id for run in needed.runs] == [run.arm.id for run in held.runs]
    for one, other in zip(needed.runs, held.runs, strict=True):
        for said, expected in zip(one.predictions, other.predictions, strict=True):
            assert said.chosen == expected.chosen
            # Products of one slide's rows may round otherwise than those of all rows.
            np.testing.assert_allclose(said.score, expected.score, rtol=1e-3, atol=1e-4, err_msg=one.arm.id)


@pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")
def test_a_fit_that_is_kept_is_found_again(tiles: EmbeddingSet, tmp_path: Path) -> None:
    def files() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    compare(tiles, FEW, 0, tmp_path, ("0.5/mean",))
    before = files()
    compare(tiles, FEW, 0, tmp_path, ("0.5/mean",))

    assert len(before) == 1
    assert files() == before


def test_evaluate_holds_as_much_as_it_is_told(
    tiles: EmbeddingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def spy(*given: Any, **named: Any) -> dict[tuple[int, str], Bag]:
        bags = read_arm_bags(*given, **named)
        seen.extend(bag.is_held for bag in bags.values())
        return bags

    monkeypatch.setattr("parfocal.evaluate.run.read_arm_bags", spy)
    labels = tiles.path.parent / "labels.csv"
    target = labels.read_text().splitlines()[0].split(",")[-1]
    settings = EvaluateSettings(arms=("0.5/mean",), folds=2, repeats=1, probes=PROBES)
    found = [
        evaluate_arms([tiles], labels, [target], tmp_path / str(hold), settings.model_copy(update={"hold_gib": hold}))
        for hold in (1.0, 0.0)
    ]

    assert seen == [True, False]
    # It decides nothing, so nothing says it.
    assert found[0].settings == found[1].settings
    assert (tmp_path / "1.0" / "predictions.csv").read_text() == (tmp_path / "0.0" / "predictions.csv").read_text()
