"""Contrast is the class difference of cross-moments, absent regions add nothing, and what is unread is never read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from scipy.linalg import sqrtm

from parfocal.bags import Bag
from parfocal.cohort import Column, Fold, Outcome, deal_folds
from parfocal.errors import ConfigError
from parfocal.heads import (
    FoldPrediction,
    ProbeSettings,
    cross_moments,
    fit_contrast,
    fit_mean,
    predict,
)
from parfocal.heads.contrast.directions import RANKS, find_contrasts
from parfocal.heads.contrast.moments import centred_regions, is_partly_read
from parfocal.lab.synthetic.feature_model import COARSE, FINE
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort
from parfocal.stats import auc

SETTINGS = ProbeSettings(components=(4, 8), inner_folds=3, lifted=(3,))


def contrast_matrices(moments: np.ndarray, column: Column, weight: np.ndarray) -> np.ndarray:
    """For each problem and each of `RANKS` the matrix of norm one whose score is `<F_i, M>`."""
    found = find_contrasts(moments, column, weight)
    factors = [found.factors(rank) for rank in RANKS]
    return np.stack([u @ v.transpose(0, 2, 1) for u, v in factors], axis=1)


def column_of(label: np.ndarray) -> Column:
    return Outcome.binary(label).columns[0]


def test_moments_are_sums_over_common_regions_by_all_regions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    present = np.array([True, True, False, True, True])
    a[2], b[2] = np.nan, np.nan

    found = cross_moments(a, b, present, [(0, 3), (3, 5), (5, 5)])

    np.testing.assert_allclose(found[0], (np.outer(a[0], b[0]) + np.outer(a[1], b[1])) / 3)
    np.testing.assert_allclose(found[1], (np.outer(a[3], b[3]) + np.outer(a[4], b[4])) / 2)
    np.testing.assert_array_equal(found[2], np.zeros((3, 2)))


def test_a_planted_pair_is_the_leading_direction() -> None:
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.standard_normal((6, 1)))[0], np.linalg.qr(rng.standard_normal((5, 1)))[0]
    label = np.arange(400) % 2 == 0
    moments = rng.standard_normal((400, 6, 5)) * 0.3 + np.where(label, 1, -1)[:, None, None] * (u @ v.T)

    (matrices,) = contrast_matrices(moments, column_of(label), np.ones((1, 400)))

    for number, rank in enumerate(RANKS):
        np.testing.assert_allclose(np.linalg.norm(matrices[number]), 1)
        assert np.vdot(matrices[number], u @ v.T) > 0.98
        assert rank is None or np.linalg.matrix_rank(matrices[number], tol=1e-9) == rank
    # Nothing but the planted pair stands above the noise, so the shrunk matrix has rank one.
    assert np.linalg.matrix_rank(matrices[RANKS.index(None)], tol=1e-9) == 1


def inverse_root(covariance: np.ndarray) -> np.ndarray:
    k = len(covariance)
    shrunk = 0.9 * covariance * k / np.trace(covariance) + 0.1 * np.eye(k)
    return np.real(sqrtm(np.linalg.inv(shrunk)))


def evened(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The flip-flop of a matrix-normal covariance, slide by slide as it stands in books: two steps, shrunk by .1."""
    a, b = np.eye(left.shape[1]), np.eye(left.shape[2])
    for _ in range(2):
        a = inverse_root(np.mean([one @ b @ b @ one.T for one in left], axis=0))
        b = inverse_root(np.mean([one.T @ a @ a @ one for one in left], axis=0))
    return a, b


def test_two_classes_differ_by_the_difference_of_their_means_in_units_of_its_noise() -> None:
    rng = np.random.default_rng(2)
    label = np.arange(30) % 3 == 0
    moments = rng.standard_normal((30, 4, 3)) * np.outer([3, 1, 1, 0.5], [1, 2, 1])
    means = [moments[~label].mean(axis=0), moments[label].mean(axis=0)]
    a, b = evened(moments - np.stack([means[int(one)] for one in label]))
    u, s, vt = np.linalg.svd(a @ (means[1] - means[0]) @ b)

    (found,) = contrast_matrices(moments, column_of(label), np.ones((1, 30)))

    one = np.outer(a @ u[:, 0], b @ vt[0])
    np.testing.assert_allclose(found[RANKS.index(1)], one / np.linalg.norm(one))
    two = a @ (u[:, :2] * s[:2]) @ vt[:2] @ b
    np.testing.assert_allclose(found[RANKS.index(2)], two / np.linalg.norm(two))


