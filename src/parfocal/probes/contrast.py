"""Cross-scale contrast: a closed form for what only the pairing of two magnifications inside regions knows.

Slide i, region r, magnification m: x is the mean of the region's embeddings, centred and whitened. Per slide

    F_i = (1/R_i) sum_r x_a(i, r) x_b(i, r)^T        over regions where both are present, R_i counting all regions
    D   = mean of F_i over positive slides - mean of F_i over negative ones = sum_j s_j u_j v_j^T
    score_i = sum_j w(s_j) u_j^T F_i v_j

No function of unordered bags has this: it is the lowest-order statistic that changes when only the pairing does.
With one bag instead of two it is the second moment of that bag's region means.

Every pair of bags gives one score. The scores are stacked with the log odds of the slide means (main effects and
pairing side by side) in a logistic regression. All stacked columns are out-of-fold inside the training fold, because
in-sample scores look better than they are and crowd out the means; and none may have a negative coefficient. The means
come in as one column and not as dozens, which would drown a handful of scores in a cohort of 40 slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Float64

from parfocal.bags import Bag
from parfocal.cohort import Fold
from parfocal.probes.linear import fit_mean_fold, inner_weights
from parfocal.probes.logistic import fit_nonnegative, log_loss, predict_logit
from parfocal.probes.settings import FoldPrediction, ProbeSettings
from parfocal.probes.whitening import Preparation, Whitening, fit_whitening, preparations

__all__ = ["centred_regions", "contrast_matrices", "cross_moments", "fit_contrast"]

RANKS: tuple[int | None, ...] = (1, 2, 4, None)
"""How many leading pairs of directions are used; None shrinks the singular values by the noise of the data."""
_STACK_PENALTY = 1e-2


def fit_contrast(
    bags: Sequence[Bag], is_positive: Bool[np.ndarray, " slide"], folds: Sequence[Fold], settings: ProbeSettings
) -> list[FoldPrediction]:
    """Predict each fold's test slides from the contrasts of all pairs of bags, stacked with the slide means.

    Offered inside the training fold: each preparation of the region means x four ranks (1, 2, 4, shrunk). "As is"
    keeps the leading principal components with their own scale.

    Args:
        bags: of the same regions; one bag gives the second moment of its own region means.
        is_positive: the label of each slide.
        folds: the outer folds.
        settings: what to choose among.

    Raises:
        ValueError: the bags are not of the same regions.
    """
    if any(not np.array_equal(bag.region_start, bags[0].region_start) for bag in bags):
        raise ValueError(f"bags {[bag.name for bag in bags]} are not of the same regions")
    regions = [centred_regions(bag) for bag in bags]
    return [_fit_fold(bags, regions, is_positive, fold, settings) for fold in folds]


def centred_regions(bag: Bag) -> Float64[np.ndarray, "region dim"]:
    """The region means about their slide's mean over regions; absent regions stay NaN.

    Where the bag is partly read the rows come back as they are: they are centred on the training mean later, because
    the mean of the regions that were read depends on which they were.
    """
    rows = bag.region_mean.astype(np.float64)
    if bag.partly_read:
        return rows
    for slide in range(len(bag.slides)):
        there = np.flatnonzero(bag.region_present[bag.regions_of(slide)]) + bag.region_start[slide]
        if len(there):
            rows[there] -= rows[there].mean(axis=0)
    return rows


def cross_moments(
    first: Float[np.ndarray, "region a"],
    second: Float[np.ndarray, "region b"],
    present: Bool[np.ndarray, " region"],
    bounds: Sequence[tuple[int, int]],
) -> Float64[np.ndarray, "slide a b"]:
    """F_i of each slide; rows where not both are present are never read and add nothing.

    Args:
        first: prepared region means of one bag, all slides.
        second: of the other bag, the same regions.
        present: whether both have the region.
        bounds: begin and end of each slide's regions.
    """
    moments = np.zeros((len(bounds), first.shape[1], second.shape[1]))
    for number, (begin, end) in enumerate(bounds):
        if end > begin:
            there = np.flatnonzero(present[begin:end]) + begin
            moments[number] = first[there].T @ second[there] / (end - begin)
    return moments


def contrast_matrices(
    moments: Float64[np.ndarray, "slide a b"],
    label: Float64[np.ndarray, " slide"],
    weight: Float64[np.ndarray, "problem slide"],
) -> Float64[np.ndarray, "problem rank a b"]:
    """For each problem and rank the matrix M of norm one whose score is `<F_i, M>`.

    The shrunk one weighs singular values by what is left of them above the noise (Gavish and Donoho 2017), the noise
    taken from the spread of F within classes; where nothing is, it is the leading pair.

    Args:
        moments: of the training slides.
        label: 0 or 1.
        weight: 1 for the slides a problem uses, else 0.
    """
    positive, negative = weight * label, weight * (1 - label)
    n_positive, n_negative = positive.sum(axis=1), negative.sum(axis=1)
    if not (n_positive.all() and n_negative.all()):
        raise ValueError("a contrast needs slides of both classes")
    flat = moments.reshape(len(moments), -1)
    mean_positive = positive @ flat / n_positive[:, None]
    mean_negative = negative @ flat / n_negative[:, None]
    within = weight @ (flat**2).mean(axis=1)
    within -= n_positive * (mean_positive**2).mean(axis=1) + n_negative * (mean_negative**2).mean(axis=1)
    variance = np.maximum(within, 0) / np.maximum(weight.sum(axis=1) - 2, 1)
    noise = variance * (1 / n_positive + 1 / n_negative)
    difference = (mean_positive - mean_negative).reshape(-1, *moments.shape[1:])
    u, s, vt = np.linalg.svd(difference, full_matrices=False)
    kept = np.stack([_singular_weights(s, noise, moments.shape[1:], rank) for rank in RANKS], axis=1)
    matrices = np.einsum("pas,prs,psb->prab", u, kept, vt, optimize=True)
    norm = np.sqrt((kept**2).sum(axis=2))[:, :, None, None]
    result: Float64[np.ndarray, "problem rank a b"] = matrices / np.maximum(norm, 1e-300)
    return result


def _singular_weights(
    s: Float64[np.ndarray, "problem value"],
    noise: Float64[np.ndarray, " problem"],
    shape: tuple[int, ...],
    rank: int | None,
) -> Float64[np.ndarray, "problem value"]:
    if rank is not None:
        return np.where(np.arange(s.shape[1]) < rank, s, 0.0)
    a, b = shape
    variance = noise[:, None]
    above = s > np.sqrt(variance) * (np.sqrt(a) + np.sqrt(b))
    inside = (s**2 - (a + b) * variance) ** 2 - 4 * a * b * variance**2
    shrunk = np.where(above, np.sqrt(np.maximum(inside, 0)) / np.maximum(s, 1e-300), 0.0)
    nothing = ~above.any(axis=1)
    shrunk[nothing, 0] = s[nothing, 0]
    return shrunk


@dataclass(frozen=True, eq=False)
class _Pair:
    """The cross-moments of one pair of bags in one fold, whitened to the widest number of components."""

    train: Float64[np.ndarray, "train a b"]
    test: Float64[np.ndarray, "test a b"]
    spread: tuple[np.ndarray, np.ndarray]

    def prepared(self, preparation: Preparation) -> tuple[np.ndarray, np.ndarray]:
        """Training and test moments for one preparation: a corner of the whitened ones, or all with their scale."""
        k = preparation.components
        if k is not None:
            return self.train[:, :k, :k], self.test[:, :k, :k]
        scale = np.outer(*(spread / np.sqrt((spread**2).mean()) for spread in self.spread))
        return self.train * scale, self.test * scale


def _fit_fold(
    bags: Sequence[Bag],
    regions: Sequence[np.ndarray],
    is_positive: Bool[np.ndarray, " slide"],
    fold: Fold,
    settings: ProbeSettings,
) -> FoldPrediction:
    label = is_positive[fold.train].astype(np.float64)
    weight = inner_weights(fold)
    means = fit_mean_fold(bags, is_positive, fold, settings)
    pairs = _pairs(bags, regions, fold, settings)
    names, train_columns, test_columns = [], [], []
    for preparation in preparations(settings.components):
        train_scores, test_scores = [], []
        for pair in pairs:
            train, test = pair.prepared(preparation)
            matrices = contrast_matrices(train, label, weight)
            scores = np.tensordot(matrices, train, axes=([2, 3], [1, 2]))  # (problem, rank, train)
            train_scores.append(scores[fold.inner, :, np.arange(len(label))].T)
            test_scores.append(np.tensordot(matrices[-1], test, axes=([1, 2], [1, 2])))
        names += [f"{preparation.label}, {'shrunk' if rank is None else f'rank {rank}'}" for rank in RANKS]
        train_columns.append(np.stack(train_scores, axis=2))  # (rank, train, pair)
        test_columns.append(np.stack(test_scores, axis=2))
    train_stack, test_stack = (
        _with_means(np.concatenate(train_columns), means.held_out_logit),
        _with_means(np.concatenate(test_columns), means.test_logit),
    )
    centre = train_stack.mean(axis=1, keepdims=True)
    spread = np.maximum(train_stack.std(axis=1, keepdims=True), 1e-12)
    train_stack, test_stack = (train_stack - centre) / spread, (test_stack - centre) / spread
    coefficient = fit_nonnegative(train_stack, label, _STACK_PENALTY)
    best = int(log_loss(predict_logit(train_stack, coefficient), label).argmin())
    logit = predict_logit(test_stack[[best]], coefficient[[best]])[0]
    return FoldPrediction(logit, names[best])


def _with_means(scores: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """The columns of every candidate with the slide means' log odds as the last one."""
    column = np.broadcast_to(logit[None, :, None], (len(scores), len(logit), 1))
    return np.concatenate([scores, column], axis=2)


