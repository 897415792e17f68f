"""Regions of slides side by side as tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from parfocal.store import SlideTokens

__all__ = ["RegionBatch", "collate_regions"]


@dataclass(frozen=True, eq=False)
class RegionBatch:
    """The tokens of regions; the tokens of a region come first, absent ones fill up to the longest region.

    Attributes:
        tokens: tile embeddings, float32; a narrower magnification has its features first.
        xy_um: tile centres about the region's centre, in micrometres.
        mpp: micrometres per pixel of each tile.
        present: which tokens there are; all other values at absent tokens are filling and never to be read.
        slide: the id of each region's slide.
        region: the number of each region in its slide.
    """

    tokens: Float[Tensor, "region token dim"]
    xy_um: Float32[Tensor, "region token 2"]
    mpp: Float32[Tensor, "region token"]
    present: Bool[Tensor, "region token"]
    slide: tuple[str, ...]
    region: Int[Tensor, " region"]

    def __len__(self) -> int:
        return len(self.slide)

    def to(self, device: torch.device | str) -> "RegionBatch":
        """The same on a device."""
        return RegionBatch(
            tokens=self.tokens.to(device, non_blocking=True),
            xy_um=self.xy_um.to(device, non_blocking=True),
            mpp=self.mpp.to(device, non_blocking=True),
            present=self.present.to(device, non_blocking=True),
            slide=self.slide,
            region=self.region.to(device, non_blocking=True),
        )


def collate_regions(parts: Iterable[tuple[SlideTokens, Sequence[int] | Int[np.ndarray, " _region"]]]) -> RegionBatch:
    """The named regions of some slides as one batch, in the given order.

    Raises:
        ValueError: a region number does not exist, or there is nothing to collate.
    """
    pieces = [(slide, np.asarray(regions, dtype=np.int64)) for slide, regions in parts]
    if not pieces:
        raise ValueError("there is no slide to collate")
    total = sum(len(regions) for _, regions in pieces)
    dim = max(rows.shape[1] for slide, _ in pieces for rows in slide.features.values())
    found = [_rows(slide, regions) for slide, regions in pieces]
    width = max((int(count.sum(axis=0).max()) for _, count in found if count.size), default=0)
    tokens, xy_um = np.zeros((total, width, dim), np.float32), np.zeros((total, width, 2), np.float32)
    mpp, present = np.ones((total, width), np.float32), np.zeros((total, width), bool)
    first = 0
    for (slide, regions), (start, count) in zip(pieces, found, strict=True):
        filled = np.zeros(len(regions), dtype=np.int64)
        for k, one in enumerate(slide.mpps):
            region = np.repeat(np.arange(len(regions)), count[k])
            within = np.arange(len(region)) - np.repeat(np.cumsum(count[k]) - count[k], count[k])
            at = first + region, filled[region] + within
            row = start[k][region] + within
            features = slide.features[one]
            tokens[(*at, slice(features.shape[1]))] = features[row]
            xy_um[at], mpp[at], present[at] = slide.center_um[one][row], one, True
            filled += count[k]
        first += len(regions)
    return RegionBatch(
        torch.from_numpy(tokens),
        torch.from_numpy(xy_um),
        torch.from_numpy(mpp),
        torch.from_numpy(present),
        tuple(slide.slide for slide, regions in pieces for _ in range(len(regions))),
        torch.from_numpy(np.concatenate([regions for _, regions in pieces])),
    )


def _rows(slide: SlideTokens, regions: Int[np.ndarray, " region"]) -> tuple[np.ndarray, np.ndarray]:
    """For each magnification and region the first row and the number of rows."""
    wrong = regions[(regions < 0) | (regions >= slide.n_regions)]
    if len(wrong):
        raise ValueError(f"{slide.slide} has regions 0 to {slide.n_regions - 1}; there is no region {wrong[0]}")
    start = np.stack([np.searchsorted(slide.region[mpp], regions, side="left") for mpp in slide.mpps])
    stop = np.stack([np.searchsorted(slide.region[mpp], regions, side="right") for mpp in slide.mpps])
    return start, stop - start
