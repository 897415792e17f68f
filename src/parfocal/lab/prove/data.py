"""The regions of a proof and how many: a sample of the checkpoint's training regions, and of those it never saw."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64
from pydantic import Field

from parfocal.config import Settings
from parfocal.lab.prove.layout import Layout, Regions, Slots, Tiles, slot_regions
from parfocal.pretrain.data import SlideCache
from parfocal.pretrain.holdout import SlidePart, tissue_fragments
from parfocal.region_encoder.batch import RegionBatch
from parfocal.store import EmbeddingSet

Standardise = Callable[[RegionBatch], Tiles]
"""Tiles in their slots -> as the checkpoint standardises them, 0 where absent."""

_CHUNK = 256
_BLOCK_REGIONS = 4


class ProveSettings(Settings):
    """How much is looked at, and how long controls are trained."""

    eval_regions: int = Field(1000, ge=8, description="Most held-out regions that are scored.")
    random_regions: int = Field(128, ge=1, description="Most of them under the random pattern, where each is a solve.")
    train_regions: int = Field(20_000, ge=8, description="Most training regions behind the linear baselines.")
    memory_regions: int = Field(4096, ge=8, description="Most training regions that are kept in memory.")
    memory_mib: int = Field(1024, ge=16, description="Memory for training regions and for predictions each, in MiB.")
    network_steps: int = Field(1000, ge=1, description="Steps of the network B8, of 256 tiles each.")
    control_steps: int | None = Field(
        None,
        ge=0,
        description="Steps of B10 and of the decoders on random encoders (C3); as many as the model had, unless named. "
        "With fewer there is no verdict; 0: none of them.",
    )
    control_seeds: int = Field(
        1, ge=1, description="Random encoders of each kind; what they reach is averaged, and each costs a training."
    )
    readout_regions: int = Field(
        1024, ge=16, description="Most training regions that the ridge on an encoder's tokens is fitted on."
    )
    queries: int = Field(100, ge=1, description="Hidden tiles of a slide that are searched among all of its tiles.")
    draws: int = Field(1000, ge=100, description="Draws of a bootstrap interval.")
    batch: int = Field(128, ge=1, description="Regions that the model sees at a time.")
    device: str = Field("cpu", description="Where the model runs: cpu, cuda, mps.")
    seed: int = Field(0, ge=0, description="Of samples, masks, networks and intervals.")

    def affordable(self, regions: int, arrays: int, layout: Layout) -> int:
        """As many of some regions as fit into `memory_mib`, with so many arrays as large as their tiles."""
        return max(8, min(regions, (self.memory_mib << 20) // (arrays * layout.n_slots * layout.dim * 4)))


@dataclass(frozen=True, eq=False)
class TrainingSample:
    """Standardised training regions that are kept in memory.

    Attributes:
        tokens: standardised tiles, 0 where absent.
        present: which there are.
        is_validation: regions of slides (the last quarter, where there is one slide) that choose ridge and rank.
    """

    tokens: Tiles
    present: Slots
    is_validation: Bool[np.ndarray, " region"]


@dataclass(frozen=True, eq=False)
class HeldOutRegions:
    """The regions that everything is scored on.

    Attributes:
        raw: as stored.
        target: standardised tiles, 0 where absent.
        slide_mean: for each region and magnification, the mean of the other held-out regions of its slide.
        cluster: what intervals draw again: the slide, or the part of the only slide.
        cluster_word: what a cluster is, for sentences.
        n_clusters: how many there are.
        n_dropped: tiles that found their slot taken, as happens with rasters of other tools.
    """

    raw: RegionBatch
    target: Tiles
    slide_mean: Float32[np.ndarray, "region level dim"]
    cluster: Regions
    cluster_word: str
    n_clusters: int
    n_dropped: int

    @property
    def present(self) -> Slots:
        """Which tiles there are."""
        return self.raw.present.numpy()

    @property
    def slide(self) -> Regions:
        """The number of each region's slide."""
        return self.raw.slide.numpy()


