"""What is said beside the test: what slide means alone know, and a second opinion within tissue types.

What slide means of each magnification say about the label is a cross-validated ridge. The second opinion is the same
test on embeddings centred within slide *and tissue type*. Types are k-means clusters of the coarse embeddings, for
several numbers of types because the right one is not known. Composition cannot survive this centring where the types
are right. It can erase a true factor too, one that *is* the type; so it is read beside the test and never in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import stats
from sklearn.cluster import KMeans

from parfocal.cohort import deal_folds
from parfocal.lab.synergy.moments import CohortRows
from parfocal.stats import Interval, TestedFold, auc_interval, cross_validated, tally_classes
from parfocal.stats.regression import Ridge
from parfocal.stats.whitening import varying

_PENALTIES = 10.0 ** np.arange(-3, 4)
_FOLDS = 5


@dataclass(frozen=True)
class MainEffect:
    """How well slide means predict the label: AUC for a class, rank correlation for a number.

    Attributes:
        name: the magnification, or all of them together.
        measure: `AUC` or `rank correlation`.
        value: with its interval.
    """

    name: str
    measure: str
    value: Interval


def main_effects(
    means: Mapping[str, Float64[np.ndarray, "unit _dim"]],
    label: Float64[np.ndarray, " unit"],
    *,
    is_class: bool,
    repeats: int = 4,
    seed: int = 0,
) -> list[MainEffect]:
    """Repeated five-fold cross-validation of ridge regression on the slide means; a quick look, not `evaluate`.

    The penalty is chosen inside each training fold by leaving one out, in closed form.

    Args:
        means: name -> slide means of the units.
        label: 0 and 1, or numbers.
        is_class: whether the label is a class.
        repeats: how often, with other folds; 0 gives nothing.
        seed: of the folds.
    """
    if not repeats:
        return []
    is_positive = label > (0.5 if is_class else np.median(label))
    folds = np.stack(
        [
            deal_folds(np.arange(len(label)), is_positive, _FOLDS, np.random.default_rng([seed, 17, repeat]))
            for repeat in range(repeats)
        ]
    )
    return [_effect(name, own, label, is_positive, folds, is_class) for name, own in means.items()]


def _effect(
    name: str,
    means: Float64[np.ndarray, "unit dim"],
    label: Float64[np.ndarray, " unit"],
    is_positive: Bool[np.ndarray, " unit"],
    folds: np.ndarray,
    is_class: bool,
) -> MainEffect:
    scale = means.std(axis=0)
    x = (means - means.mean(axis=0)) / np.where(varying(scale), scale, np.inf)
    values, tested = [], []
    for repeat, of_unit in enumerate(folds):
        scores = np.empty(len(label))
        for number in range(_FOLDS):
            train, test = np.flatnonzero(of_unit != number), np.flatnonzero(of_unit == number)
            scores[test] = _ridge(x[train], label[train], x[test])
            if is_class and 0 < is_positive[test].sum() < len(test):
                tested.append(TestedFold(repeat, test, (tally_classes(is_positive[test], scores[test]),)))
        if not is_class:
            values.append(float(stats.spearmanr(scores, label).statistic))
    if is_class:
        n_positive = int(is_positive.sum())
        found = cross_validated(tested, 1 / (_FOLDS - 1))
        interval = auc_interval(found, n_positive=n_positive, n_negative=len(label) - n_positive)
        return MainEffect(name, "AUC", interval)
    return MainEffect(name, "rank correlation", _fisher_interval(float(np.nanmean(values)), len(label)))


def _ridge(
    x: Float64[np.ndarray, "train dim"], label: Float64[np.ndarray, " train"], new: Float64[np.ndarray, "test dim"]
) -> Float64[np.ndarray, " test"]:
    """Predictions of a ridge regression, the penalty chosen by leaving one training unit out."""
    ridge = Ridge.of(x, label[:, None])
    unit = max(float(ridge.variance), 1e-300) / len(label)
    penalty = min(_PENALTIES * unit, key=ridge.left_out_error)
    return ridge.at(float(penalty)).predict(new)[:, 0]


def _fisher_interval(value: float, n: int) -> Interval:
    half = stats.norm.ppf(0.975) * 1.03 / np.sqrt(max(n - 3, 1))  # 1.03: of ranks (Fieller 1957)
    centre = np.arctanh(np.clip(value, -0.999999, 0.999999))
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Interval(value, min(low, value), max(high, value), 0.95, "Fisher z of ranks")


_MOST_ROWS = 20_000
_COMPONENTS = 16


def usable_types(rows: CohortRows, asked: Sequence[int]) -> tuple[int, ...]:
    """The numbers of types that the cohort has enough different regions for, ten for each."""
    coarse = rows.rows[rows.mpps[0]][:, :_COMPONENTS]
    # Rounded, because k-means merges what differs less than its own rounding.
    different = len(np.unique(coarse[np.isfinite(coarse[:, 0])].round(3), axis=0))
    return tuple(n for n in asked if 10 * n <= different)


def cluster_types(rows: CohortRows, n_types: int, *, seed: int) -> Int64[np.ndarray, " region"]:
    """The type of every region from its coarsest embedding; -1 where that is absent."""
    coarse = rows.rows[rows.mpps[0]][:, :_COMPONENTS]
    there = np.flatnonzero(np.isfinite(coarse[:, 0]))
    picked = there
    if len(there) > _MOST_ROWS:
        picked = np.random.default_rng([seed, 13]).choice(there, _MOST_ROWS, replace=False)
    model = KMeans(n_types, n_init=2, random_state=seed).fit(coarse[picked])
    types = np.full(len(coarse), -1, dtype=np.int64)
    types[there] = model.predict(coarse[there])
    return types


def types_within(rows: CohortRows, types: Int64[np.ndarray, " region"]) -> Int64[np.ndarray, " region"]:
    """Groups of regions of one type in one group of the cohort; a type seen once there says nothing more."""
    group = np.unique(rows.group * (int(types.max()) + 2) + types + 1, return_inverse=True)[1]
    return group.reshape(-1).astype(np.int64)