def _pairs(bags: Sequence[Bag], regions: Sequence[np.ndarray], fold: Fold, settings: ProbeSettings) -> list[_Pair]:
    bounds = [(int(a), int(b)) for a, b in zip(bags[0].region_start[:-1], bags[0].region_start[1:], strict=True)]
    whitened, spreads = [], []
    for bag, rows in zip(bags, regions, strict=True):
        whitening, centre = _whitening(bag, rows, fold, settings)
        prepared = np.full((len(rows), whitening.basis.shape[1]), np.nan)
        there = bag.region_present
        scale = whitening.scale[:, None] * whitening.spread
        prepared[there] = (rows[there] - centre) @ (whitening.basis / scale)
        whitened.append(prepared)
        spreads.append(whitening.spread)
    numbers = list(combinations(range(len(bags)), 2)) or [(0, 0)]
    result = []
    for a, b in numbers:
        both = bags[a].region_present & bags[b].region_present
        moments = cross_moments(whitened[a], whitened[b], both, bounds)
        result.append(_Pair(moments[fold.train], moments[fold.test], (spreads[a], spreads[b])))
    return result


def _whitening(
    bag: Bag, rows: np.ndarray, fold: Fold, settings: ProbeSettings
) -> tuple[Whitening, Float64[np.ndarray, " dim"]]:
    """Fitted on the regions of the training slides, every slide with the same weight; and what to centre on."""
    counts = np.diff(bag.region_start)
    of_slide = np.repeat(np.arange(len(bag.slides)), counts)
    usable = bag.region_present & np.isin(of_slide, fold.train)
    present = np.bincount(of_slide[bag.region_present], minlength=len(bag.slides))
    weight = 1 / present[of_slide[usable]]
    whitening = fit_whitening(
        rows[usable],
        weight,
        widest=max(settings.widest, *settings.components),
        centred=not bag.partly_read,
        seed=settings.seed,
    )
    return whitening, whitening.mean
