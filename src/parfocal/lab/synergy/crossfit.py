"""The cross-fitted test, and what is taken out of labels and moments before any test compares them.

What slide means and each magnification alone know is taken out. Composition is a main effect in disguise: when one
tissue type is more frequent in a class, the class difference of the within-region cross-moments shows it, although
slide means would have shown it too. So labels and moments are projected off the leading components of the slide means
and of each magnification's own second moments, and off the sites.

The residuals of n units off q covariates have n - q degrees of freedom and are not exchangeable, so the permutation is
done in a basis of the residual space (Huh and Jhun 2001), of all bases the one in which each of n - q kept units has a
residual of its own (Theil 1965): so permuting within sites keeps its meaning.

The cross-fitted test has directions from four fifths of the patients, and a regression on the fifth that chose nothing.
A permutation assumes that patients are alike but for their label. Where the slides of one class are smaller, noisier or
fewer, its moments are noisier, and the leading directions, which are chosen on the same patients, fit the noise of that
class: the permutation test then rejects without any pairing. Here u and v are those of the patients that are not
scored, and the score u^T F v of the others, beside their second moments along u and v and all covariates, is regressed
on the label with errors that allow every patient a variance of its own (HC3; MacKinnon and White 1985). It costs power.

One magnification can change u^T F v alone: where its embedding of a factor that both share is turned with the label,
the joint moment turns with it. With w the direction of that factor in the same magnification (F^T u, the mean over
patients; F v on the other side), v^T S w turns too, and by at least half as much where the magnification reads the
factor at least half as well as the other one. Regression on v^T S w would take only a part of that out, because a
patient's own is a noisy measurement. So where it (or the sum of both sides) may go with the label, twice of it is
taken off the score, and the label has to know what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats
from scipy.linalg import qr

from parfocal.cohort import deal_folds
from parfocal.errors import ConfigError
from parfocal.lab.synergy.moments import PairMoments

_FEWEST_RESIDUALS = 12
_MOST_MEANS, _MOST_MOMENTS = 64, 32


@dataclass(frozen=True, eq=False)
class ResidualBasis:
    """Orthonormal residuals of the units that are kept, one column each, and how many covariates were taken out.

    Attributes:
        columns: maps a quantity of the units to its residuals: `columns.T @ y`.
        kept: the unit that each residual belongs to.
        n_covariates: the rank of what was projected off, the constant included.
    """

    columns: Float64[np.ndarray, "unit residual"]
    kept: Int64[np.ndarray, " residual"]
    n_covariates: int


def design(
    means: Sequence[Float64[np.ndarray, "unit _dim"]],
    moments: Sequence[Float64[np.ndarray, "unit k k"]],
    site: Int64[np.ndarray, " unit"] | None,
) -> Float64[np.ndarray, "unit covariate"]:
    """The constant, the sites, and leading components of slide means and of second moments.

    A seventh of the units' number goes to each kind, at most 64 and 32. With fewer, a label that depends on a component
    which was left out looks as if pairing knew it: with 8 and 4 components a third of null cohorts of 120 slides with
    main effects was rejected before the second moments along the directions were taken out too. With more, there are
    no residuals left to test.

    Args:
        means: of each magnification.
        moments: second moments of each magnification, within slides.
        site: number of each unit's site, from 0.
    """
    n = len(means[0])
    parts = [np.ones((n, 1))]
    if site is not None:
        parts.append((site[:, None] == np.arange(1, int(site.max()) + 1)).astype(np.float64))
    rows, columns = np.triu_indices(moments[0].shape[1])
    parts.append(leading_scores(means, min(n // 7, _MOST_MEANS)))
    parts.append(leading_scores([one[:, rows, columns] for one in moments], min(n // 7, _MOST_MOMENTS)))
    return np.concatenate(parts, axis=1)


def leading_scores(
    blocks: Sequence[Float64[np.ndarray, "unit _dim"]], number: int
) -> Float64[np.ndarray, "unit component"]:
    """Leading principal components of blocks side by side, each block with the same total variance."""
    scaled = []
    for block in blocks:
        centred = block - block.mean(axis=0)
        scaled.append(centred / max(float(np.sqrt((centred**2).sum())), 1e-300))
    joint = np.concatenate(scaled, axis=1)
    # Through the small side: 1,000 units have up to 4,000 columns here.
    variance, vectors = np.linalg.eigh(joint @ joint.T)
    kept = variance[::-1][:number] > 1e-10 * max(float(variance[-1]), 1e-300)
    return vectors[:, ::-1][:, :number][:, kept]


def residual_basis(covariates: Float64[np.ndarray, "unit covariate"], called: str = "patient") -> ResidualBasis:
    """The basis of what is orthogonal to the covariates, closest to the residuals of the units that are kept.

    The units with the highest leverage are dropped, as many as there are covariates: a site of one unit loses it.

    Args:
        covariates: of the units.
        called: what a unit is, for the message.

    Raises:
        ConfigError: fewer than 12 residuals are left.
    """
    n = len(covariates)
    u, s, _ = np.linalg.svd(covariates, full_matrices=False)
    u = u[:, s > 1e-9 * s[0]]
    q = u.shape[1]
    if n - q < _FEWEST_RESIDUALS:
        raise ConfigError(
            f"{n} {called}s are too few: {q} covariates (slide means, moments, sites) leave {n - q} of them, "
            f"and a permutation test needs {_FEWEST_RESIDUALS}. Use more {called}s, or fewer sites."
        )
    order = qr(u.T, mode="economic", pivoting=True)[2]
    kept = np.sort(order[q:])
    residual = np.eye(n) - u @ u.T
    variance, vectors = np.linalg.eigh(residual[np.ix_(kept, kept)])
    root = (vectors / np.sqrt(variance)) @ vectors.T
    return ResidualBasis(residual[:, kept] @ root, kept.astype(np.int64), q)


_FOLDS = 5
_SPLITS = 5
_DOUBT = 0.1  # p-value up to which a turn of one magnification may be what the label knows
_TURN = 2.0  # what a turn of one magnification does to the joint moment, over what it does to its own


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
        held_out = np.empty((len(label), 5))
        for number in range(_FOLDS):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            held_out[test] = _scores(pairs, covariates, label, components, train, test)
        p_values.append(_p_value(held_out, label, covariates))
    return CrossFitted(float(np.median(p_values)), tuple(p_values))


def _p_value(
    held_out: Float64[np.ndarray, "unit five"],
    label: Float64[np.ndarray, " unit"],
    covariates: Float64[np.ndarray, "unit covariate"],
) -> float:
    """Of the label, beyond the second moments along u and v and what a turn of either magnification could have done."""
    score, along, first, second = held_out[:, 0], held_out[:, 1:3], held_out[:, 3], held_out[:, 4]
    known = np.concatenate([covariates, along], axis=1)
    turns = [turn for turn in (first, second, first + second) if robust_slope(turn, label, known) <= _DOUBT]
    return max(robust_slope(score - _TURN * turn, label, known) for turn in (np.zeros(len(score)), *turns))


def _scores(
    pairs: Sequence[PairMoments],
    covariates: np.ndarray,
    label: np.ndarray,
    components: Sequence[int],
    train: Int64[np.ndarray, " train"],
    test: Int64[np.ndarray, " test"],
) -> Float64[np.ndarray, "test five"]:
    """u^T F v of the test units, their second moments along u and v, and those of u and v with where F takes the other.

    All are about the means of the training units; the joint moment and the last two are in units of its spread.
    """
    known = _span(covariates[train])
    rest = label[train] - known @ (known.T @ label[train])
    norm = max(float(np.linalg.norm(rest)), 1e-300)
    best, found = -np.inf, np.zeros((len(test), 5))
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
                found = _held_out(pair, u[:, 0], vt[0], train, test)
    return found


def _held_out(
    pair: PairMoments,
    u: Float64[np.ndarray, " k"],
    v: Float64[np.ndarray, " k"],
    train: Int64[np.ndarray, " train"],
    test: Int64[np.ndarray, " test"],
) -> Float64[np.ndarray, "test five"]:
    k = len(u)
    cross, first, second = (moments[:, :k, :k] for moments in (pair.cross, pair.first, pair.second))
    mean = cross[train].mean(axis=0)
    along = np.stack(
        [
            np.tensordot(moments, right, axes=1) @ left
            for left, moments, right in (
                (u, cross, v),
                (u, first, u),
                (v, second, v),
                (u, first, _unit(mean @ v)),
                (_unit(u @ mean), second, v),
            )
        ],
        axis=1,
    )
    spread = along[train].std(axis=0)[[0, 1, 2, 0, 0]]
    return np.asarray((along[test] - along[train].mean(axis=0)) / np.maximum(spread, 1e-300))


def _unit(direction: np.ndarray) -> Float64[np.ndarray, " k"]:
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-300))


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
