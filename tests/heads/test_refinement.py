"""Six numbers are the optimum of their loss, and sharpened directions are those along which rows fall into groups."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.cohort import Column
from parfocal.heads.contrast.refinement import Along, Squash, fit_squash, sharpen


def drawn(n: int = 60, per: int = 9, seed: int = 0) -> tuple[Along, np.ndarray]:
    """Two states a and c of each region, seen with noise; in the first half of the slides they are mostly the same."""
    rng = np.random.default_rng(seed)
    same = np.arange(n) < n // 2
    a = rng.choice([-1.0, 1.0], n * per)
    agree = rng.random(n * per) < np.where(np.repeat(same, per), 0.7, 0.3)
    c = np.where(agree, a, -a)
    first, second = (1.5 * one + rng.standard_normal(n * per) for one in (a, c))
    return Along(first, second, np.repeat(np.arange(n), per), np.full(n, per + 1.0)), same


COLUMNS = {
    "logistic": lambda same, rng: Column("y", "logistic", same.astype(float), np.ones(len(same), dtype=bool)),
    "linear": lambda same, rng: Column(
        "y", "linear", 70 + 9.0 * same + rng.standard_normal(len(same)), np.ones(len(same), dtype=bool)
    ),
    "cox": lambda same, rng: Column(
        "y", "cox", rng.exponential(np.where(same, 0.3, 1.0)) + 0.01, rng.random(len(same)) < 0.8
    ),
}


@pytest.mark.parametrize("family", COLUMNS)
def test_the_score_rises_with_the_outcome_of_every_family(family: str) -> None:
    along, same = drawn()
    column = COLUMNS[family](same, np.random.default_rng(1))

    found = fit_squash(along, column, np.ones(60))
    score = found.score(along)

    assert found.weight > 0
    assert score[same].mean() > score[~same].mean() + score[~same].std()
    if family == "linear":
        assert np.abs(score + found.intercept - column.value).mean() < np.abs(column.value - column.value.mean()).mean()


@pytest.mark.parametrize("family", COLUMNS)
def test_no_small_change_of_the_numbers_lowers_the_loss(family: str) -> None:
    along, same = drawn(n=600, per=6)
    column = COLUMNS[family](same, np.random.default_rng(1))
    found = fit_squash(along, column, np.ones(600))

    def loss(squash: Squash) -> float:
        score = squash.score(along) + squash.intercept
        if family == "logistic":
            return float((np.logaddexp(0, score) - score * column.value).mean())
        if family == "linear":
            return float(((score - column.value) ** 2).mean() / column.value.var() / 2)
        risk = [np.log(np.exp(score)[column.value >= time].sum()) for time in column.value]
        return float(((risk - score) * column.event).sum() / column.event.sum())

    best = loss(found)
    for step in (0.9, 1.1):
        others = [
            replace(found, weight=step * found.weight),
            replace(found, steepness=(step * found.steepness[0], found.steepness[1])),
            replace(found, steepness=(found.steepness[0], step * found.steepness[1])),
            replace(found, shift=(found.shift[0] + step - 1, found.shift[1])),
        ]
        # The prior on the numbers lets the plain loss lie a little off its own optimum.
        assert all(loss(other) > best - 1e-3 for other in others)


def test_regions_of_some_slides_are_theirs() -> None:
    along, _ = drawn(n=6, per=3)
    some = along.of(np.array([1, 4]))

    np.testing.assert_array_equal(some.first, np.concatenate([along.first[3:6], along.first[12:15]]))
    np.testing.assert_allclose(some.mean(some.first), along.mean(along.first)[[1, 4]])


def test_a_noisy_start_is_drawn_to_the_direction_with_two_groups() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 12))
    rows[:, 3] += 3 * (rng.random(4000) < 0.5)
    rows = ((rows - rows.mean(axis=0)) / rows.std(axis=0)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    truth = turn[3]
    start = truth[:, None] * 0.6 + np.linalg.qr(np.column_stack([truth, rng.standard_normal(12)]))[0][:, 1:] * 0.8

    found = sharpen((rows @ turn).astype(np.float32), start, 0)
    turned_round = sharpen((rows @ turn).astype(np.float32), -start, 0)

    assert found[:, 0] @ truth > 0.98
    np.testing.assert_allclose(turned_round, -found, atol=1e-6)
