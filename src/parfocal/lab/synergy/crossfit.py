"""The cross-fitted test: directions from four fifths of the patients, and a regression on the fifth that chose nothing.

A permutation assumes that patients are alike but for their label. Where the slides of one class are smaller, noisier or
fewer, its moments are noisier, and the leading directions, which are chosen on the same patients, fit the noise of that
class: the permutation test then rejects without any pairing. Here u and v are those of the patients that are not
scored, and the score u^T F v of the others, beside their second moments along u and v and all covariates, is regressed
on the label with errors that allow every patient a variance of its own (HC3; MacKinnon and White 1985). It costs power.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from parfocal.cohort import deal_folds
from parfocal.lab.synergy.moments import PairMoments

__all__ = ["CrossFitted", "cross_fitted_test", "robust_slope"]

_FOLDS = 5
_SPLITS = 5


@dataclass(frozen=True)
class CrossFitted:
    """What the cross-fitted test found.

    Attributes:
        p_value: the median over the splits, one-sided: the pairing that was found in some patients holds in others.
        of_splits: the p-value of each split of the patients to five folds.
    """

    p_value: float
    of_splits: tuple[float, ...]


def cross_fitted_test(
    pairs: Sequence[PairMoments],
    covariates: Float64[np.ndarray, "unit covariate"],
    label: Float64[np.ndarray, " unit"],
    components: Sequence[int],
    rng: np.random.Generator,
    *,
    together: Int64[np.ndarray, " unit"] | None = None,
) -> CrossFitted:
    """Test one label out of fold, with the pair of magnifications and the k that stand out most in the other folds.

    Args:
        pairs: moments of every pair of magnifications.
        covariates: of the units, the constant among them.
        label: of the units.
        components: the numbers k that are tried.
        rng: deals the folds.
        together: the same number for units that have to stay in one fold, because they hold the same slide.
    """
    groups = np.arange(len(label)) if together is None else together
    stratum = label > np.median(label) if len(np.unique(label)) > 2 else label > label.min()
    p_values = []
    for _ in range(_SPLITS):
        fold = deal_folds(groups, stratum, _FOLDS, rng)
        held_out = np.empty((len(label), 3))
        for number in range(_FOLDS):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            held_out[test] = _scores(pairs, covariates, label, components, train, test)
        p_values.append(robust_slope(held_out[:, 0], label, np.concatenate([covariates, held_out[:, 1:]], axis=1)))
    return CrossFitted(float(np.median(p_values)), tuple(p_values))


def _scores(
    pairs: Sequence[PairMoments],
    covariates: np.ndarray,
    label: np.ndarray,
    components: Sequence[int],
    train: Int64[np.ndarray, " train"],
    test: Int64[np.ndarray, " test"],
) -> Float64[np.ndarray, "test three"]:
    """u^T F v of the test units and their second moments along u and v, about the means of the training units."""
    known = _span(covariates[train])
    rest = label[train] - known @ (known.T @ label[train])
    norm = max(float(np.linalg.norm(rest)), 1e-300)
    best, found = -np.inf, np.zeros((len(test), 3))
    for pair in pairs:
        flat = pair.cross[train].reshape(len(train), -1)
        left = (flat - known @ (known.T @ flat)).reshape(len(train), *pair.cross.shape[1:])
        whole = np.tensordot(rest / norm, left, axes=1)
        for k in components:
            u, s, vt = np.linalg.svd(whole[:k, :k])
            noise = np.sqrt((left[:, :k, :k] ** 2).sum() / max(len(train) - known.shape[1], 1)) / k
            # How far the leading pair stands above the edge of noise, in the spread that noise has there (Johnstone
            # 2001): comparable between numbers of components.
            above = (s[0] / max(noise, 1e-300) - 2 * np.sqrt(k)) * k ** (1 / 6)
            if above > best:
                best = above
                along = [
                    np.einsum("a,iab,b->i", one, m[:, :k, :k], other, optimize=True)
                    for one, m, other in (
                        (u[:, 0], pair.cross, vt[0]),
                        (u[:, 0], pair.first, u[:, 0]),
                        (vt[0], pair.second, vt[0]),
                    )
                ]
                found = np.stack([(a[test] - a[train].mean()) / max(a[train].std(), 1e-300) for a in along], axis=1)
    return found


def robust_slope(
    score: Float64[np.ndarray, " unit"],
    label: Float64[np.ndarray, " unit"],
    covariates: Float64[np.ndarray, "unit covariate"],
) -> float:
    """One-sided p-value of the label's slope in a regression of the score on label and covariates, with HC3 errors.

    A unit that the covariates know alone, such as the only one of its site, says nothing and is not counted.
    """
    known = _span(covariates)
    rest = label - known @ (known.T @ label)
    power = float(rest @ rest)
    if power <= 1e-9 * max(float(((label - label.mean()) ** 2).sum()), 1e-300):
        return 1.0
    slope = float(rest @ score) / power
    residual = score - known @ (known.T @ score) - slope * rest
    spare = 1 - (known**2).sum(axis=1) - rest**2 / power
    counted = spare > 1e-8
    error = np.sqrt(((rest[counted] * residual[counted] / spare[counted]) ** 2).sum()) / power
    freedom = len(label) - known.shape[1] - 1
    if not error > 0 or freedom < 1:
        return 1.0
    return float(stats.t.sf(slope / error, freedom))


def _span(columns: np.ndarray) -> Float64[np.ndarray, "unit rank"]:
    """An orthonormal basis of the columns."""
    u, s, _ = np.linalg.svd(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300), full_matrices=False)
    return np.asarray(u[:, s > 1e-9 * s[0]])
