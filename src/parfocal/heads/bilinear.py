"""A low-rank bilinear head: what cross-scale contrast finds in closed form, found by gradient descent instead.

    score = sum over pairs of bags of  mean_r sum_j w_j (u_j . x_a(r)) (v_j . x_b(r))  +  a linear term of slide means

The mean over regions goes through the products: it is the inner product of the slide's within-region cross-moment
F = mean_r x_a x_b^T with W = sum_j w_j u_j v_j^T. So a slide is read once, whatever the number of its regions and of
training steps.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.heads.base import Arrays, Bags, Fit, ProbeSettings, Slides
from parfocal.heads.contrast.moments import cross_moments, pairs_of
from parfocal.heads.network import Network, Schedule, normal, scores_by_fold
from parfocal.heads.preparation import Preparation, Table, bounds_of, together
from parfocal.heads.regions import (
    check_same_regions,
    fit_mean_maps,
    fit_region_maps,
    prepared_means,
    prepared_regions,
    present_in_all,
)
from parfocal.heads.training import fit_network, network_head


class BilinearNetwork(Network):
    """A table of cross-moments for each pair of bags, and one of slide means."""

    name = "bilinear"

    def schedule(self, settings: ProbeSettings) -> Schedule:
        """Its own."""
        return Schedule(settings.bilinear_steps, settings.bilinear_rate, decay=1.0)

    def fit_preparation(
        self, bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
    ) -> dict[str, np.ndarray]:
        """Maps of means and of regions; and the mean and the common spread of each pair's moments."""
        check_same_regions(bags)
        arrays = fit_mean_maps(bags, train, preparation, settings)
        arrays |= fit_region_maps(bags, train, preparation, settings, by_slide=True)
        for number, moments in enumerate(_moments(bags, train, arrays)):
            mean = moments.mean(axis=0)
            spread = float(np.sqrt(((moments - mean) ** 2).mean()))
            arrays |= {f"moment {number}": mean, f"spread {number}": np.array([max(spread, 1e-12)], dtype=np.float32)}
        return arrays

    def tables(self, bags: Bags, slides: Slides, fitted: Arrays) -> tuple[Table, ...]:
        """One row for each slide in every table."""
        start = bounds_of(np.ones(len(slides), dtype=np.int64))
        moments = [
            (one - fitted[f"moment {number}"]) / fitted[f"spread {number}"]
            for number, one in enumerate(_moments(bags, slides, fitted))
        ]
        return tuple(Table(rows, start) for rows in (*moments, prepared_means(bags, slides, fitted)))

    def start(
        self, fitted: Arrays, widths: Sequence[int], settings: ProbeSettings, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Random directions; half of the pairs add, half subtract."""
        rank = settings.bilinear_rank
        parameters: dict[str, np.ndarray] = {}
        n_bags = sum(key.startswith("region ") and key.endswith(".matrix") for key in fitted)
        for number, (a, b) in enumerate(pairs_of(n_bags)):
            parameters[f"u {number}"] = normal(rng, fitted[f"region {a}.matrix"].shape[1], rank)
            parameters[f"v {number}"] = normal(rng, fitted[f"region {b}.matrix"].shape[1], rank)
            parameters[f"w {number}"] = np.where(np.arange(rank) % 2, -1, 1).astype(np.float32)[None]
        return parameters | {
            "linear": np.zeros(widths[-1], dtype=np.float32),
            "bias": np.zeros(1, dtype=np.float32),
        }

    def score(
        self,
        parameters: Mapping[str, Tensor],
        rows: Sequence[Float[Tensor, "fold slide _drawn _kept"]],
        real: Sequence[Bool[Tensor, "slide _drawn"]],
    ) -> Float[Tensor, "model slide"]:
        """The inner products of moments and low-rank matrices, and the linear term."""
        score: Float[Tensor, "model slide"]
        score = scores_by_fold(rows[-1][:, :, 0], parameters["linear"]) + parameters["bias"]
        for number, table in enumerate(rows[:-1]):
            weighted = parameters[f"u {number}"] * parameters[f"w {number}"]
            matrix = weighted @ parameters[f"v {number}"].transpose(1, 2)  # (model, a, b)
            score = score + scores_by_fold(table[:, :, 0], matrix.flatten(1))
        return score


def _moments(bags: Bags, slides: Slides, fitted: Arrays) -> list[Float32[np.ndarray, "picked _product"]]:
    """The cross-moments of each pair of bags, flat."""
    parts = [_moments_of(bags, slides[part], fitted) for part in together(bags, slides)]
    return [np.concatenate(own) if len(own) > 1 else own[0] for own in zip(*parts, strict=True)]


def _moments_of(bags: Bags, slides: Slides, fitted: Arrays) -> list[Float32[np.ndarray, "picked _product"]]:
    regions = prepared_regions(bags, slides, fitted)
    start = bounds_of(np.diff(bags[0].region_start)[slides])
    bounds = list(pairwise(start.tolist()))
    moments = []
    for a, b in pairs_of(len(bags)):
        both = present_in_all((bags[a], bags[b]), slides)
        moments.append(cross_moments(regions[a], regions[b], both, bounds).reshape(len(slides), -1))
    return moments


fit_bilinear: Fit = partial(fit_network, BilinearNetwork())
"""Fit the bilinear head on all pairs of bags, for each fold; one bag alone: on its own second moment.

As contrast does it, regions are always centred on their slide's mean (partly read bags on the training mean), a region
adds to a pair only where both bags are present, and the mean is over all regions of the slide. Raised is a ValueError
where the bags are not of the same regions.
"""

HEAD = network_head(BilinearNetwork(), "low-rank products in each region, averaged", "regions")
