"""The regions of a slide in columns, what is drawn over them, and the tiles of one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int
from scipy.spatial import KDTree

from parfocal.geometry import format_mpp, lattice_um
from parfocal.stats.whitening import varying
from parfocal.store import EmbeddingSet, SlidePlaces
from parfocal.view.plain import plain_list

READ, UNREAD, ABSENT = "read", "unread", "absent"


@dataclass(frozen=True, eq=False)
class RegionColumns:
    """Where the regions of a slide and their tiles lie.

    Attributes:
        places: of regions and tiles.
        unread: regions and centres of the tiles of each magnification that were left out by choice.
        mpps: the magnifications, coarse to fine; nothing of a set of regions.
        tile_um: side of the slide's tiles, per magnification.
    """

    places: SlidePlaces
    unread: Mapping[float, tuple[Int[np.ndarray, " tile"], Float32[np.ndarray, "tile 2"]]]
    mpps: tuple[float, ...]
    tile_um: Mapping[float, float]

    @property
    def n_regions(self) -> int:
        """How many regions there are."""
        return len(self.places.region_xy_um)

    def n_read(self, mpp: float) -> Int[np.ndarray, " region"]:
        """How many tiles of each region were read."""
        return np.bincount(self.places.region[mpp], minlength=self.n_regions)

    def n_planned(self, mpp: float) -> Int[np.ndarray, " region"]:
        """The same with those that were left out by choice."""
        return self.n_read(mpp) + np.bincount(self.unread[mpp][0], minlength=self.n_regions)

    def tissue(self) -> Float64[np.ndarray, " region"] | None:
        """How much of each region's finest tiles is tissue; None where the store does not know."""
        finest = min(self.mpps, default=None)
        if finest is None or finest not in self.places.tissue:
            return None
        region, n = self.places.region[finest], self.n_regions
        count = np.bincount(region, minlength=n)
        total = np.bincount(region, self.places.tissue[finest], minlength=n)
        return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))

    def describe(self) -> dict[str, Any]:
        """All columns, as plain lists."""
        tissue = self.tissue()
        return {
            "x_um": plain_list(self.places.region_xy_um[:, 0], 2),
            "y_um": plain_list(self.places.region_xy_um[:, 1], 2),
            "tissue": None if tissue is None else plain_list(tissue, 3),
            "n_read": {format_mpp(mpp): self.n_read(mpp).tolist() for mpp in self.mpps},
            "n_planned": {format_mpp(mpp): self.n_planned(mpp).tolist() for mpp in self.mpps},
        }

    def tiles(self, region: int, mpp: float) -> list[tuple[float, float, float, str, int | None]]:
        """Every tile of a region and every place without one: x, y, side in micrometres, status, and the row of a tile.

        Tiles lie where they were read, which in features of another tool need not be on the region's lattice. The row
        counts the slide's tiles of this magnification.
        """
        region_um, side_um = self.places.region_um, self.tile_um[mpp]
        first, last = np.searchsorted(self.places.region[mpp], [region, region + 1]).tolist()
        read_um = self.places.center_um[mpp][first:last].astype(np.float64)
        lattice = lattice_um(region_um, max(1, round(region_um / side_um)))
        if last > first:
            lattice = lattice[KDTree(read_um).query(lattice, p=np.inf)[0] > side_um / 2]
        of, center_um = self.unread[mpp]
        unread = set(KDTree(lattice).query(center_um[of == region])[1].tolist()) if len(lattice) else set()
        found = [(x, y, READ, first + number) for number, (x, y) in enumerate(read_um.tolist())]
        found += [(x, y, UNREAD if n in unread else ABSENT, None) for n, (x, y) in enumerate(lattice.tolist())]
        corner = self.places.region_xy_um[region] + region_um / 2 - side_um / 2
        return [
            (float(corner[0] + x), float(corner[1] + y), side_um, status, row)
            for x, y, status, row in sorted(found, key=lambda one: (round(one[1] / side_um), one[0]))
        ]


def read_columns(embeddings: EmbeddingSet, slide: str) -> RegionColumns:
    """The columns of a slide; only its index is opened."""
    if embeddings.kind == "regions":
        return RegionColumns(embeddings.places(slide), {}, (), {})
    unread = {mpp: embeddings.unread_tiles(slide, mpp) for mpp in embeddings.mpps}
    places = embeddings.places(slide)
    return RegionColumns(places, unread, embeddings.mpps, embeddings.tile_um_of(places))


def differences(embeddings: EmbeddingSet, slide: str, mpp: float | None) -> Float64[np.ndarray, " region"]:
    """How far each region lies from the slide's others: root mean square over columns, in their standard deviations.

    So 1 is usual, whatever the encoder. NaN for a region without a tile.

    Args:
        embeddings: the set.
        slide: id.
        mpp: of the tiles whose mean stands for a region; None of a set of regions.
    """
    if mpp is None:
        rows = embeddings.read_regions(slide).features.astype(np.float64)
    else:
        rows = embeddings.read(slide).region_means(mpp)
    there = ~np.isnan(rows).any(axis=1)
    value = np.full(len(rows), np.nan)
    if there.any():
        centred = rows[there] - rows[there].mean(axis=0)
        spread = np.sqrt((centred**2).mean(axis=0))
        varies = varying(spread)
        if varies.any():
            value[there] = np.sqrt(((centred[:, varies] / spread[varies]) ** 2).mean(axis=1))
        else:
            value[there] = 0.0
    return value
