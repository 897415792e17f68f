"""What is known of one slide: its tile embeddings by region and magnification, or its region embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32


@dataclass(frozen=True, eq=False)
class SlidePlaces:
    """Where the regions of one slide lie, and which rows of each magnification are theirs.

    Attributes:
        slide: the slide's id.
        region_um: side of a region, in micrometres; of an indexed slide not exactly the set's.
        slide_mpp: micrometres per pixel of level 0.
        region_xy_um: top left of each region in the slide's frame, in micrometres.
        region: per magnification, the region's number of each row; none where a row is a region.
        center_um: per magnification, each tile's centre about its region's centre, in micrometres.
        tissue: per magnification, the share of each tile that is tissue, 0 to 1; nothing of one where it is not known.
    """

    slide: str
    region_um: float
    slide_mpp: float
    region_xy_um: Float64[np.ndarray, "region 2"]
    region: Mapping[float, Int32[np.ndarray, " _tile"]] = field(default_factory=dict)
    center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]] = field(default_factory=dict)
    tissue: Mapping[float, Float32[np.ndarray, " _tile"]] = field(default_factory=dict)

    def check_order(self) -> None:
        """Refuse rows that are not those of the slide's regions in their order.

        Raises:
            ValueError: they are not.
        """
        for mpp, region in self.region.items():
            if len(region) and (region[0] < 0 or region[-1] >= len(self.region_xy_um) or np.any(np.diff(region) < 0)):
                raise ValueError(f"the rows of {self.slide} at {mpp:g} mpp are not in the order of its regions")


@dataclass(frozen=True, eq=False)
class SlideTokens:
    """The tile embeddings of one slide. Ragged: an absent tile has no row.

    Attributes:
        slide: the slide's id.
        region_um: side of a region, in micrometres.
        slide_mpp: micrometres per pixel of level 0.
        region_xy_um: top left of each region in the slide's frame, in micrometres.
        features: per magnification, one row per tile as stored, in region order.
        region: per magnification, the region's number of each row; never falling.
        center_um: per magnification, each tile's centre about its region's centre, in micrometres.
        tissue: per magnification, the share of each tile that is tissue, 0 to 1; nothing of one where it is not known.
    """

    slide: str
    region_um: float
    slide_mpp: float
    region_xy_um: Float64[np.ndarray, "region 2"]
    features: Mapping[float, Float[np.ndarray, "_tile _dim"]]
    region: Mapping[float, Int32[np.ndarray, " _tile"]]
    center_um: Mapping[float, Float32[np.ndarray, "_tile 2"]]
    tissue: Mapping[float, Float32[np.ndarray, " _tile"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = sorted(self.features, reverse=True)
        if not set(order) == set(self.region) == set(self.center_um):
            raise ValueError(f"features, region and center_um of {self.slide} name different magnifications")
        for name in ("features", "region", "center_um"):
            # One order everywhere, coarse to fine, whatever the caller's.
            object.__setattr__(self, name, {mpp: getattr(self, name)[mpp] for mpp in order})
        for mpp in order:
            region = self.region[mpp]
            if not len(region) == len(self.features[mpp]) == len(self.center_um[mpp]):
                raise ValueError(f"features, region and center_um of {self.slide} at {mpp:g} mpp differ in length")
            if mpp in self.tissue and len(self.tissue[mpp]) != len(region):
                raise ValueError(f"tissue of {self.slide} at {mpp:g} mpp is of another number of tiles than its rows")
        self.places.check_order()

    @property
    def places(self) -> SlidePlaces:
        """Where the rows belong."""
        return SlidePlaces(
            self.slide,
            self.region_um,
            self.slide_mpp,
            self.region_xy_um,
            self.region,
            self.center_um,
            self.tissue,
        )

    def region_means(self, mpp: float) -> Float64[np.ndarray, "region dim"]:
        """The mean of each region's tiles of a magnification; NaN for a region without any."""
        rows = self.features[mpp]
        means = np.full((self.n_regions, rows.shape[1]), np.nan)
        there, first, count = np.unique(self.region[mpp], return_index=True, return_counts=True)
        if len(there):
            means[there] = np.add.reduceat(rows.astype(np.float64), first, axis=0) / count[:, None]
        return means

    @property
    def mpps(self) -> tuple[float, ...]:
        """The magnifications, coarse to fine."""
        return tuple(self.features)

    @property
    def n_regions(self) -> int:
        """How many regions the slide has; one without any tile counts."""
        return len(self.region_xy_um)


@dataclass(frozen=True, eq=False)
class SlideRegions:
    """The region embeddings of one slide, one row per region.

    Attributes:
        slide: the slide's id.
        region_um: side of a region, in micrometres.
        slide_mpp: micrometres per pixel of level 0.
        region_xy_um: top left of each region in the slide's frame, in micrometres.
        features: one row per region.
    """

    slide: str
    region_um: float
    slide_mpp: float
    region_xy_um: Float64[np.ndarray, "region 2"]
    features: Float[np.ndarray, "region dim"]

    @property
    def places(self) -> SlidePlaces:
        """Where the rows belong."""
        return SlidePlaces(self.slide, self.region_um, self.slide_mpp, self.region_xy_um)

    @property
    def n_regions(self) -> int:
        """How many regions the slide has."""
        return len(self.region_xy_um)
