"""Regions as networks take them: prepared means of several bags side by side, or all tiles in place.

Slide means and region means go to small networks; the tiles of some slides go to a region encoder, in batches.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from parfocal.bags import Bag
from parfocal.geometry import format_mpp
from parfocal.heads.base import Arrays, Bags, ProbeSettings, Slides
from parfocal.heads.contrast.expected import means_of_regions
from parfocal.heads.contrast.moments import PickedRegions, is_partly_read
from parfocal.heads.preparation import Preparation, bounds_of, fit_map, has_mean, over_slides, prepare_means
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.region_encoder.batch import RegionBatch, number_ranges
from parfocal.stats.whitening import AffineMap

_AT_A_TIME = 256  # regions that are encoded


@dataclass(frozen=True, eq=False)
class PlacedRegions:
    """Where the regions of some slides lie in a bag; regions without a tile that the encoder sees are not there.

    Attributes:
        bag: the bag.
        dim: width of a token of the encoder.
        rows: rows of the bag, those of a region together.
        first: where each region begins in `rows`, and the end.
        start: where the regions of each slide begin, and the end.
    """

    bag: Bag
    dim: int
    rows: Int64[np.ndarray, " row"]
    first: Int64[np.ndarray, " bound"]
    start: Int64[np.ndarray, " slide_bound"]

    def take(self, regions: Int64[np.ndarray, " region"]) -> RegionBatch:
        """Some regions, in the given order."""
        assert self.bag.place is not None  # `placed_regions` has looked
        count = self.first[regions + 1] - self.first[regions]
        row = self.rows[number_ranges(self.first[regions], count)]
        width = min(self.dim, self.bag.dim)
        tokens = np.zeros((len(row), self.dim), dtype=np.float32)
        tokens[:, :width] = self.bag.rows[row, :width]
        slide = np.searchsorted(self.start, regions, side="right") - 1
        return RegionBatch.of_rows(
            tokens,
            self.bag.place[row, :3],
            bounds_of(count),
            slide=slide,
            region=regions - self.start[slide],
        )

    @torch.no_grad()
    def encode(self, encoder: RegionEncoder) -> Float[Tensor, "region width"]:
        """The vectors of all regions, in evaluation mode and on the encoder's device."""
        encoder.eval()
        device, total, parts = encoder.specials.device, int(self.start[-1]), []
        for begin in range(0, total, _AT_A_TIME):
            batch = self.take(np.arange(begin, min(begin + _AT_A_TIME, total))).to(device)
            parts.append(encoder(batch.tokens, batch.xy_um, batch.mpp, batch.present).cls)
        return torch.cat(parts)

    def of_slide(self, slide: int) -> Int64[np.ndarray, " region"]:
        """The numbers of a slide's regions, by its place among the slides that were asked for."""
        return np.arange(self.start[slide], self.start[slide + 1])


def placed_regions(bags: Bags, slides: Slides, config: RegionEncoderConfig) -> PlacedRegions:
    """The regions of some slides, with the tiles of the encoder's magnifications.

    Raises:
        ValueError: not the one bag of tiles in place is given, or a slide has no tile that the encoder sees.
    """
    (bag,) = bags
    if bag.place is None:
        raise ValueError(f"the bag {bag.name!r} does not say where its tiles lie; read the bag of tiles in place")
    known = {format_mpp(mpp) for mpp in config.mpps}
    seen = [mpp for mpp in np.unique(bag.place[:, 2]) if format_mpp(float(mpp)) in known]
    rows, first, start, total = [], [], [0], 0
    for slide in slides:
        own = np.arange(bag.start[slide], bag.start[slide + 1])
        own = own[np.isin(bag.place[own, 2], seen)]
        if not len(own):
            raise ValueError(f"{bag.slides[slide]} has no tile that the region encoder sees; leave it out")
        begins = np.flatnonzero(np.diff(bag.place[own, 3], prepend=-1))
        rows.append(own)
        first.append(total + begins)
        start.append(start[-1] + len(begins))
        total += len(own)
    return PlacedRegions(
        bag,
        config.dim,
        np.concatenate(rows),
        np.concatenate([*first, [total]]).astype(np.int64),
        np.array(start, dtype=np.int64),
    )


