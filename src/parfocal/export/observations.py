"""What is known of regions and tiles one by one, as tables for other programs hold it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped

from parfocal.geometry import format_mpp
from parfocal.store.tokens import SlideRegions, SlideTokens


@dataclass(frozen=True, eq=False)
class Observations:
    """Regions or tiles of one slide that have one size.

    Attributes:
        slide: id.
        columns: what is known of each, by name.
        middle_l0px: the middle of each, in pixels of level 0.
        side_l0px: side of each, in pixels of level 0.
        rows: the embedding of each; None where only columns are known.
        library: what squidpy calls them together: the slide, or the slide at one magnification.
    """

    slide: str
    columns: Mapping[str, Shaped[np.ndarray, " row"]]
    middle_l0px: Float64[np.ndarray, "row 2"]
    side_l0px: float
    rows: Float[np.ndarray, "row dim"] | None = None
    library: str | None = None


def observed_tiles(tokens: SlideTokens, mpp: float, *, side_um: float) -> Observations:
    """The tiles of a slide at one magnification, in the order of its regions.

    Args:
        tokens: of the slide.
        mpp: which magnification.
        side_um: side of its tiles.
    """
    region = tokens.region[mpp]
    middle_um = tokens.region_xy_um[region] + tokens.region_um / 2 + tokens.center_um[mpp]
    n_tiles = len(region)
    columns = {
        "slide": np.full(n_tiles, tokens.slide, dtype=object),
        "mpp": np.full(n_tiles, mpp),
        "magnification": np.full(n_tiles, _label(mpp), dtype=object),
        "region": region,
    }
    library = f"{tokens.slide} {format_mpp(mpp)} mpp"
    return Observations(
        tokens.slide, columns, middle_um / tokens.slide_mpp, side_um / tokens.slide_mpp, tokens.features[mpp], library
    )


def observed_regions(regions: SlideRegions, mpps: Iterable[float]) -> Observations:
    """The regions of a slide; a region is of several magnifications, of which `mpp` names the finest.

    Args:
        regions: of the slide.
        mpps: the magnifications that their embeddings are of.
    """
    named, n_regions = sorted(mpps, reverse=True), len(regions.region_xy_um)
    columns = {
        "slide": np.full(n_regions, regions.slide, dtype=object),
        "mpp": np.full(n_regions, min(named)),
        "magnification": np.full(n_regions, "+".join(map(_label, named)), dtype=object),
        "region": np.arange(n_regions),
    }
    middle_l0px = (regions.region_xy_um + regions.region_um / 2) / regions.slide_mpp
    return Observations(
        regions.slide, columns, middle_l0px, regions.region_um / regions.slide_mpp, regions.features, regions.slide
    )


def _label(mpp: float) -> str:
    """What people call a magnification."""
    return f"{10 / mpp:g}x"