def sample_parts(
    parts: Sequence[SlidePart], most: int, rng: np.random.Generator
) -> list[tuple[int, Int64[np.ndarray, " _region"]]]:
    """At most `most` regions, about as many of each slide, in the slides' order; the number of the part with each."""
    chosen: dict[int, np.ndarray] = {}
    left = most
    # The smallest slides first: what they do not use is left to the others.
    order = sorted(range(len(parts)), key=lambda number: len(parts[number].regions))
    for place, number in enumerate(order):
        regions = parts[number].regions
        quota = min(len(regions), left // (len(parts) - place))
        left -= quota
        if quota:
            chosen[number] = np.sort(rng.permutation(regions)[:quota])
    return [(number, chosen[number]) for number in sorted(chosen)]


def read_regions(
    cache: SlideCache,
    parts: Sequence[SlidePart],
    sample: Sequence[tuple[int, Int64[np.ndarray, " _region"]]],
    layout: Layout,
) -> Iterator[RegionBatch]:
    """The named regions in their slots, a few hundred at a time, never two slides together."""
    for number, regions in sample:
        for start in range(0, len(regions), _CHUNK):
            yield slot_regions(cache.gather(parts[number], regions[start : start + _CHUNK], number=number), layout)


def slide_means(
    target: Tiles, present: Slots, slide: Regions, layout: Layout
) -> Float32[np.ndarray, "region level dim"]:
    """The mean of each magnification over the other regions of the slide; 0 where no other region has a tile."""
    total, count = (np.stack([one[:, own].sum(axis=1) for own in layout.slots], axis=1) for one in (target, present))
    numbers, own = np.unique(slide, return_inverse=True)
    of_slide = np.zeros((len(numbers), *total.shape[1:]), dtype=np.float64)
    n_of_slide = np.zeros((len(numbers), total.shape[1]), dtype=np.int64)
    np.add.at(of_slide, own, total)
    np.add.at(n_of_slide, own, count)
    others = n_of_slide[own] - count
    mean = np.where(others[..., None] > 0, of_slide[own] - total, 0) / np.maximum(others, 1)[..., None]
    return np.asarray(mean.astype(np.float32))


def clusters_of(raw: RegionBatch, tiles: EmbeddingSet, parts: Sequence[SlidePart]) -> tuple[Regions, str]:
    """What intervals draw again: slides; fragments of an only slide; blocks of it where it has fewer than four."""
    numbers, own = np.unique(raw.slide.numpy(), return_inverse=True)
    if len(numbers) > 1:
        return own.astype(np.int64), "slides"
    xy_um = tiles.read(parts[int(numbers[0])].slide).region_xy_um
    held = np.zeros(len(xy_um), dtype=bool)
    held[parts[int(numbers[0])].regions] = True
    fragment = np.full(len(xy_um), -1)
    fragment[held] = tissue_fragments(xy_um[held], tiles.region_um)
    found = np.unique(fragment[raw.region.numpy()], return_inverse=True)[1]
    if found.max() + 1 >= 4:
        return found.astype(np.int64), "tissue fragments of the only slide"
    block = np.floor(xy_um[raw.region.numpy()] / (_BLOCK_REGIONS * tiles.region_um)).astype(np.int64)
    blocks = np.unique(block, axis=0, return_inverse=True)[1].ravel()
    return blocks.astype(np.int64), f"blocks of {_BLOCK_REGIONS} x {_BLOCK_REGIONS} regions of the only slide"


def held_out_regions(
    cache: SlideCache,
    parts: Sequence[SlidePart],
    layout: Layout,
    standardise: Standardise,
    *,
    most: int,
    rng: np.random.Generator,
) -> HeldOutRegions:
    """Read at most `most` held-out regions."""
    sample = sample_parts(parts, most, rng)
    raw = RegionBatch.join(list(read_regions(cache, parts, sample, layout)))
    target = standardise(raw)
    cluster, word = clusters_of(raw, cache.tiles, parts)
    means = slide_means(target, raw.present.numpy(), raw.slide.numpy(), layout)
    n_tiles = sum(
        int(np.isin(region, chosen).sum())
        for number, chosen in sample
        for region in cache.read(parts[number].slide).region.values()
    )
    n_dropped = n_tiles - int(raw.present.sum())
    return HeldOutRegions(raw, target, means, cluster, word, int(cluster.max()) + 1, n_dropped)
