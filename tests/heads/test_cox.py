"""Hazards regressions agree with a published example and with a likelihood written down by definition."""

import numpy as np
import pytest
from scipy.optimize import minimize

from parfocal.cohort import Column
from parfocal.heads.newton import fit_cox, partial_likelihood

# Freireich et al. 1963: weeks of remission of leukaemia under 6-mercaptopurine and under placebo; + is censored.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def leukaemia() -> tuple[np.ndarray, Column]:
    times = [*TREATED.split(), *PLACEBO.split()]
    value = np.array([float(time.rstrip("+")) for time in times])
    event = np.array([not time.endswith("+") for time in times])
    return np.repeat([0.0, 1.0], 21)[:, None], Column("relapse", "cox", value, event)


def drawn(n: int = 40, seed: int = 0) -> tuple[np.ndarray, Column]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    # Rounded, so that many times are tied.
    value = np.ceil(6 * rng.exponential(np.exp(-x[:, 0]))) + 1
    return x, Column("death", "cox", value, rng.random(n) < 0.7)


def by_definition(beta: np.ndarray, x: np.ndarray, column: Column, weight: np.ndarray) -> float:
    total = 0.0
    for slide in np.flatnonzero(column.event):
        at_risk = column.value >= column.value[slide]
        total += weight[slide] * (x[slide] @ beta - np.log((weight * np.exp(x @ beta))[at_risk].sum()))
    return total


def test_the_published_coefficient_of_the_leukaemia_trial() -> None:
    x, column = leukaemia()

    found = fit_cox(x[None], column, np.ones((1, 42)), np.array([1e-9]))

    # With Breslow's ties the placebo's log hazard ratio is 1.509 (Lawless 1982; the coxph of R, ties = "breslow").
    assert found[0, 0] == pytest.approx(1.509, abs=0.001)


def test_the_likelihood_is_its_definition() -> None:
    x, column = drawn()
    beta = np.array([[0.3, -1.0, 0.5], [0.0, 2.0, 0.0]])
    weight = np.random.default_rng(1).choice([0.0, 1.0, 2.5], 40)

    found = partial_likelihood(beta @ x.T, column, weight[None])

    np.testing.assert_allclose(found, [by_definition(one, x, column, weight) for one in beta])


def test_each_problem_is_the_optimum_of_its_definition() -> None:
    x, column = drawn()
    weight, penalty = np.ones((3, 40)), np.array([0.1, 0.01, 0.01])
    weight[2, :15] = 0

    found = fit_cox(x[None], column, weight, penalty)

    for number in range(3):
        events = weight[number] @ column.event

        def loss(beta: np.ndarray, number: int = number, events: float = events) -> float:
            fit = -by_definition(beta, x, column, weight[number]) / events
            return float(fit + 0.5 * penalty[number] * (beta**2).sum())

        best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(found[number, :-1], best.x, atol=1e-4)


def test_a_case_without_weight_has_no_say_however_extreme() -> None:
    x, column = drawn()
    weight = np.ones((1, 40))
    weight[0, :3] = 0
    wild = x.copy()
    wild[:3] = 1e3

    np.testing.assert_allclose(
        fit_cox(wild[None], column, weight, np.array([0.01])),
        fit_cox(x[None], column, weight, np.array([0.01])),
        atol=1e-6,
    )


def test_without_events_nothing_is_learnt() -> None:
    x, column = drawn()
    none = Column("death", "cox", column.value, np.zeros(40, dtype=bool))

    assert not fit_cox(x[None], none, np.ones((1, 40)), np.array([0.1])).any()