def check_same_regions(bags: Bags) -> None:
    """Return if the rows of all bags' regions stand for the same regions.

    Raises:
        ValueError: they do not.
    """
    if any(not np.array_equal(bag.region_start, bags[0].region_start) for bag in bags):
        raise ValueError(f"bags {[bag.name for bag in bags]} are not of the same regions")


def fit_mean_maps(
    bags: Bags, train: Int64[np.ndarray, " train"], preparation: Preparation, settings: ProbeSettings
) -> dict[str, np.ndarray]:
    """How each bag's slide means are prepared: centred on the training mean, whitened by the spread between slides."""
    arrays: dict[str, np.ndarray] = {}
    for number, bag in enumerate(bags):
        there = train[has_mean(bag, train)]
        fitted = fit_map(bag.mean, there, np.arange(len(there)), None, preparation, settings)
        arrays |= fitted.state(f"mean {number}")
    return arrays


def prepared_means(bags: Bags, slides: Slides, fitted: Arrays) -> Float32[np.ndarray, "picked kept"]:
    """The means of some slides, all bags side by side."""
    return np.concatenate(
        [
            prepare_means(AffineMap.load(f"mean {number}", fitted), bag.mean[slides], has_mean(bag, slides))
            for number, bag in enumerate(bags)
        ],
        axis=1,
    )


def fit_region_maps(
    bags: Bags,
    train: Int64[np.ndarray, " train"],
    preparation: Preparation,
    settings: ProbeSettings,
    *,
    by_slide: bool,
) -> dict[str, np.ndarray]:
    """How each bag's region means are prepared.

    Args:
        bags: of the same regions.
        train: the training slides.
        preparation: whitened or not.
        settings: the most components.
        by_slide: whether regions are centred on their slide's mean. A bag that is partly read in the training slides
            is centred on its training mean instead: the mean of the regions that were read depends on which they were.
    """
    arrays: dict[str, np.ndarray] = {}
    for number, bag in enumerate(bags):
        picked = PickedRegions.of(bag, train)
        centre = None if not by_slide or is_partly_read(bag, train) else _means(bag, train)
        fitted = fit_map(bag.region_mean, picked.present, picked.of_slide, centre, preparation, settings)
        arrays |= fitted.state(f"region {number}")
    return arrays


def prepared_regions(bags: Bags, slides: Slides, fitted: Arrays) -> list[Float32[np.ndarray, "region _kept"]]:
    """All regions of some slides, one array for each bag; NaN where a bag has nothing of a region."""
    prepared = []
    for number, bag in enumerate(bags):
        start = bounds_of(np.diff(bag.region_start)[slides])
        prepare = partial(_prepared, bag, AffineMap.load(f"region {number}", fitted))
        prepared.append(over_slides([bag], slides, start, prepare))
    return prepared


def _prepared(bag: Bag, region_map: AffineMap, slides: Slides) -> Float32[np.ndarray, "region kept"]:
    picked = PickedRegions.of(bag, slides)
    result = np.full((len(picked.numbers), region_map.matrix.shape[1]), np.nan, dtype=np.float32)
    rows = bag.region_mean[picked.present]
    result[picked.there] = region_map.apply(rows, _means(bag, slides), picked.of_slide)
    return result


def present_in_all(bags: Bags, slides: Slides) -> Bool[np.ndarray, " region"]:
    """Which regions of some slides are present in every bag."""
    return np.asarray(np.logical_and.reduce([PickedRegions.of(bag, slides).there for bag in bags]))


def _means(bag: Bag, slides: Slides) -> Float32[np.ndarray, "picked dim"]:
    return means_of_regions(bag, slides).astype(np.float32)
