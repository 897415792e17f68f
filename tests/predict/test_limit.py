"""The cut holds the rate of false alarms that it states, counted by patients, and never states one it cannot hold."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.predict.outside import Limit, furthest_of_each

from .test_outside import drawn_patients, habits_of


@pytest.mark.parametrize(
    ("n", "asked", "rate", "beyond"),
    [
        (8, 0.05, 1 / 9, 0),  # eight patients hold 1 in 9 and nothing less
        (19, 0.05, 1 / 20, 0),
        (20, 0.05, 1 / 21, 0),
        (39, 0.05, 2 / 40, 1),
        (100, 0.05, 5 / 101, 4),
        (100, 0.01, 1 / 101, 0),
        (99, 0.01, 1 / 100, 0),
    ],
)
def test_the_rate_is_one_that_so_many_patients_can_hold(n: int, asked: float, rate: float, beyond: int) -> None:
    limit = Limit(np.arange(n, dtype=float), asked)

    assert limit.rate == pytest.approx(rate)
    assert int((limit.patients > limit.cut).sum()) == beyond
    assert f"{1 / (n + 1):.2g}, 1 in {n + 1}" in limit.sentence()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=40), st.floats(0.01, 0.9), st.integers(-1, 10))
def test_outside_is_what_has_a_rank_within_the_rate(distances: list[int], asked: float, new: int) -> None:
    limit = Limit(np.sort(np.array(distances, dtype=float)), asked)
    rank = limit.rank(float(new))
    assert rank is not None

    assert (new > limit.cut) == (rank / (limit.n + 1) <= limit.rate + 1e-12)
    assert limit.rate >= 1 / (limit.n + 1) - 1e-12
    assert limit.rate <= max(asked, 1 / (limit.n + 1)) + 1e-9


@settings(max_examples=40)
@given(st.integers(3, 30), st.floats(0.02, 0.5))
def test_every_rank_is_equally_likely_so_the_rate_is_exact(n: int, asked: float) -> None:
    """Of n + 1 patients let each in turn be the new one: as many as the rate says are beyond the cut of the others."""
    values = np.random.default_rng(n).permutation(n + 1).astype(float)

    alarms = [values[new] > Limit(np.sort(np.delete(values, new)), asked).cut for new in range(n + 1)]

    rate = Limit(np.arange(n, dtype=float), asked).rate
    assert np.mean(alarms) == pytest.approx(rate)


def test_a_patient_is_as_far_as_its_furthest_slide() -> None:
    np.testing.assert_array_equal(furthest_of_each([1.0, 5.0, 2.0, 3.0], ["b", "a", "a", "b"]), [3.0, 5.0])


def test_a_head_of_which_only_a_cut_is_known_says_so() -> None:
    limit = Limit(np.array([2.5]), None)

    assert limit.cut == 2.5
    assert limit.rank(3.0) is None
    assert np.isnan(limit.smallest_rate)
    assert "not known" in limit.sentence()


@pytest.mark.parametrize(("n", "slides"), [(8, 1), (8, 5), (20, 3)])
def test_new_patients_are_called_outside_as_often_as_is_said(n: int, slides: int) -> None:
    """A patient's slides lie together, and every magnification asks three questions: neither may add alarms."""
    alarms, rates = list[float](), list[float]()
    for seed in range(16):
        rng = np.random.default_rng([seed, n, slides])
        bags, groups = drawn_patients(rng, n, slides)
        habits = habits_of(bags, groups)
        new, whose = drawn_patients(rng, 20, slides)
        beyond = [habits.distance(new, slide).value > habits.limit.cut for slide in range(len(whose))]
        alarms.append(_any_of_each(beyond, whose))
        rates.append(habits.limit.rate)

    # Sixteen cohorts, whose cuts differ: the mean is known to two standard errors.
    error = 2 * np.std(alarms, ddof=1) / np.sqrt(len(alarms))
    assert np.mean(alarms) <= np.mean(rates) + error
    assert np.mean(alarms) >= 0.1 * np.mean(rates)  # a flag that is never raised says nothing


def _any_of_each(beyond: Sequence[bool], groups: Sequence[str]) -> float:
    return float(
        np.mean([any(b for b, group in zip(beyond, groups, strict=True) if group == one) for one in {*groups}])
    )
