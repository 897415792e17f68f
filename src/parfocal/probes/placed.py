"""The regions of some slides of a bag of tiles in place, as batches that a region encoder takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from parfocal.bags import Bag
from parfocal.geometry import format_mpp
from parfocal.region_encoder import RegionEncoderConfig

__all__ = ["PlacedRegions", "Tiles", "placed_regions"]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Regions side by side, as `RegionEncoder.forward` takes them."""

    tokens: Float32[Tensor, "region token dim"]
    xy_um: Float32[Tensor, "region token 2"]
    mpp: Float32[Tensor, "region token"]
    present: Bool[Tensor, "region token"]

    def to(self, device: torch.device) -> "Tiles":
        """The same on a device."""
        return Tiles(*(one.to(device) for one in (self.tokens, self.xy_um, self.mpp, self.present)))


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

    def take(self, regions: Int64[np.ndarray, " region"]) -> Tiles:
        """Some regions, in the given order; filled up with absent tokens to the longest one."""
        assert self.bag.place is not None  # `placed_regions` has looked
        count = self.first[regions + 1] - self.first[regions]
        order = np.arange(int(count.max(initial=1)))
        present = order < count[:, None]
        row = self.rows[np.where(present, self.first[regions][:, None] + order, self.first[regions][:, None])]
        width, place = min(self.dim, self.bag.dim), self.bag.place[row]
        tokens = np.zeros((*row.shape, self.dim), dtype=np.float32)
        tokens[..., :width] = np.where(present[..., None], self.bag.rows[row][..., :width], np.float32(0))
        return Tiles(
            torch.from_numpy(tokens),
            torch.from_numpy(np.ascontiguousarray(place[..., :2])),
            torch.from_numpy(np.ascontiguousarray(place[..., 2])),
            torch.from_numpy(present),
        )

    def of_slide(self, slide: int) -> Int64[np.ndarray, " region"]:
        """The numbers of a slide's regions, by its place among the slides that were asked for."""
        return np.arange(self.start[slide], self.start[slide + 1])


def placed_regions(
    bags: Sequence[Bag], slides: Int64[np.ndarray, " picked"], config: RegionEncoderConfig
) -> PlacedRegions:
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
