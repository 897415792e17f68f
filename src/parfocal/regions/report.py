"""What a slide is and what would be read of it, as one record for a table or JSON."""

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parfocal.config import GridConfig
from parfocal.errors import ParfocalWarning, as_problem
from parfocal.geometry import format_mpp
from parfocal.regions.plan import plan_regions
from parfocal.regions.tissue import find_tissue
from parfocal.slides import Slide, open_slide, slide_name
from parfocal.terminal import printable

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
    notices: tuple[str, ...] = ()
    """What was guessed or looks wrong, one line each."""

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

    A slide that cannot be used is no error here, whatever is raised on its file: the record says what was found so far
    and what the problem is.

    Args:
        path: the slide's file.
        grid: how it would be cut.
        slide: its id; the name of its file without the suffix when None.
        slide_mpp: micrometres per level-0 pixel, in place of what the file says.
        mpp_from_objective: take 10 um / power where the slide has an objective power and no resolution.
    """
    path = Path(path)
    found: dict[str, Any] = {"slide": slide_name(path) if slide is None else slide, "path": str(path)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with open_slide(
                path, slide_mpp=slide_mpp, mpp_from_objective=mpp_from_objective, require_mpp=False
            ) as opened:
                found |= _header(opened)
                tissue = find_tissue(opened)
                found["tissue_share"] = tissue.tissue_share
                plan = plan_regions(opened, grid, tissue=tissue)
                found["n_regions"] = plan.n_regions
                found["n_tiles"] = {format_mpp(mpp): plan.n_tiles(mpp) for mpp in grid.mpps}
        except Exception as error:
            # One odd file of a folder must not end the table, whatever a library raised on it.
            found["problem"] = as_problem(error)
    # What libraries warn of is about their insides; what it leads to is in the record.
    ours = [printable(str(warning.message)) for warning in caught if issubclass(warning.category, ParfocalWarning)]
    return SlideReport(**found, notices=tuple(dict.fromkeys(ours)))


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
