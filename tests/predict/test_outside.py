"""What is usual is left alone, what is not is seen, and neither depends on the company."""

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.predict.outside import Habits, fit_habits

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


def habits_of(bags: list[Bag], groups: list[str] | None = None) -> Habits:
    """Every slide is a patient where nothing else is said."""
    return fit_habits(bags, groups or list(bags[0].slides))


def drawn_patients(rng: np.random.Generator, n_patients: int, slides: int) -> tuple[list[Bag], list[str]]:
    """Patients with several slides that lie near each other, at two magnifications."""
    directions = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, 6)))[0]
    bags = []
    for name in ("2", "0.5"):
        own = np.repeat(rng.normal(size=(n_patients, 6)), slides, axis=0)
        own = own + 0.4 * rng.normal(size=own.shape)
        means = own @ (3 * directions.T) + 0.1 * rng.normal(size=(len(own), DIM)) + 5
        regions = 6
        bags.append(
            bag_of(np.repeat(means, regions, axis=0) + rng.normal(size=(len(own) * regions, DIM)), regions, name)
        )
    return bags, [f"p{number}" for number in range(n_patients) for _ in range(slides)]


@pytest.mark.parametrize("change", ["far", "new direction", "flat"])
def test_a_slide_of_another_kind_is_outside_and_it_is_said_where(change: str) -> None:
    rng = np.random.default_rng(0)
    habits = habits_of([make_bag(rng, 40), make_bag(rng, 40, name="0.5")])
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

    assert found.value > habits.limit.cut
    # Small components see a new direction as the residue does, so either may be furthest.
    assert found.furthest in ({"0.5 spread"} if change == "flat" else {"0.5 mean", "0.5 residue"})


def test_the_distance_does_not_depend_on_the_other_slides() -> None:
    rng = np.random.default_rng(1)
    habits = habits_of([make_bag(rng, 30)])
    several = make_bag(rng, 3)

    assert habits.distance([several.of_slides([2])], 0) == habits.distance([several], 2)


def test_a_slide_of_few_regions_is_judged_by_its_mean_alone() -> None:
    rng = np.random.default_rng(2)
    habits = habits_of([make_bag(rng, 30)])
    tiny = make_bag(rng, 1, regions=1)

    parts = habits.bags[0].parts(tiny, 0)

    assert np.isfinite(parts[:2]).all()
    assert np.isnan(parts[2])
    assert np.isfinite(habits.distance([tiny], 0).value)


def test_slides_of_one_region_each_make_habits_without_a_spread() -> None:
    rng = np.random.default_rng(3)
    habits = habits_of([make_bag(rng, 20, regions=1)])

    assert np.isfinite(habits.limit.cut)
    assert np.isfinite(habits.distance([make_bag(rng, 1, regions=9)], 0).value)


def test_a_slide_is_not_outside_for_being_small() -> None:
    """The mean of four regions lies further off than that of sixty, by chance alone."""
    outside: dict[int, list[bool]] = {4: [], 8: [], 60: []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        habits = habits_of([make_bag(rng, 40, regions=60)])
        for regions, found in outside.items():
            new = make_bag(rng, 40, regions=regions)
            found += [habits.distance([new], slide).value > habits.limit.cut for slide in range(40)]

    # One new slide in 41 lies beyond the largest of 40 distances; 160 of them, not independent.
    assert all(np.mean(found) < 0.08 for found in outside.values())


def test_a_small_slide_of_another_kind_is_still_outside() -> None:
    rng = np.random.default_rng(5)
    habits = habits_of([make_bag(rng, 40, regions=60)])
    other = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, 7)))[0][:, 6]
    rows = make_bag(rng, 1, regions=8).rows.astype(np.float64)

    assert habits.distance([bag_of(rows + 6 * other, 8)], 0).value > habits.limit.cut
