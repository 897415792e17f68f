"""The cross-fitted test: its regression, what it finds, and what the permutation test finds and it must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from parfocal.lab.synergy.crossfit import cross_fitted_test, residual_basis, robust_slope
from parfocal.lab.synergy.moments import PairMoments
from parfocal.lab.synergy.permutation import draw_permutations, pairing_test, residuals_of

K = 6


def moments(rng: np.random.Generator, spread: np.ndarray, planted: np.ndarray | float = 0.0) -> PairMoments:
    """Noise of a spread for each unit, and a pair of directions that is planted into the cross-moment."""
    cross, first, second = spread[:, None, None] * rng.standard_normal((3, len(spread), K, K))
    cross[:, 0, 1] += planted
    return PairMoments((2.0, 0.5), cross, first + np.eye(K), second + np.eye(K))


@given(st.integers(0, 2**31), st.integers(12, 60), st.integers(0, 4))
@settings(max_examples=40)
def test_the_slope_is_that_of_least_squares_with_hc3_errors(seed: int, n: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    label = (rng.permutation(n) < n // 3).astype(float)
    covariates = np.column_stack([np.ones(n), rng.standard_normal((n, q))])
    score = rng.standard_normal(n) * (1 + 2 * label) + 0.3 * label

    # Independently, by the full design: (X'X)^-1 X' diag(e^2 / (1 - h)^2) X (X'X)^-1.
    x = np.column_stack([covariates, label])
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ score
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    weight = ((score - x @ beta) / (1 - leverage)) ** 2
    error = np.sqrt((inverse @ (x.T * weight) @ x @ inverse)[-1, -1])
    expected = stats.t.sf(beta[-1] / error, n - x.shape[1])
    assert robust_slope(score, label, covariates) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_label_that_the_covariates_know_is_no_evidence() -> None:
    label = (np.arange(20) % 2).astype(float)
    score = label + 0.1 * np.random.default_rng(0).standard_normal(20)

    assert robust_slope(score, label, np.column_stack([np.ones(20), label])) == 1.0
    assert robust_slope(score, label, np.ones((20, 1))) < 1e-6


def test_pairing_is_found_in_patients_that_did_not_choose_the_directions() -> None:
    rng = np.random.default_rng(1)
    label = (np.arange(80) % 2).astype(float)
    found = cross_fitted_test([moments(rng, np.ones(80), 1.2 * label)], np.ones((80, 1)), label, [3, K], rng)

    assert found.p_value < 0.01
    assert found.p_value == sorted(found.of_splits)[2]


def test_a_factor_that_one_magnification_reads_another_way_with_the_label_is_not_called_pairing() -> None:
    label = (np.arange(80) % 2).astype(float)
    turned, paired = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        # A factor that both share lies along the first component at the coarse magnification; at the fine one it is
        # turned from the first towards the second, one way in one class and the other way in the other.
        factor, a, b = rng.standard_normal((80, 60)), *rng.standard_normal((2, 80, 60, K))
        angle = 0.3 * (2 * label - 1)
        a[:, :, 0] += 1.5 * factor
        b[:, :, 0] += 1.5 * np.cos(angle)[:, None] * factor
        b[:, :, 1] += 1.5 * np.sin(angle)[:, None] * factor
        a, b = a / np.sqrt((a**2).mean(axis=(0, 1))), b / np.sqrt((b**2).mean(axis=(0, 1)))
        cross, first, second = (np.einsum("ira,irb->iab", x, y) / 60 for x, y in ((a, b), (a, a), (b, b)))
        for found, moments_of in ((turned, cross), (paired, cross.copy())):
            if found is paired:  # two other components, together in one class and more than the turn does
                moments_of += 0.8 * label[:, None, None] * np.outer(np.eye(K)[3], np.eye(K)[4])
            pair = PairMoments((2.0, 0.5), moments_of, first, second)
            found.append(cross_fitted_test([pair], np.ones((80, 1)), label, [K], rng).p_value)

    assert np.sum(np.array(turned) <= 0.05) <= 2  # at a true rate of .05 more have a probability of .02
    assert np.sum(np.array(paired) <= 0.05) >= 8


def test_noise_that_goes_with_the_label_is_not_called_pairing() -> None:
    permuted, crossed = [], []
    label = (np.arange(60) % 5 == 0).astype(float)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pair = moments(rng, 1 + 2 * label)  # the rarer class is noisier
        basis = residual_basis(np.ones((60, 1)))
        orders = draw_permutations(99, None, 59, rng)
        permuted.append(pairing_test([residuals_of(pair, basis)], basis.columns.T @ label, orders, [K]).p_value)
        crossed.append(cross_fitted_test([pair], np.ones((60, 1)), label, [K], rng).p_value)

    assert np.mean(np.array(permuted) <= 0.05) > 0.5
    # At a true rate of .05 more than 6 of 40 have a probability of .003; the seeds are fixed.
    assert np.sum(np.array(crossed) <= 0.05) <= 6


def test_copies_do_not_teach_each_other_the_answer() -> None:
    label = np.repeat((np.arange(20) % 2).astype(float), 3)
    apart, together = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        one = moments(rng, np.ones(20))
        pair = PairMoments(one.mpps, *(np.repeat(m, 3, axis=0) for m in (one.cross, one.first, one.second)))
        units = np.repeat(np.arange(20), 3)
        for found, known in ((apart, None), (together, units)):
            test = cross_fitted_test([pair], np.ones((60, 1)), label, [K], np.random.default_rng(seed), together=known)
            found.append(test.p_value)

    assert np.median(apart) < 0.15  # half of them would be below .5 if the copies taught nothing
    assert np.median(together) > 0.3
