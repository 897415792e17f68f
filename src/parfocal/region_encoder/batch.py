"""Regions of slides side by side as tensors: how they travel from a store to a model, and what it makes of them.

Rows that lie below one another, with the place where those of each region begin, become a batch by `of_rows`. In it
every region has as many columns as the largest one: masks, questions to the decoder and losses are drawn for columns,
and the encoder leaves out what is absent before it computes anything.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from parfocal.store import SlideTokens

# What is said of the tokens of regions: their embeddings, centres about the region's centre, micrometres per pixel, and
# some of them.
Tokens = Float[Tensor, "region token dim"]
Centres = Float[Tensor, "region token 2"]
Mpps = Float[Tensor, "region token"]
TokenMask = Bool[Tensor, "region token"]


@dataclass(frozen=True, eq=False)
class RegionBatch:
    """The tiles of regions. What stands at absent ones is filling and never to be read.

    Attributes:
        tokens: tile embeddings; a narrower magnification has its features first.
        xy_um: tile centres about the region's centre, in micrometres.
        mpp: micrometres per pixel of each tile.
        present: which tiles there are.
        slide: the number of each region's slide, as the reader numbers them.
        region: the number of each region in its slide.
    """

    tokens: Float[Tensor, "region token dim"]
    xy_um: Float32[Tensor, "region token 2"]
    mpp: Float32[Tensor, "region token"]
    present: Bool[Tensor, "region token"]
    slide: Int64[Tensor, " region"]
    region: Int64[Tensor, " region"]

    def __len__(self) -> int:
        return len(self.present)

    @classmethod
    def of_rows(
        cls,
        tokens: Float[np.ndarray, "row dim"],
        place: Float32[np.ndarray, "row 3"],
        start: Int64[np.ndarray, " bound"],
        *,
        slide: Int64[np.ndarray, " region"],
        region: Int64[np.ndarray, " region"],
    ) -> "RegionBatch":
        """Regions whose tiles lie below one another.

        Args:
            tokens: tile embeddings.
            place: centre of each tile about its region's centre, and its micrometres per pixel.
            start: where the rows of each region begin, and the end.
            slide: the number of each region's slide.
            region: the number of each region in its slide.
        """
        count = np.diff(start)
        shape = len(count), int(count.max(initial=1))
        cell = np.repeat(np.arange(len(count)), count), number_ranges(np.zeros_like(count), count)
        features, places = np.zeros((*shape, tokens.shape[1]), tokens.dtype), np.zeros((*shape, 3), np.float32)
        present = np.zeros(shape, bool)
        features[cell], places[cell], present[cell] = tokens, place, True
        filled = (features, places[..., :2], places[..., 2], present, slide, region)
        return cls(*(torch.from_numpy(np.ascontiguousarray(values)) for values in filled))

    @classmethod
    def join(cls, parts: Sequence["RegionBatch"]) -> "RegionBatch":
        """Several batches as one, filled up with absent tiles to the widest."""
        width = max(part.present.shape[1] for part in parts)

        def widened(values: Tensor) -> Tensor:
            missing = width - values.shape[1]
            return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)

        def joined(columns: Sequence[Tensor]) -> Tensor:
            return torch.cat([widened(one) if one.ndim > 1 else one for one in columns])

        return cls(*(joined(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))

    def take(self, rows: Int64[Tensor, " row"] | Bool[Tensor, " region"]) -> "RegionBatch":
        """Some of the regions, in the given order."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device | str) -> "RegionBatch":
        """The same on a device."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "RegionBatch":
        return RegionBatch(*map(change, vars(self).values()))


Readout = Literal["cls", "tokens", "attention"]
READOUTS: tuple[Readout, ...] = ("cls", "tokens", "attention")


@dataclass(frozen=True, eq=False)
class EncodedRegions:
    """What the encoder says about regions. Values at absent tokens are 0 and stand for nothing.

    Attributes:
        cls: the region's own vector.
        registers: vectors that belong to no tile.
        tokens: the contextual vector of each tile.
        cls_weights: how much CLS looked at each tile in the last block, mean over the heads; the rest to 1 went to CLS
            itself and to the registers.
        xy_um: where the tiles lie, as they were given.
        mpp: their micrometres per pixel, likewise.
    """

    cls: Float[Tensor, "region width"]
    registers: Float[Tensor, "region register width"]
    tokens: Float[Tensor, "region token width"]
    cls_weights: Mpps
    xy_um: Centres
    mpp: Mpps

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "EncodedRegions":
        """The same on a device and in a precision; places keep theirs."""
        said = self.cls, self.registers, self.tokens, self.cls_weights
        where = self.xy_um, self.mpp
        return EncodedRegions(*(part.to(device, dtype) for part in said), *(part.to(device) for part in where))

    def take(self, rows: Int64[Tensor, " row"]) -> "EncodedRegions":
        """Some of the regions, in the given order."""
        return EncodedRegions(*(part[rows] for part in vars(self).values()))

    def weighted_mean(self, chosen: TokenMask) -> Float[Tensor, "region width"]:
        """The mean of the chosen tokens, weighted by CLS; of a region without any it is 0 and must not be used."""
        # A softmax weight can underflow to 0 in half precision; the tiny number keeps the mean defined.
        weights = torch.where(
            chosen, self.cls_weights.clamp(min=1e-12 if self.cls.dtype != torch.float16 else 1e-7), 0.0
        )
        share = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        tokens = torch.where(chosen[..., None], self.tokens, 0.0)
        return torch.einsum("rt,rtw->rw", share.to(tokens.dtype), tokens)


def gather_regions(tokens: SlideTokens, regions: Int[np.ndarray, " region"], *, slide: int, dim: int) -> RegionBatch:
    """The named regions of a slide, in the stored precision; a narrower magnification fills the leading dims.

    Args:
        tokens: the slide's tiles.
        regions: numbers of its regions, in the order wanted; one may come twice.
        slide: the number that the regions carry as their slide's.
        dim: width of the batch's rows.

    Raises:
        ValueError: a region number does not exist.
    """
    wrong = regions[(regions < 0) | (regions >= tokens.n_regions)]
    if len(wrong):
        raise ValueError(f"{tokens.slide} has regions 0 to {tokens.n_regions - 1}; there is no region {wrong[0]}")
    first = [np.searchsorted(tokens.region[mpp], regions, side="left") for mpp in tokens.mpps]
    stop = [np.searchsorted(tokens.region[mpp], regions, side="right") for mpp in tokens.mpps]
    filled = np.zeros(len(regions), dtype=np.int64)
    shape = len(regions), int((np.sum(stop, axis=0) - np.sum(first, axis=0)).max(initial=1))
    dtype = np.result_type(*(rows.dtype for rows in tokens.features.values()))
    features, xy_um = np.zeros((*shape, dim), dtype), np.zeros((*shape, 2), np.float32)
    mpps, present = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for k, mpp in enumerate(tokens.mpps):
        count = stop[k] - first[k]
        row = number_ranges(first[k], count)
        cell = np.repeat(np.arange(len(regions)), count), number_ranges(filled, count)
        rows = tokens.features[mpp]
        features[(*cell, slice(rows.shape[1]))] = rows[row]
        xy_um[cell], mpps[cell], present[cell] = tokens.center_um[mpp][row], mpp, True
        filled += count
    numbers = np.full(len(regions), slide, dtype=np.int64), np.array(regions, dtype=np.int64)
    return RegionBatch(*map(torch.from_numpy, (features, xy_um, mpps, present, *numbers)))


def collate_regions(parts: Iterable[tuple[SlideTokens, Sequence[int] | Int[np.ndarray, " _region"]]]) -> RegionBatch:
    """The named regions of some slides as one batch in float32, in the given order; slides are numbered as they come.

    Raises:
        ValueError: a region number does not exist, or there is nothing to collate.
    """
    pieces = [(tokens, np.asarray(regions, dtype=np.int64)) for tokens, regions in parts]
    if not pieces:
        raise ValueError("there is no slide to collate")
    dim = max(rows.shape[1] for tokens, _ in pieces for rows in tokens.features.values())
    batch = RegionBatch.join(
        [gather_regions(tokens, regions, slide=k, dim=dim) for k, (tokens, regions) in enumerate(pieces)]
    )
    return replace(batch, tokens=batch.tokens.float())


def number_ranges(
    first: Int64[np.ndarray, " range"], count: Int64[np.ndarray, " range"]
) -> Int64[np.ndarray, " number"]:
    """The numbers of several ranges one after another: `count` numbers from each `first` on."""
    before = np.cumsum(count) - count
    return np.asarray(np.repeat(first - before, count) + np.arange(int(count.sum())))