def test_noise_along_one_component_of_both_sides_does_not_hide_the_pair() -> None:
    """As after a region encoder, whose tokens share a component across magnifications: a plain SVD finds the noise."""
    rng = np.random.default_rng(3)
    label = np.arange(60) % 2 == 0
    spread = np.ones((8, 8))
    spread[0, :], spread[:, 0] = 4, 4
    spread[0, 0] = 16
    moments = rng.standard_normal((60, 8, 8)) * spread
    moments[:, 5, 6] += np.where(label, 0.7, -0.7)
    plain = np.linalg.svd(moments[label].mean(axis=0) - moments[~label].mean(axis=0))

    (found,) = contrast_matrices(moments, column_of(label), np.ones((1, 60)))

    assert abs(plain.U[5, 0] * plain.Vh[0, 6]) < 0.1
    assert found[RANKS.index(1)][5, 6] > 0.8


@pytest.mark.parametrize("family", ["logistic", "linear"])
def test_noise_is_estimated_as_chance_has_it(family: Literal["logistic", "linear"]) -> None:
    rng = np.random.default_rng(4)
    n, spread = 40, np.outer([2, 1, 1, 0.5], [1, 3, 1])
    weight = rng.uniform(0.5, 2, (1, n))
    found, expected = [], []
    for _ in range(200):
        value = rng.permutation(np.arange(n) % 2) if family == "logistic" else rng.standard_normal(n)
        column = Column("y", family, value.astype(float), np.ones(n, dtype=bool))
        one = find_contrasts(rng.standard_normal((n, 4, 3)) * spread, column, weight)
        found.append(one.noise[0])
        expected.append((one.s[0] ** 2).sum() / 12)

    # 200 draws of 12 entries: the mean square is known to 3 % and the noise of 40 slides is as well.
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.1)


def test_slides_of_weight_zero_have_no_say() -> None:
    rng = np.random.default_rng(1)
    moments, label = rng.standard_normal((12, 4, 4)), np.arange(12) % 2 == 1
    weight = np.ones((1, 12))
    weight[0, :4] = 0
    other = moments.copy()
    other[:4] = 100

    np.testing.assert_allclose(
        contrast_matrices(moments, column_of(label), weight),
        contrast_matrices(other, column_of(label), weight),
        atol=1e-9,
    )
    with pytest.raises(ValueError, match="two classes"):
        contrast_matrices(moments, column_of(np.ones(12, dtype=bool)), np.ones((1, 12)))


def test_unread_fine_regions_are_never_read_and_pairing_is_still_found(draw_numbers: Callable[..., Any]) -> None:
    partial = draw_numbers(n=48, unread=0.5)
    fine = partial.fine
    label, folds = partial.pairing, partial.folds(partial.pairing)
    assert 0.4 < fine.region_present.mean() < 0.6
    assert np.isnan(fine.region_mean[~fine.region_present]).all()
    filled = fine.region_mean.copy()
    filled[~fine.region_present] = 1e6

    def scores(bags: list[Bag]) -> list[FoldPrediction]:
        return predict(fit_contrast(bags, Outcome.binary(label), folds, SETTINGS), bags, folds)

    poisoned = scores([partial.coarse, fine])
    other = scores([partial.coarse, replace(fine, region_mean=filled)])

    for one, same, fold in zip(poisoned, other, folds, strict=True):
        assert np.isfinite(one.score).all()
        np.testing.assert_array_equal(one.score, same.score)
        assert auc(label[fold.test], one.score[:, 0]) > 0.85


