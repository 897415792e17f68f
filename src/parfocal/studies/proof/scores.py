"""R2 of hidden tiles from sums over slides: pooled over tiles and dims, averaged over magnifications; intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from parfocal.report.statistics import Interval, patient_bootstrap
from parfocal.studies.proof.layout import Layout

__all__ = ["ScoreTable", "mean_r2", "squared_sums"]


def squared_sums(
    predicted: Float32[np.ndarray, "region slot dim"],
    target: Float32[np.ndarray, "region slot dim"],
    hidden: Bool[np.ndarray, "region slot"],
    layout: Layout,
    cluster: Int64[np.ndarray, " region"],
    n_clusters: int,
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


def mean_r2(
    predicted: Float32[np.ndarray, "region slot dim"],
    target: Float32[np.ndarray, "region slot dim"],
    hidden: Bool[np.ndarray, "region slot"],
    layout: Layout,
) -> float:
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
        predicted: Float32[np.ndarray, "region slot dim"],
        target: Float32[np.ndarray, "region slot dim"],
        hidden: Bool[np.ndarray, "region slot"],
        layout: Layout,
        cluster: Int64[np.ndarray, " region"],
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
        return patient_bootstrap(
            # A draw may lack a magnification that few clusters have: then it has no error either.
            lambda drawn: (
                constant
                - float((error[:, drawn].sum(axis=1) / np.maximum(spread[:, drawn].sum(axis=1), 1e-300)).mean())
            ),
            used,
            rng=np.random.default_rng(seed),
            draws=draws,
        )
