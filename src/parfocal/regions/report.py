"""What a slide is and what would be read of it, as one record for a table or JSON."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parfocal.config import GridConfig
from parfocal.errors import SlideError
from parfocal.geometry import format_mpp
from parfocal.regions.plan import plan_regions
from parfocal.regions.tissue import find_tissue
from parfocal.slides import Slide, open_slide

__all__ = ["SlideReport", "inspect_slide"]


@dataclass(frozen=True)
class SlideReport:
    """One slide, described; what could not be found out is None, and `problem` says why in one line."""

    slide: str
    """The id that the slide has in a store."""
    path: str
    format: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    levels: tuple[float, ...] = ()
    """The downsample of each level."""
    mpp: float | None = None
    mpp_source: str | None = None
    objective_power: float | None = None
    tissue_share: float | None = None
    n_regions: int | None = None
    n_tiles: dict[str, int] | None = None
    """Tiles per magnification; the key is the mpp as text."""
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, ready for JSON."""
        return asdict(self)


def inspect_slide(
    path: Path | str,
    grid: GridConfig,
    *,
    slide: str | None = None,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
) -> SlideReport:
    """Describe a slide and count its regions and tiles.

    A slide that cannot be used is no error here: the record says what was found so far and what the problem is.

    Args:
        path: the slide's file.
        grid: how it would be cut.
        slide: its id; the file's stem when None.
        slide_mpp: micrometres per level-0 pixel, in place of what the file says.
        mpp_from_objective: take 10 um / power where the slide has an objective power and no resolution.
    """
    found: dict[str, Any] = {"slide": Path(path).stem if slide is None else slide, "path": str(path)}
    try:
        with open_slide(path, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective, require_mpp=False) as opened:
            found |= _header(opened)
            tissue = find_tissue(opened)
            found["tissue_share"] = tissue.tissue_share
            plan = plan_regions(opened, grid, tissue=tissue)
            found["n_regions"] = plan.n_regions
            found["n_tiles"] = {format_mpp(mpp): plan.n_tiles(mpp) for mpp in grid.mpps}
    except SlideError as error:
        found["problem"] = str(error)
    return SlideReport(**found)


def _header(slide: Slide) -> dict[str, Any]:
    calibration = slide.calibration
    return {
        "format": slide.format,
        "width_px": slide.width_px,
        "height_px": slide.height_px,
        "levels": tuple(level.downsample for level in slide.levels),
        "mpp": calibration.mpp if calibration else None,
        "mpp_source": calibration.source if calibration else None,
        "objective_power": slide.objective_power,
    }
