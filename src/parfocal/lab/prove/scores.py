"""How good predictions of hidden tiles are: R2, picking the true tile, and what a predicted variance is worth.

- R2 from sums over slides: pooled over tiles and dims, averaged over magnifications, with intervals;
- whether a prediction picks the true tile out of all tiles of its slide, which knows nothing of slide means;
- whether a predicted variance means what it says: how often the truth lies inside its intervals, and its ranking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy import stats

from parfocal.lab.prove.layout import Layout, Regions, Slots, Tiles
from parfocal.report.writer import pick
from parfocal.stats import Interval, PatientDraws


def squared_sums(
    predicted: Tiles, target: Tiles, hidden: Slots, layout: Layout, cluster: Regions, n_clusters: int
) -> tuple[Float64[np.ndarray, "level cluster"], Float64[np.ndarray, "level cluster"]]:
    """For each magnification and cluster: squared errors of the hidden tiles, and their squares about the mean 0."""
    error, spread = np.zeros((2, len(layout.mpps), n_clusters))
    for level in range(len(layout.mpps)):
        row, slot = np.nonzero(hidden & (layout.level == level))
        truth = target[row, slot]
        squared = np.square(predicted[row, slot] - truth).sum(axis=1, dtype=np.float64)
        error[level] = np.bincount(cluster[row], squared, minlength=n_clusters)
        about_mean = np.square(truth).sum(axis=1, dtype=np.float64)
        spread[level] = np.bincount(cluster[row], about_mean, minlength=n_clusters)
    return error, spread


def mean_r2(predicted: Tiles, target: Tiles, hidden: Slots, layout: Layout) -> float:
    """The R2 of each magnification that has a hidden tile, averaged."""
    one = np.zeros(len(hidden), dtype=np.int64)
    return _r2(*squared_sums(predicted, target, hidden, layout, one, 1))


def _r2(error: Float64[np.ndarray, "level cluster"], spread: Float64[np.ndarray, "level cluster"]) -> float:
    errors, spreads = error.sum(axis=1), spread.sum(axis=1)
    asked = spreads > 0
    return float((1 - errors[asked] / spreads[asked]).mean()) if asked.any() else float("nan")


@dataclass
class ScoreTable:
    """Sums of every method under every pattern, by magnification and cluster; whatever is printed comes from here.

    Attributes:
        n_clusters: slides, or parts of the only slide, that intervals draw again.
        error: (method, pattern) -> squared errors.
        spread: pattern -> squares of the targets.
    """

    n_clusters: int
    error: dict[tuple[str, str], Float64[np.ndarray, "level cluster"]] = field(default_factory=dict)
    spread: dict[str, Float64[np.ndarray, "level cluster"]] = field(default_factory=dict)

    def add(
        self,
        method: str,
        pattern: str,
        predicted: Tiles,
        target: Tiles,
        hidden: Slots,
        layout: Layout,
        cluster: Regions,
        *,
        share: float = 1.0,
    ) -> None:
        """Take the predictions of a method under a pattern in; `share` is one over the number of its seeds.

        Errors of several seeds are averaged, not their predictions: a method stands for what one seed of it gives.
        """
        error, self.spread[pattern] = squared_sums(predicted, target, hidden, layout, cluster, self.n_clusters)
        self.error[method, pattern] = self.error.get((method, pattern), 0.0) + share * error

    def methods(self) -> tuple[str, ...]:
        """In the order in which they came."""
        return tuple(dict.fromkeys(method for method, _ in self.error))

    def levels(self, pattern: str) -> tuple[int, ...]:
        """The magnifications that the pattern hides."""
        return tuple(np.flatnonzero(self.spread[pattern].sum(axis=1) > 0).tolist())

    def r2(self, method: str, pattern: str, level: int | None = None) -> float:
        """R2 of one magnification, or averaged over those that the pattern hides; NaN where nothing was asked."""
        if (method, pattern) not in self.error:
            return float("nan")
        chosen = slice(None) if level is None else slice(level, level + 1)
        return _r2(self.error[method, pattern][chosen], self.spread[pattern][chosen])

    def interval(
        self,
        method: str,
        pattern: str,
        level: int | None = None,
        *,
        minus: Sequence[str] = (),
        draws: int,
        seed: int,
    ) -> Interval | None:
        """A bootstrap interval over clusters; with `minus`, of the difference to another method on the same clusters.

        None where there are fewer than two clusters, so that nothing can be said about another one.
        """
        if any((name, pattern) not in self.error for name in (method, *minus)) or not self.levels(pattern):
            return None
        chosen = slice(None) if level is None else slice(level, level + 1)
        spread = self.spread[pattern][chosen]
        used = np.flatnonzero(spread.sum(axis=0) > 0)
        if len(used) < 2:
            return None
        spread = spread[:, used]
        # R2 is linear in the error, so a difference of methods is one quotient for each magnification as well.
        error = self.error[method, pattern][chosen][:, used].copy()
        for name in minus:
            error -= self.error[name, pattern][chosen][:, used]
        asked = spread.sum(axis=1) > 0
        error, spread = error[asked], spread[asked]
        constant = 1.0 - len(minus)
        return _drawn_clusters(len(used), draws, seed).interval(
            # A draw may lack a magnification that few clusters have: then it has no error either.
            lambda weight: constant - ((weight @ error.T) / np.maximum(weight @ spread.T, 1e-300)).mean(axis=1)
        )


@lru_cache(maxsize=4)
def _drawn_clusters(n_clusters: int, draws: int, seed: int) -> PatientDraws:
    """How often each cluster is there in every draw: the same for all methods and patterns, which ask again and again.

    The draws are those of `patient_bootstrap`.
    """
    chosen = np.random.default_rng(seed).integers(n_clusters, size=(draws, n_clusters))
    place = chosen + n_clusters * np.arange(draws)[:, None]
    count = np.bincount(place.ravel(), minlength=draws * n_clusters).reshape(draws, n_clusters)
    every = np.arange(n_clusters)
    return PatientDraws(count.astype(np.float32), every, every)


LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Nominal shares of central intervals that are looked at."""


