"""Networks with one hidden layer: on the mean of a slide, and on every region with the mean taken afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.heads.base import Arrays, Bags, Fit, ProbeSettings, Slides
from parfocal.heads.network import Network, Schedule, by_fold, normal
from parfocal.heads.preparation import Preparation, Table, bounds_of, over_slides
from parfocal.heads.regions import (
    check_same_regions,
    fit_mean_maps,
    fit_region_maps,
    prepared_means,
    prepared_regions,
    present_in_all,
)
from parfocal.heads.training import fit_network, network_head


class _HiddenLayer(Network):
    """The network of both: one hidden layer for every row of one table, then the mean over the rows of a slide.

    Attributes:
        gain: what the mean is multiplied with, so that weights of usual size make scores of usual size.
    """

    gain: ClassVar[float]

    def schedule(self, settings: ProbeSettings) -> Schedule:
        """The same for both."""
        return Schedule(settings.mlp_steps, settings.mlp_rate, settings.mlp_decay)

    def start(
        self, fitted: Arrays, widths: Sequence[int], settings: ProbeSettings, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Normal weights, zero biases."""
        width = settings.mlp_width
        return {
            "hidden": normal(rng, widths[0], width),
            "hidden bias": np.zeros((1, width), dtype=np.float32),
            "head": normal(rng, width, 1),
            "head bias": np.zeros(1, dtype=np.float32),
        }

    def score(
        self,
        parameters: Mapping[str, Tensor],
        rows: Sequence[Float[Tensor, "fold slide _drawn _kept"]],
        real: Sequence[Bool[Tensor, "slide _drawn"]],
    ) -> Float[Tensor, "model slide"]:
        """The mean over the rows that count of what the head makes of each."""
        hidden = by_fold(rows[0].flatten(1, 2), parameters["hidden"]).add(parameters["hidden bias"]).relu()
        of_row = (hidden @ parameters["head"]).view(len(hidden), *real[0].shape)  # (model, slide, drawn)
        mean = of_row.masked_fill(~real[0], 0.0).sum(dim=2) / real[0].sum(dim=1).clamp(min=1)
        score: Float[Tensor, "model slide"] = self.gain * mean + parameters["head bias"]
        return score


class MeanNetwork(_HiddenLayer):
    """On slide means."""

    name = "mlp"
    gain = 1.0

    def fit_preparation(
        self, bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
    ) -> dict[str, np.ndarray]:
        """A map of each bag's slide means."""
        return fit_mean_maps(bags, train, preparation, settings)

    def tables(self, bags: Bags, slides: Slides, fitted: Arrays) -> tuple[Table, ...]:
        """One row for each slide."""
        return (Table(prepared_means(bags, slides, fitted), np.arange(len(slides) + 1)),)


class RegionNetwork(_HiddenLayer):
    """On region means."""

    name = "region_mlp"
    gain = 4.0  # the mean over 16 independent regions varies by a quarter of what one does

    def fit_preparation(
        self, bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
    ) -> dict[str, np.ndarray]:
        """A map of each bag's region means; whitened ones are centred on their slide's mean."""
        check_same_regions(bags)
        if not present_in_all(bags, train).any():
            raise ValueError(f"no training slide has a region in all of the bags {[bag.name for bag in bags]}")
        return fit_region_maps(bags, train, preparation, settings, by_slide=preparation.components is not None)

    def tables(self, bags: Bags, slides: Slides, fitted: Arrays) -> tuple[Table, ...]:
        """The regions that all bags have."""
        there = present_in_all(bags, slides)
        of_slide = np.repeat(np.arange(len(slides)), np.diff(bags[0].region_start)[slides])
        start = bounds_of(np.bincount(of_slide[there], minlength=len(slides)))

        def prepare(some: Slides) -> Float32[np.ndarray, "_region _kept"]:
            rows = np.concatenate(prepared_regions(bags, some, fitted), axis=1)
            return np.asarray(rows[present_in_all(bags, some)])

        return (Table(over_slides(bags, slides, start, prepare), start),)


fit_mlp: Fit = partial(fit_network, MeanNetwork())
"""Fit a network with one hidden layer on slide means, for each fold; several bags: their means side by side.

Mean pooling and a shallow network is what SiMLP (arXiv 2502.20823) found hard to beat on slides.
"""
fit_region_mlp: Fit = partial(fit_network, RegionNetwork())
"""Fit a network that scores every region from the region means of all bags side by side, averaged over regions.

A region counts only where all bags are present; it is left out of the average otherwise, and no vector is put in its
place. A slide without any such region is scored by the intercept alone. Raised is a ValueError where the bags are not
of the same regions, or no training slide has a region in all of them.
"""

MLP = replace(network_head(MeanNetwork(), "mean, one hidden layer", "means"), may_lack=True)
REGION_MLP = network_head(RegionNetwork(), "one hidden layer over each region, averaged", "regions")
