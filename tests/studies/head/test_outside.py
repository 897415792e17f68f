"""What is usual is left alone, what is not is seen, and neither depends on the company."""

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.studies.head.outside import fit_habits

DIM = 24


def make_bag(rng: np.random.Generator, n_slides: int, *, regions: int = 12, name: str = "2") -> Bag:
    """Slides whose means spread over six directions, each with regions around its mean."""
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, 6)))[0]
    means = rng.normal(size=(n_slides, 6)) @ (3 * directions.T) + 0.1 * rng.normal(size=(n_slides, DIM)) + 5
    # One tile for each region, so that the mean of a slide's tiles is that of its regions.
    rows = np.repeat(means, regions, axis=0) + rng.normal(size=(n_slides * regions, DIM))
    return bag_of(rows, regions, name)


def bag_of(rows: np.ndarray, regions: int, name: str = "2") -> Bag:
    rows = rows.astype(np.float32)
    n_slides = len(rows) // regions
    bounds = np.arange(n_slides + 1) * regions
    return Bag(
        name=name,
        slides=tuple(f"s{number}" for number in range(n_slides)),
        rows=rows,
        start=bounds,
        n_instances=np.full(n_slides, regions),
        mean=rows.reshape(n_slides, regions, DIM).mean(axis=1),
        region_mean=rows,
        region_start=bounds,
        region_present=np.ones(len(rows), dtype=bool),
    )


def five_folds(n_slides: int) -> list[Fold]:
    number = np.arange(n_slides)
    folds = []
    for fold in range(5):
        train = np.flatnonzero(number % 5 != fold)
        folds.append(Fold(0, fold, train, np.flatnonzero(number % 5 == fold), np.zeros_like(train)))
    return folds


def test_new_slides_of_the_same_kind_are_rarely_outside() -> None:
    outside = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        habits = fit_habits([make_bag(rng, 60)], five_folds(60))
        new = make_bag(rng, 50)
        outside += [habits.distance([new], slide).value > habits.cut for slide in range(50)]

    # The cut is the largest of 60 distances, so one new slide in 61 lies beyond; 400 of them, not independent.
    assert np.mean(outside) < 0.05


@pytest.mark.parametrize("change", ["far", "new direction", "flat"])
def test_a_slide_of_another_kind_is_outside_and_it_is_said_where(change: str) -> None:
    rng = np.random.default_rng(0)
    habits = fit_habits([make_bag(rng, 40), make_bag(rng, 40, name="0.5")], five_folds(40))
    strange = make_bag(rng, 1, name="0.5")
    usual = make_bag(rng, 1)
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, 6)))[0]
    rows = strange.rows.astype(np.float64)
    if change == "far":
        rows += 30 * directions[:, 0]
    elif change == "new direction":
        other = np.random.default_rng(7).normal(size=DIM)
        other -= directions @ (directions.T @ other)
        rows += 8 * other / np.linalg.norm(other)
    else:
        rows = rows.mean(axis=0) + 0.05 * (rows - rows.mean(axis=0))

    found = habits.distance([usual, bag_of(rows, 12, "0.5")], 0)

    assert found.value > habits.cut
    # Small components see a new direction as the residue does, so either may be furthest.
    assert found.furthest in ({"0.5 spread"} if change == "flat" else {"0.5 mean", "0.5 residue"})


def test_the_distance_does_not_depend_on_the_other_slides() -> None:
    rng = np.random.default_rng(1)
    habits = fit_habits([make_bag(rng, 30)], five_folds(30))
    several = make_bag(rng, 3)

    assert habits.distance([several.of_slides([2])], 0) == habits.distance([several], 2)


def test_a_slide_of_few_regions_is_judged_by_its_mean_alone() -> None:
    rng = np.random.default_rng(2)
    habits = fit_habits([make_bag(rng, 30)], five_folds(30))
    tiny = make_bag(rng, 1, regions=1)

    parts = habits.bags[0].parts(tiny, 0)

    assert np.isfinite(parts[:2]).all()
    assert np.isnan(parts[2])
    assert np.isfinite(habits.distance([tiny], 0).value)


def test_slides_of_one_region_each_make_habits_without_a_spread() -> None:
    rng = np.random.default_rng(3)
    habits = fit_habits([make_bag(rng, 20, regions=1)], five_folds(20))

    assert np.isfinite(habits.cut)
    assert np.isfinite(habits.distance([make_bag(rng, 1, regions=9)], 0).value)


def test_a_slide_is_not_outside_for_being_small() -> None:
    """The mean of four regions lies further off than that of sixty, by chance alone."""
    outside: dict[int, list[bool]] = {4: [], 8: [], 60: []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        habits = fit_habits([make_bag(rng, 40, regions=60)], five_folds(40))
        for regions, found in outside.items():
            new = make_bag(rng, 40, regions=regions)
            found += [habits.distance([new], slide).value > habits.cut for slide in range(40)]

    # One new slide in 41 lies beyond the largest of 40 distances; 160 of them, not independent.
    assert all(np.mean(found) < 0.08 for found in outside.values())


def test_a_small_slide_of_another_kind_is_still_outside() -> None:
    rng = np.random.default_rng(5)
    habits = fit_habits([make_bag(rng, 40, regions=60)], five_folds(40))
    other = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, 7)))[0][:, 6]
    rows = make_bag(rng, 1, regions=8).rows.astype(np.float64)

    assert habits.distance([bag_of(rows + 6 * other, 8)], 0).value > habits.cut
