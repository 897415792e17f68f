"""Ceilings against quoted values, against simulation, and against a second way of counting."""

import math
from itertools import combinations

import numpy as np
import pytest

from parfocal.lab.synthetic import ceilings
from parfocal.lab.synthetic.design import deal_pairing
from parfocal.stats.auc import auc


@pytest.mark.parametrize(("separation", "quoted"), [(1, 0.204), (1.5, 0.381), (2, 0.550), (3, 0.803), (4, 0.931)])
def test_reliability_is_the_quoted_one_and_that_of_simulated_posteriors(separation: float, quoted: float) -> None:
    eta = ceilings.reliability(float(separation))

    assert eta == pytest.approx(quoted, abs=6e-4)
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], 100_000)
    posterior = np.tanh(separation * (separation / 2 * sign + rng.standard_normal(100_000)) / 2)
    assert eta == pytest.approx(float((posterior**2).mean()), abs=0.006)  # four standard errors


def reliability_of_few_tiles(n_informative: int, shift: float, *, n_samples: int = 60_000, seed: int = 0) -> float:
    """The reliability where the evidence for C=1 is a shift of `shift` sd in an unknown few of a region's 16 tiles.

    The likelihood ratio is exact; its mean has no closed form and is taken over `n_samples` draws.
    """
    rng = np.random.default_rng(seed)
    total = 0.0
    for present in (False, True):
        y = rng.standard_normal((n_samples // 2, 16))
        # Which tiles carry the shift is unknown to the observer only, so they may be the first.
        y[:, :n_informative] += shift * present
        ratio = ceilings.few_tiles_ratio(y, n_informative, shift)
        total += float((((ratio - 1) / (ratio + 1)) ** 2).mean())
    return total / 2


@pytest.mark.parametrize(
    ("n_informative", "shift", "quoted"), [(1, 2, 0.18), (1, 3, 0.49), (1, 4, 0.78), (4, 1.5, 0.50), (16, 0.5, 0.55)]
)
def test_reliability_of_few_tiles_is_the_quoted_one(n_informative: int, shift: float, quoted: float) -> None:
    eta = reliability_of_few_tiles(n_informative, float(shift))

    assert eta == pytest.approx(quoted, abs=0.012)  # quoted with two decimals; standard error .002


def test_all_tiles_informative_is_one_gaussian_observation() -> None:
    few = reliability_of_few_tiles(16, 0.75)

    assert few == pytest.approx(ceilings.reliability(3.0), abs=0.008)


def test_few_tiles_ratio_sums_over_all_subsets() -> None:
    y = np.random.default_rng(0).standard_normal((5, 6))

    single = np.exp(1.3 * y - 1.3**2 / 2)
    brute = np.mean([single[:, list(chosen)].prod(axis=1) for chosen in combinations(range(6), 3)], axis=0)
    np.testing.assert_allclose(ceilings.few_tiles_ratio(y, 3, 1.3), brute, rtol=1e-12)


def _iid_evidence(
    rho: float, n_regions: int, separations: tuple[float, float], n_slides: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior means of both signs, (slide, region), and the label."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n_slides) % 2 == 0
    a = rng.choice([-1.0, 1.0], (n_slides, n_regions))
    agree = rng.random((n_slides, n_regions)) < (1 + np.where(positive, rho, -rho)[:, None]) / 2
    signs = (a, np.where(agree, a, -a))
    m = [
        sign if math.isinf(d) else np.tanh(d * (d / 2 * sign + rng.standard_normal(sign.shape)) / 2)
        for sign, d in zip(signs, separations, strict=True)
    ]
    return m[0], m[1], positive


@pytest.mark.parametrize(
    ("rho", "n_regions", "separation", "late", "mixed"),
    [(0.2, 64, math.inf, 0.600, 0.9882), (0.2, 64, 2.0, 0.555, 0.8935), (0.4, 32, 2.0, 0.610, 0.9609)],
)
def test_iid_ceilings_are_those_of_the_likelihood_ratio(
    rho: float, n_regions: int, separation: float, late: float, mixed: float
) -> None:
    eta = 1.0 if math.isinf(separation) else ceilings.reliability(separation)
    assert ceilings.iid_late_auc(rho, eta, eta) == pytest.approx(late, abs=1e-3)
    assert ceilings.iid_mixed_auc(rho, n_regions, eta, eta) == pytest.approx(mixed, abs=1e-3)

    m_a, m_c, positive = _iid_evidence(rho, n_regions, (separation, separation), 20_000, seed=1)
    ratio = np.log((1 + rho * m_a * m_c) / (1 - rho * m_a * m_c)).sum(axis=1)
    assert auc(positive, ratio) == pytest.approx(mixed, abs=0.008)  # the formula is for many regions; se .002
    # Late fusion's leading statistic: the product of the two sums.
    assert auc(positive, m_a.sum(axis=1) * m_c.sum(axis=1)) == pytest.approx(late, abs=0.015)  # se .004


def test_iid_recipe_with_main_effects() -> None:
    n_regions, tau_a, tau_c, kappa = 96, 0.0139, 0.0189, 0.0199
    coarse = ceilings.iid_single_auc(tau_a, 0.5, n_regions)
    fine = ceilings.iid_single_auc(tau_c, 0.5, n_regions)

    assert (round(coarse, 2), round(fine, 2)) == (0.65, 0.70)
    assert ceilings.mixed_auc_of_main_effects(coarse, fine, 4 * kappa, n_regions) == pytest.approx(0.90, abs=0.005)
    # Exact late fusion, pairing included: a little above what the main effects alone give.
    exact = ceilings.iid_late_auc_exact(0.5, 0.5, tau_a, tau_c, kappa, n_regions)
    assert exact == pytest.approx(0.7441, abs=5e-4)
    assert ceilings.late_auc_of_main_effects(coarse, fine) == pytest.approx(0.744, abs=0.005)


def test_exact_late_auc_tends_to_the_closed_form() -> None:
    exact = ceilings.iid_late_auc_exact(0.5, 0.5, 0.0, 0.0, 0.05, 64)  # rho = .2

    assert exact == pytest.approx(ceilings.iid_late_auc(0.2), abs=0.01)


def test_an_impossible_coupling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kappa=0\.3 is too large"):
        ceilings.iid_cell_law(0.1, 0.5, 0.0, 0.0, 0.3, positive=True)


@pytest.mark.parametrize(("omega", "quoted"), [(1.25, 0.748), (1.5, 0.888), (2.0, 0.981), (3.0, 0.9995)])
def test_strat_ceiling_is_the_quoted_one(omega: float, quoted: float) -> None:
    assert ceilings.strat_perfect_auc(omega) == pytest.approx(quoted, abs=6e-4)


@pytest.mark.parametrize(("omega", "quoted"), [(1.25, 0.736), (1.5, 0.874), (2.0, 0.975), (3.0, 0.999)])
def test_one_stratum_of_64_regions(omega: float, quoted: float) -> None:
    assert ceilings.strat_perfect_auc(omega, (64,)) == pytest.approx(quoted, abs=6e-4)


def _strat(omega: float, n_slides: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    strata = np.repeat(np.arange(8), 8)
    positive = np.arange(n_slides) % 2 == 0
    dealt = [deal_pairing(strata, positive=bool(label), omega=omega, rng=rng) for label in positive]
    a, c = (2.0 * np.array(attribute).reshape(n_slides, 8, 8) - 1 for attribute in zip(*dealt, strict=True))
    return a, c, positive


def test_strat_ceiling_is_that_of_dealt_slides() -> None:
    a, c, positive = _strat(1.5, 3000, seed=2)

    assert auc(positive, (a * c).sum(axis=(1, 2))) == pytest.approx(0.888, abs=0.02)  # standard error .006


def test_enumeration_is_exact_for_a_small_stratum() -> None:
    rng = np.random.default_rng(3)
    evidence_a, evidence_c = rng.standard_normal((2, 1, 1, 4))
    sums = {}
    for omega in (2.0, 0.5):
        weights, total = 0.0, 0.0
        for a in combinations(range(4), 2):
            for c in combinations(range(4), 2):
                prior = omega ** len(set(a) & set(c))
                total += prior
                weights += prior * math.exp(evidence_a[0, 0, list(a)].sum() + evidence_c[0, 0, list(c)].sum())
        sums[omega] = math.log(weights / total)

    ratio = ceilings.strat_log_likelihood_ratio(evidence_a, evidence_c, 2.0)

    assert ratio[0] == pytest.approx(sums[2.0] - sums[0.5], abs=1e-12)


def test_noisy_strat_ceiling_is_the_quoted_one() -> None:
    a, c, positive = _strat(2.0, 2000, seed=4)
    rng = np.random.default_rng(5)
    log_odds = [3.0 * (1.5 * sign + rng.standard_normal(sign.shape)) for sign in (a, c)]

    reached = auc(positive, ceilings.strat_log_likelihood_ratio(log_odds[0], log_odds[1], 2.0))

    assert reached == pytest.approx(0.9665, abs=0.012)  # standard error .004


def test_without_noise_the_enumeration_counts_the_overlap() -> None:
    a, c, positive = _strat(1.5, 400, seed=6)

    ratio = ceilings.strat_log_likelihood_ratio(60 * a, 60 * c, 1.5)

    ratio = np.round(ratio, 6)  # equal overlaps are ties again
    assert auc(positive, ratio) == pytest.approx(auc(positive, (a * c).sum(axis=(1, 2))), abs=1e-9)


@pytest.mark.parametrize(
    ("budget", "guided", "random"),
    [(0.047, 0.890, 0.659), (0.094, 0.958, 0.718), (0.20, 0.964, 0.800), (1, 0.970, 0.970)],
)
def test_rare_frontier_is_the_quoted_one(budget: float, guided: float, random: float) -> None:
    assert ceilings.rare_budget_auc(float(budget), guided=True) == pytest.approx(guided, abs=2e-3)
    assert ceilings.rare_budget_auc(float(budget), guided=False) == pytest.approx(random, abs=2e-3)


def test_rare_frontier_is_that_of_simulated_slides() -> None:
    rng = np.random.default_rng(7)
    n_slides, n_regions, budget = 8000, 64, 6 / 64
    positive = np.arange(n_slides) % 2 == 0
    a = rng.random((n_slides, n_regions)) < 0.1
    ratios = []
    for sign in (1, -1):
        law = ceilings.iid_cell_law(0.1, 0.5, 0.0, 0.0, 0.025, positive=sign > 0)
        ratios.append(law[:, 1] / law.sum(axis=1))  # P(C=1 | A)
    c = rng.random((n_slides, n_regions)) < np.where(
        positive[:, None], ratios[0][a.astype(int)], ratios[1][a.astype(int)]
    )
    chance = [np.where(c, p[a.astype(int)], 1 - p[a.astype(int)]) for p in ratios]
    information = np.log(chance[0] / chance[1])
    for order, quoted in (
        (np.argsort(~a, axis=1, kind="stable"), 0.956),
        (np.argsort(rng.random(a.shape), axis=1), 0.719),
    ):
        read = np.take_along_axis(information, order[:, : round(budget * n_regions)], axis=1)
        assert auc(positive, read.sum(axis=1)) == pytest.approx(quoted, abs=0.02)  # standard error .006


def test_a_budget_is_a_share() -> None:
    with pytest.raises(ValueError, match="budget=2"):
        ceilings.rare_budget_auc(2.0, guided=True)


@pytest.mark.parametrize(
    ("separation", "single", "late", "mixed"), [(1.0, 0.730, 0.785, 0.789), (2.0, 0.843, 0.874, 0.883)]
)
def test_redundancy_hardly_rewards_mixing(separation: float, single: float, late: float, mixed: float) -> None:
    eta_late, eta_mixed = ceilings.redundancy_reliability(separation, separation)
    etas = (ceilings.reliability(separation), eta_late, eta_mixed)

    aucs = [ceilings.iid_single_auc(0.06, 0.5, 64, eta) for eta in etas]

    assert aucs == pytest.approx([single, late, mixed], abs=1.5e-3)
    if separation == 1.0:
        assert (eta_late, eta_mixed) == pytest.approx((0.339, 0.350), abs=1e-3)


def test_label_noise_shrinks_the_auc_towards_one_half() -> None:
    rng = np.random.default_rng(8)
    positive = np.arange(20_000) % 2 == 0
    scores = rng.standard_normal(20_000) + positive
    flipped = positive ^ (rng.random(20_000) < 0.2)

    expected = ceilings.with_label_noise(auc(positive, scores), 0.2)

    assert auc(flipped, scores) == pytest.approx(expected, abs=0.015)


def test_auc_of_laws_is_the_auc_of_samples_scored_by_their_likelihood_ratio() -> None:
    rng = np.random.default_rng(1)
    positive, negative = rng.dirichlet(np.ones(7), 2)
    ratio = np.log(positive / negative)
    outcomes = [rng.choice(7, 40_000, p=law) for law in (positive, negative)]

    sampled = auc(np.repeat([True, False], 40_000), ratio[np.concatenate(outcomes)])

    assert ceilings.auc_of_laws(positive, negative) == pytest.approx(sampled, abs=0.01)  # standard error below .002


def test_auc_of_disjoint_and_of_equal_laws() -> None:
    assert ceilings.auc_of_laws(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert ceilings.auc_of_laws(np.array([0.3, 0.7, 0.0]), np.array([0.3, 0.7, 0.0])) == 0.5