def test_regions_are_centred_within_slides_unless_they_are_partly_read(draw_numbers: Callable[..., Any]) -> None:
    whole, partial = draw_numbers(n=8), draw_numbers(n=8, unread=0.5)

    every = np.arange(8)

    assert not is_partly_read(whole.fine, every)
    assert is_partly_read(partial.fine, every)
    centred = centred_regions(whole.fine, by_slide=True)
    np.testing.assert_allclose(centred[whole.fine.regions_of(3)].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(centred_regions(partial.fine, by_slide=False), partial.fine.region_mean)


def test_a_constant_shift_of_a_slide_changes_no_pairing(numbers: Any) -> None:
    fine = numbers.fine
    moved = fine.region_mean.copy()
    moved[fine.regions_of(0)] += 10

    np.testing.assert_allclose(
        centred_regions(replace(fine, region_mean=moved), by_slide=True),
        centred_regions(fine, by_slide=True),
        atol=1e-5,
    )  # 1e-5: the shift is added in float32


def test_pairs_of_noise_have_no_say_beside_the_pair_that_knows(draw_numbers: Callable[..., Any]) -> None:
    known = draw_numbers(n=80)
    rng = np.random.default_rng(5)
    noise = [
        replace(known.fine, region_mean=rng.standard_normal(known.fine.region_mean.shape).astype(np.float32))
        for _ in range(2)
    ]
    folds = known.folds(known.pairing)

    probes = fit_contrast([known.coarse, known.fine, *noise], Outcome.binary(known.pairing), folds, SETTINGS)

    # Five pairs of noise in each of four folds; half of them have a positive slope in the stack.
    pairs = [(term["first"], term["second"]) for probe in probes for term in probe.state().facts["terms"]]
    assert pairs.count((0, 1)) == 4
    assert len(pairs) - 4 <= 2


def test_bags_of_other_regions_are_refused(numbers: Any) -> None:
    few = numbers.fine.of_slides(range(39))

    with pytest.raises(ValueError, match="not of the same regions"):
        fit_contrast([numbers.coarse, few], Outcome.binary(numbers.pairing), numbers.folds(numbers.pairing), SETTINGS)


def test_eighty_slides_come_near_the_best_observer_of_a_cohort_whose_label_is_in_the_pairing_alone(
    make_bag: Callable[..., Bag],
) -> None:
    n_train, n_test = 80, 200
    cohort = draw_cohort(StratSettings(n_slides=n_train + n_test))
    regions: dict[float, list[list[np.ndarray]]] = {COARSE: [], FINE: []}
    for tokens in cohort:
        for mpp, slides in regions.items():
            slides.append(list(tokens.features[mpp].reshape(64, -1, 128).mean(axis=1, keepdims=True)))
    bags = [make_bag(str(mpp), slides) for mpp, slides in regions.items()]
    label, train = cohort.labels["pairing"], np.arange(n_train)
    inner = deal_folds(train, label[:n_train], 3, np.random.default_rng(0))
    fold = Fold(0, 0, train, np.arange(n_train, n_train + n_test), inner)
    settings = ProbeSettings(components=(16, 32), inner_folds=3)

    (pairing,) = fit_contrast(bags, Outcome.binary(label), [fold], settings)
    (means,) = fit_mean(bags, Outcome.binary(label), [fold], settings)

    # The exact ceiling of these settings is .965; 200 test slides leave a standard error of .02. Without sharpening
    # 200 training slides reach .88.
    assert "sharpened" in pairing.chosen
    assert auc(label[fold.test], pairing.score(bags, fold.test)[:, 0]) > 0.85
    assert abs(auc(label[fold.test], means.score(bags, fold.test)[:, 0]) - 0.5) < 0.13


@pytest.mark.parametrize("case", ["one region a slide", "identical rows"])
def test_slides_that_leave_nothing_to_compare_are_refused(case: str, draw_numbers: Callable[..., Any]) -> None:
    few = draw_numbers(n=24, n_regions=1 if case == "one region a slide" else 16)
    fine = few.fine
    if case == "identical rows":
        fine = replace(fine, region_mean=np.repeat(fine.region_mean[::16], 16, axis=0))
    match = "each slide has one region" if case == "one region a slide" else "regions of every slide are the same in"

    with pytest.raises(ConfigError, match=f"contrast has nothing to compare: .*{match}"):
        fit_contrast([few.coarse, fine], Outcome.binary(few.kind), few.folds(few.kind), SETTINGS)


def test_where_nothing_can_pair_the_means_alone_speak(draw_numbers: Callable[..., Any]) -> None:
    few = draw_numbers(n=24, n_regions=16)
    outcome, folds = Outcome.binary(few.kind), few.folds(few.kind)
    odd = np.arange(len(few.fine.region_present)) % 2 == 0
    bags = [
        replace(
            bag,
            region_present=there,
            region_mean=np.where(there[:, None], bag.region_mean, np.nan).astype(np.float32),
        )
        for bag, there in zip([few.coarse, few.fine], (odd, ~odd), strict=True)
    ]

    found = predict(fit_contrast(bags, outcome, folds, SETTINGS), bags, folds)
    means = predict(fit_mean(bags, outcome, folds, SETTINGS), bags, folds)

    for one, other in zip(found, means, strict=True):
        # Means that were no help on held-out slides have no weight, and all slides one score.
        if np.ptp(one.score) > 0:
            np.testing.assert_array_equal(np.argsort(one.score[:, 0]), np.argsort(other.score[:, 0]))


def paired(
    n: int, counts: np.ndarray, agree: float, *, xor: bool, seed: int, dim: int = 12
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], np.ndarray]:
    """Region rows of two magnifications: a state of each, the same in a region as often as the slide's label says.

    With `xor` the second magnification shows two signs, and its state is whether they agree.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2 == 0
    # Turned, so that the states lie along no column and stand out as the leading components do.
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    sides: tuple[list[list[np.ndarray]], list[list[np.ndarray]]] = ([], [])
    for slide in range(n):
        a = rng.choice([-1.0, 1.0], counts[slide])
        same = rng.random(counts[slide]) < (agree if label[slide] else 1 - agree)
        c = np.where(same, a, -a)
        x, y = rng.standard_normal((2, counts[slide], dim))
        x[:, 0] += 2 * a
        first = rng.choice([-1.0, 1.0], counts[slide]) if xor else np.zeros(counts[slide])
        y[:, 0] += 2 * (first if xor else c)
        y[:, 1] += 2 * first * c
        for side, rows in zip(sides, (x, y), strict=True):
            side.append(list((rows @ turn)[:, None]))
    return *sides, label


def fitted_auc(bags: list[Bag], label: np.ndarray, n_train: int, settings: ProbeSettings) -> tuple[float, str]:
    train, test = np.arange(n_train), np.arange(n_train, len(label))
    inner = deal_folds(train, label[:n_train], settings.inner_folds, np.random.default_rng(0))
    (fit,) = fit_contrast(bags, Outcome.binary(label), [Fold(0, 0, train, test, inner)], settings)
    return auc(label[test], fit.score(bags, test)[:, 0]), fit.chosen


def test_an_xor_inside_a_tile_is_read_from_products_of_components(make_bag: Callable[..., Bag]) -> None:
    first, second, label = paired(160, np.full(160, 24), 0.75, xor=True, seed=0)
    bags = [make_bag("2", first), make_bag("0.5", second)]

    without, _ = fitted_auc(bags, label, 80, ProbeSettings(components=(8,), inner_folds=3, lifted=()))
    found, chosen = fitted_auc(bags, label, 80, ProbeSettings(components=(8,), inner_folds=3, lifted=(4,)))

    # 80 test slides: a standard error of .065 around one half.
    assert abs(without - 0.5) < 0.2
    assert found > 0.9
    assert chosen.startswith("products of 4")


def test_evidence_adds_over_regions_where_their_number_differs(make_bag: Callable[..., Bag]) -> None:
    counts = np.exp2(np.random.default_rng(1).uniform(3, 7, 400)).astype(int)
    first, second, label = paired(400, counts, 0.6, xor=False, seed=1)
    bags = [make_bag("2", first), make_bag("0.5", second)]
    settings = ProbeSettings(components=(8,), inner_folds=3, lifted=())

    found, chosen = fitted_auc(bags, label, 100, settings)
    alike = [make_bag(name, [rows[:8] for rows in side]) for name, side in (("2", first), ("0.5", second))]
    _, of_alike = fitted_auc(alike, label, 100, settings)

    assert "sum over regions" in chosen or "root of regions" in chosen
    assert "regions" not in of_alike
    # The exact states, added up over regions, say .89 here.
    assert found > 0.84


@pytest.mark.parametrize("xor", [False, True])
def test_permuted_labels_teach_nothing_whatever_is_offered(xor: bool, make_bag: Callable[..., Bag]) -> None:
    found = []
    for seed in range(4):
        counts = np.random.default_rng(seed).integers(6, 24, 140)
        first, second, label = paired(140, counts, 0.9, xor=xor, seed=seed)
        bags = [make_bag("2", first), make_bag("0.5", second)]
        permuted = np.random.default_rng([seed, 1]).permutation(label)
        settings = ProbeSettings(components=(8,), inner_folds=3, lifted=(4,))
        found.append(fitted_auc(bags, permuted, 40, settings)[0])

    # 4 times 100 test slides, whose own labels are permuted: a standard error of .03.
    assert abs(np.mean(found) - 0.5) < 0.1
