"""All baselines of a proof, fitted on the checkpoint's training regions and asked one pattern at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.lab.prove.data import ProveSettings, Standardise, TrainingSample, read_regions, sample_parts
from parfocal.lab.prove.gaussian import (
    Bases,
    Conditional,
    Covariance,
    JointMoments,
    affordable_rows,
    component_counts,
    principal_bases,
    separable_covariance,
)
from parfocal.lab.prove.layout import Layout, Pattern, Query, Tiles, draw_hidden, query_of
from parfocal.lab.prove.networks import RegionNetwork, RelativeNetwork, fit_relative_network
from parfocal.lab.prove.simple import (
    NearestRegions,
    RelativeRidge,
    choose_rank,
    choose_ridge,
    fit_relative_ridge,
    global_mean,
    leading_directions,
    nearest_token,
    reduce,
    region_mean,
    slide_mean,
)
from parfocal.lab.prove.subject import Predictor, Subject
from parfocal.pretrain.holdout import Split
from parfocal.region_encoder.batch import RegionBatch
from parfocal.stats.regression import LinearModel

BASELINES: Mapping[str, str] = {
    "B0": "the mean of all training tiles",
    "B1": "the mean of the slide's other regions",
    "B2": "the mean of the region's visible tiles of that magnification",
    "B3": "the nearest visible tile, copied",
    "B4": "a linear map from the tile over it (or those inside it), whatever the position",
    "B5": "the best linear map from all visible tiles with their positions",
    "B6": "the same along few directions",
    "B7, k=1": "the tile at that place in the most similar training region",
    "B7, k=8": "the mean of those of the eight most similar ones",
    "B8": "a network from the tile over it and the position, without attention",
    "B9": "kriging: a Gaussian field in space and magnification",
    "B10": "a network from all visible tiles in their places, without attention",
}
"""What each baseline predicts a hidden tile by."""

_VALIDATION_FLOPS = 4e9
_DIRECTION_FLOPS = 6e9
_VALIDATION_REGIONS = 256
_MOMENTS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class Choice:
    """What validation regions chose for a pattern.

    Attributes:
        is_symmetrised: whether the covariance of B5 is that of regions turned and mirrored as well.
        ridge: of B5.
        directions: of B6.
        rank: of B6.
        kriging_ridge: of B9.
    """

    is_symmetrised: bool
    ridge: float
    directions: Float32[np.ndarray, "level dim target"]
    rank: int
    kriging_ridge: float


@dataclass(frozen=True, eq=False)
class FittedBaselines:
    """Everything that was fitted, with what was chosen on validation regions of the training slides.

    Attributes:
        linear: B5 for each pattern: one matrix, a ridge for each.
        kriging: B9 for each pattern.
        chosen: what validation regions chose for each pattern; B6 is made of it.
        n_regions: training regions behind the matrices.
        region_network: B10, which is trained as the checkpoint was; None where it was not asked for.
    """

    layout: Layout
    nearest: Mapping[str, NearestRegions]
    relative: RelativeRidge
    network: RelativeNetwork
    linear: Mapping[str, Conditional]
    kriging: Mapping[str, Conditional]
    chosen: Mapping[str, Choice]
    n_regions: int
    region_network: RegionNetwork | None = None

    def predictions(self, pattern: str, query: Query) -> Iterator[tuple[str, Tiles]]:
        """The prediction of each baseline, one after another."""
        layout = self.layout
        for name, function in _UNFITTED.items():
            yield name, function(query, layout)
        yield "B4", self.relative.predict(query, layout)
        full = self.linear[pattern].predict(query, layout)
        yield "B5", full
        choice = self.chosen[pattern]
        yield "B6", reduce(full, choice.directions, choice.rank, layout)
        for name, nearest in self.nearest.items():
            yield name, nearest.predict(query, layout)
        yield "B8", self.network.predict(query, layout)
        yield "B9", self.kriging[pattern].predict(query, layout)
        if self.region_network is not None:
            yield "B10", self.region_network.predict(query, layout)

    def choices(self) -> dict[str, dict[str, float]]:
        """What was chosen for each pattern."""
        return {
            pattern: {"B5 ridge": one.ridge, "B6 rank": float(one.rank), "B9 ridge": one.kriging_ridge}
            for pattern, one in self.chosen.items()
        }


_UNFITTED: Mapping[str, Callable[[Query, Layout], Tiles]] = {
    "B0": global_mean,
    "B1": slide_mean,
    "B2": region_mean,
    "B3": nearest_token,
}


@dataclass(frozen=True, eq=False)
class Covariances:
    """Of training regions without the validation regions, and of all of them; free, and as kriging sees them."""

    part: Covariance
    whole: Covariance
    part_kriged: Covariance
    whole_kriged: Covariance


KEPT = (Choice, Covariance, Covariances, LinearModel, RelativeRidge)
"""What the finished steps of a fit are made of."""


def fit_baselines(
    subject: Subject,
    predictor: Predictor,
    patterns: tuple[Pattern, ...],
    settings: ProveSettings,
    *,
    tell: Callable[[str], None],
) -> FittedBaselines:
    """Fit them all; only training regions are read.

    Args:
        subject: the checkpoint, with the regions that it was trained on.
        predictor: its model, which standardises tiles.
        patterns: what will be asked.
        settings: how much is read, and how long B8 is trained.
        tell: is told what happens next.
    """
    training, seed, rate = subject.split.training, settings.seed, subject.settings.mask_rate
    layout, standardise = predictor.layout, predictor.standardise
    tell("reading training regions")
    most = settings.affordable(settings.memory_regions, 2, layout)
    sampled = sample_parts(training, most, np.random.default_rng([seed, 1]))
    regions = RegionBatch.join(list(read_regions(subject.cache, training, sampled, layout)))
    is_validation = _is_validation(subject.split, regions, seed)
    sample = TrainingSample(standardise(regions), regions.present.numpy(), is_validation)
    n_predictors, n_targets = component_counts(layout)
    bases = principal_bases(sample.tokens, sample.present, layout, n_predictors=n_predictors, n_targets=n_targets)
    tell("second moments of training regions")
    chosen = sample_parts(training, settings.train_regions, np.random.default_rng([seed, 2]))
    covariances = subject.step(
        "second moments",
        [bases, settings.train_regions, seed],
        partial(_covariances, subject, layout, standardise, bases, chosen, seed),
    )
    tell("B4")
    relative = subject.kept.step(
        "B4",
        [sample, layout, seed],
        lambda: fit_relative_ridge(
            sample.tokens, sample.present, sample.is_validation, layout, rng=np.random.default_rng([seed, 4])
        ),
    )
    linear, kriging, choices = {}, {}, {}
    turned = covariances.whole.symmetrised(layout)
    for pattern in patterns:
        tell(f"B5, B6 and B9 for {pattern.name}")
        choice = choices[pattern.name] = subject.kept.step(
            f"B5 B6 B9 {pattern.name}",
            [pattern, sample, bases, covariances, layout, rate, seed],
            partial(_choose, pattern, sample, layout, bases, covariances, rate, seed),
        )
        covariance = turned if choice.is_symmetrised else covariances.whole
        linear[pattern.name] = Conditional(bases, covariance, choice.ridge)
        kriging[pattern.name] = Conditional(bases.truncated(), covariances.whole_kriged, choice.kriging_ridge)
    tell("B8")
    steps = settings.network_steps
    network = fit_relative_network(
        sample.tokens, sample.present, layout, steps=steps, rate=rate, seed=seed, kept=subject.kept
    )
    nearest = {f"B7, k={k}": NearestRegions(sample.tokens, sample.present, k) for k in (1, 8)}
    n_regions = sum(len(regions) for _, regions in chosen)
    return FittedBaselines(layout, nearest, relative, network, linear, kriging, choices, n_regions)


def _covariances(
    subject: Subject,
    layout: Layout,
    standardise: Standardise,
    bases: Bases,
    sample: Sequence[tuple[int, Int64[np.ndarray, " _region"]]],
    seed: int,
) -> Covariances:
    fitting, validating = JointMoments(layout, bases), JointMoments(layout, bases)
    for regions in _gathered(read_regions(subject.cache, subject.split.training, sample, layout)):
        tokens, present = standardise(regions), regions.present.numpy()
        is_validation = _is_validation(subject.split, regions, seed)
        for moments, chosen in ((validating, is_validation), (fitting, ~is_validation)):
            if chosen.any():
                moments.add(tokens[chosen], present[chosen])
    part, whole = fitting.covariance(), fitting.plus(validating).covariance()
    return Covariances(part, whole, separable_covariance(part, layout), separable_covariance(whole, layout))


def _choose(
    pattern: Pattern,
    sample: TrainingSample,
    layout: Layout,
    bases: Bases,
    covariances: Covariances,
    rate: tuple[float, float],
    seed: int,
) -> Choice:
    """Covariance, ridges and rank, chosen with what is fitted without the validation regions."""
    ask = partial(_ask, pattern, sample, layout, bases, rate, seed)
    query, target = ask(sample.is_validation, _VALIDATION_FLOPS)
    # Each position by itself, or all regions turned and mirrored as well: what predicts validation regions better.
    parts = [covariances.part, covariances.part.symmetrised(layout)]
    ridges, scores = zip(*(choose_ridge(bases, part, query, target, layout) for part in parts), strict=True)
    is_symmetrised = scores[1] > scores[0]
    part, ridge = parts[is_symmetrised], ridges[is_symmetrised]
    whole = covariances.whole.symmetrised(layout) if is_symmetrised else covariances.whole
    fitted, _ = ask(~sample.is_validation, _DIRECTION_FLOPS)
    predicted = Conditional(bases, whole, ridge).predict(fitted, layout)
    directions = leading_directions(predicted, fitted.hidden, layout, bases)
    rank = choose_rank(Conditional(bases, part, ridge).predict(query, layout), directions, target, query.hidden, layout)
    kriging_ridge, _ = choose_ridge(bases.truncated(), covariances.part_kriged, query, target, layout)
    return Choice(is_symmetrised, ridge, directions, rank, kriging_ridge)


def _ask(
    pattern: Pattern,
    sample: TrainingSample,
    layout: Layout,
    bases: Bases,
    rate: tuple[float, float],
    seed: int,
    mine: Bool[np.ndarray, " region"],
    most_flops: float,
) -> tuple[Query, Float32[np.ndarray, "asked slot dim"]]:
    """A question about some training regions, as many as can be answered for that, and the truth."""
    rows = np.flatnonzero(mine)
    rows = rows[:: max(1, len(rows) // _VALIDATION_REGIONS)]
    tokens, present = sample.tokens[rows], sample.present[rows]
    hidden = draw_hidden(pattern, layout, present, rate=rate, seed=seed + 1)
    nothing = np.zeros((len(rows), len(layout.mpps), layout.dim), dtype=np.float32)
    query = query_of(tokens, present, hidden, nothing)
    kept = affordable_rows(query, n_predictors=bases.n_predictors, most_flops=most_flops)
    return query.take(kept), tokens[kept]


def _gathered(parts: Iterable[RegionBatch]) -> Iterator[RegionBatch]:
    """A few slides together: each addition to a matrix of joint moments goes through all of it."""
    waiting: list[RegionBatch] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= _MOMENTS_AT_ONCE:
            yield RegionBatch.join(waiting)
            waiting = []
    if waiting:
        yield RegionBatch.join(waiting)


def _is_validation(split: Split, regions: RegionBatch, seed: int) -> Bool[np.ndarray, " region"]:
    """A quarter of the training slides; the last quarter of an only one, which is a band of it."""
    if len(split.training) == 1:
        border = np.quantile(split.training[0].regions, 0.75)
        return np.asarray(regions.region.numpy() > border)
    order = np.random.default_rng([seed, 3]).permutation(len(split.training))
    chosen = order[: max(1, round(len(order) / 4))]
    return np.isin(regions.slide.numpy(), chosen)