@dataclass(frozen=True)
class Calibration:
    """What a method's variance is worth at one magnification.

    Attributes:
        coverage: for each of `LEVELS`, the share of numbers that lie inside the interval of a normal law.
        spearman: rank correlation, over tiles, of the mean predicted variance with the mean squared error; NaN where
            all variances are equal.
        n_tiles: how many tiles were looked at.
    """

    coverage: tuple[float, ...]
    spearman: float
    n_tiles: int

    def at(self, nominal: float) -> float:
        """The coverage of one of `LEVELS`."""
        return self.coverage[LEVELS.index(nominal)]

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        coverage = {f"{nominal:g}": share for nominal, share in zip(LEVELS, self.coverage, strict=True)}
        return {"coverage": coverage, **pick(self, "spearman", "n_tiles")}


def calibrate(
    predicted: Tiles, variance: Tiles, target: Tiles, hidden: Slots, layout: Layout, level: int
) -> Calibration | None:
    """Compare errors with variances over all hidden tiles of a magnification; None where there are fewer than two."""
    row, slot = np.nonzero(hidden & (layout.level == level))
    if len(row) < 2:
        return None
    dims = layout.dims[level]
    error = np.square(predicted[row, slot, :dims] - target[row, slot, :dims])
    variances = variance[row, slot, :dims]
    ratio = np.sqrt(error / np.maximum(variances, 1e-12))
    coverage = tuple(float((ratio <= stats.norm.ppf(0.5 + nominal / 2)).mean()) for nominal in LEVELS)
    of_tile = variances.mean(axis=1, dtype=np.float64)
    varies = np.ptp(of_tile) > 1e-6 * abs(float(of_tile.mean()))
    spearman = float(stats.spearmanr(of_tile, error.mean(axis=1, dtype=np.float64)).statistic) if varies else np.nan
    return Calibration(coverage, spearman, len(row))


@dataclass(frozen=True)
class Retrieval:
    """Top-1 of the true tile at one magnification.

    Attributes:
        top1: share of the hidden tiles whose prediction is most similar to the true tile.
        chance: the same by guessing.
        n_queries: how many hidden tiles were asked for.
        n_candidates: tiles of a slide that it was picked from, on average over the asked tiles.
    """

    top1: Mapping[str, float]
    chance: float
    n_queries: int
    n_candidates: float


@dataclass(frozen=True, eq=False)
class PatternScores:
    """What all methods are worth under one pattern.

    Attributes:
        scores: sums behind every R2.
        retrieval: magnification -> how often the true tile is picked.
        calibration: magnification -> method -> what its variance is worth.
    """

    scores: ScoreTable
    retrieval: Mapping[int, Retrieval]
    calibration: Mapping[int, Mapping[str, Calibration]]


def retrieve(
    predictions: Mapping[str, Tiles],
    target: Tiles,
    present: Slots,
    hidden: Slots,
    slide: Regions,
    layout: Layout,
    level: int,
    *,
    most: int,
    rng: np.random.Generator,
) -> Retrieval | None:
    """Ask every method for the same tiles; the candidates are all tiles of the slide among the looked-at regions.

    The similarity is the cosine about the mean of the slide's candidates, so that predicting the slide's mean, however
    well, is no better than guessing. The first of equal candidates counts as picked only by its share of them.

    Args:
        predictions: of each method.
        target: standardised tiles.
        present: which there are.
        hidden: which are asked for.
        slide: number of each region's slide.
        layout: where slots lie.
        level: the magnification to look at.
        most: at most so many asked tiles of a slide.
        rng: draws them.

    Returns:
        None where no tile of that magnification is hidden.
    """
    at_level = layout.level == level
    hits = dict.fromkeys(predictions, 0.0)
    chance, n_queries, n_candidates = 0.0, 0, 0.0
    for one in np.unique(slide):
        rows = np.flatnonzero(slide == one)
        candidate_row, candidate_slot = np.nonzero(present[rows] & at_level)
        asked = np.flatnonzero(hidden[rows][candidate_row, candidate_slot])
        if not len(asked):
            continue
        asked = asked[rng.permutation(len(asked))[:most]]
        candidates = target[rows[candidate_row], candidate_slot]
        mean = candidates.mean(axis=0)
        candidates = candidates - mean
        candidates = candidates / np.maximum(np.linalg.norm(candidates, axis=1, keepdims=True), 1e-12)
        for name, predicted in predictions.items():
            similarity = (predicted[rows[candidate_row[asked]], candidate_slot[asked]] - mean) @ candidates.T
            best = similarity.max(axis=1, keepdims=True)
            tied = similarity >= best - 1e-6 * np.maximum(np.abs(best), 1e-12)
            is_true = tied[np.arange(len(asked)), asked]
            hits[name] += float((is_true / tied.sum(axis=1)).sum())
        chance += len(asked) / len(candidates)
        n_queries += len(asked)
        n_candidates += len(asked) * len(candidates)
    if not n_queries:
        return None
    return Retrieval(
        {name: count / n_queries for name, count in hits.items()},
        chance / n_queries,
        n_queries,
        n_candidates / n_queries,
    )
