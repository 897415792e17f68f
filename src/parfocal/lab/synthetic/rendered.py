"""XScale-HE: a cohort of small rendered slides with two labels, one of which only the pairing of magnifications knows.

`pairing`: every slide has as many regions with A=1 (see `tissue`) and with C=1 as every other slide, half of each gland
type. In positive slides they are the same regions, in negative slides the others. `gland_type`: whether a quarter or
three quarters of the regions have solid glands, drawn independently of everything else and visible at any
magnification.

A slide is written as a pyramidal, tiled, lossless TIFF that says its micrometres per pixel.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from jaxtyping import UInt8
from pydantic import Field, field_validator

from parfocal.config import Settings
from parfocal.errors import MismatchError
from parfocal.files import canonical_json, provenance, remove_leftovers, write_csv, writing
from parfocal.lab.synthetic.ceilings import strat_perfect_auc
from parfocal.lab.synthetic.design import balanced_labels, deal_pairing
from parfocal.lab.synthetic.tissue import LEVEL0_MPP, REGION_PX, RegionAttributes, draw_stain, render_region
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.jobs import each_in_process

_TILE_PX = 256
_COMPRESSION_LEVEL = 1  # of deflate; higher levels take three times as long for a tenth of the bytes


def halve(rgb: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "y2 x2 3"]:
    """Average over 2 x 2 pixels, rounded half up; only sums of whole cells enter, so equal sums give equal pixels.

    Raises:
        ValueError: a side is odd.
    """
    height, width = rgb.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"cannot halve a picture of {width} x {height} px: both sides must be even")
    return np.asarray(cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA))


def write_pyramid(
    path: Path, rgb: UInt8[np.ndarray, "y x 3"], *, mpp: float, n_levels: int, description: object = None
) -> None:
    """Write level 0 and its halvings; the file appears under its name when it is whole.

    Args:
        path: ends in .tif.
        rgb: level 0; both sides a multiple of `2 ** (n_levels - 1)`.
        mpp: microns per pixel of level 0, stored as pixels per centimetre in every level's resolution tags.
        n_levels: how many levels, the first included.
        description: plain values that are stored as JSON in the image description.
    """
    remove_leftovers(path)
    level = rgb
    with writing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=False) as tiff:
        for number in range(n_levels):
            if number:
                level = halve(level)
            per_cm = 1e4 / (mpp * 2**number)
            tiff.write(
                level,
                photometric="rgb",
                tile=(_TILE_PX, _TILE_PX),
                compression="zlib",
                compressionargs={"level": _COMPRESSION_LEVEL},
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if number else 0,
                description=canonical_json(description) if number == 0 and description is not None else None,
                metadata=None,
                software="parfocal",
            )


_N_LEVELS = 3
_GLASS_PX = (208, 96)  # empty glass right of and below the tissue: no slide is square
_SETTINGS_FILE = "cohort.json"


class RenderSettings(Settings):
    """What a rendered cohort consists of."""

    n_slides: int = Field(48, ge=4, description="Number of slides, one for each patient.")
    regions_per_side: int = Field(
        4, ge=4, description="Regions of 448 um along one side of a slide's tissue; a multiple of 4."
    )
    omega: float | None = Field(
        None,
        gt=1,
        description="Odds of A and C lying in the same region of a positive slide; "
        "without it they always do, and never in a negative slide.",
    )
    chromatin: int = Field(12, ge=1, le=60, description="Contrast of the chromatin pattern, in grey levels.")
    seed: int = Field(0, ge=0, description="Seed of the whole cohort.")

    @field_validator("regions_per_side")
    @classmethod
    def _quarters_can_be_halved(cls, side: int) -> int:
        if side % 4:
            raise ValueError(f"regions_per_side={side}: a quarter of the regions must be an even number. Use 4 or 8.")
        return side

    @property
    def pairing_ceiling(self) -> float:
        """The AUC for `pairing` of an observer that reads A and C perfectly and knows which tiles belong together."""
        quarter = self.regions_per_side**2 // 4
        return 1.0 if self.omega is None else strat_perfect_auc(self.omega, (quarter, 3 * quarter))


@dataclass(frozen=True)
class RegionTruth:
    """One region of a slide: where it lies on the lattice, and its attributes."""

    column: int
    row: int
    attributes: RegionAttributes


@dataclass(frozen=True)
class SlideDesign:
    """Everything that is known of a slide before it is rendered."""

    slide: str
    patient: str
    number: int
    pairing: bool
    mostly_solid: bool
    regions: tuple[RegionTruth, ...]


@dataclass(frozen=True)
class RenderedCohort:
    """Where a rendered cohort lies, and the truth about it."""

    folder: Path
    slides: tuple[Path, ...]
    labels_csv: Path
    regions_csv: Path
    design: tuple[SlideDesign, ...]


def design_cohort(settings: RenderSettings) -> tuple[SlideDesign, ...]:
    """Draw labels and regions of every slide; nothing is rendered."""
    rng = np.random.default_rng([settings.seed, 0])
    side = settings.regions_per_side
    labels = balanced_labels(settings.n_slides, 2, rng)
    designs = []
    for number, (pairing, mostly_solid) in enumerate(labels):
        solid = np.zeros(side * side, dtype=bool)
        solid[: side * side * (3 if mostly_solid else 1) // 4] = True
        solid = rng.permutation(solid)
        omega = math.inf if settings.omega is None else settings.omega
        a, c = deal_pairing(solid.astype(np.int64), positive=bool(pairing), omega=omega, rng=rng)
        regions = tuple(
            RegionTruth(
                column=region % side,
                row=region // side,
                attributes=RegionAttributes(bool(a[region]), bool(c[region]), bool(solid[region])),
            )
            for region in range(side * side)
        )
        designs.append(
            SlideDesign(
                slide=f"slide-{number + 1:03d}",
                patient=f"patient-{number + 1:03d}",
                number=number,
                pairing=bool(pairing),
                mostly_solid=bool(mostly_solid),
                regions=regions,
            )
        )
    return tuple(designs)


def render_slide(design: SlideDesign, settings: RenderSettings, path: Path) -> None:
    """Render one slide to `path`, whole or not at all; the pixels depend on the design and the seed alone."""
    cv2.setNumThreads(1)  # the cohort is spread over processes
    side = settings.regions_per_side
    stain = draw_stain(np.random.default_rng([settings.seed, 1, design.number]))
    width, height = side * REGION_PX + _GLASS_PX[0], side * REGION_PX + _GLASS_PX[1]
    rgb = np.full((height, width, 3), stain.glass, np.uint8)
    for number, truth in enumerate(design.regions):
        x, y = truth.column * REGION_PX, truth.row * REGION_PX
        rgb[y : y + REGION_PX, x : x + REGION_PX] = render_region(
            truth.attributes,
            stain,
            np.random.default_rng([settings.seed, 2, design.number, number]),
            chromatin=settings.chromatin,
        )
    write_pyramid(
        path,
        rgb,
        mpp=LEVEL0_MPP,
        n_levels=_N_LEVELS,
        description={**provenance(settings.model_dump()), "rendered": True},
    )


def render_cohort(
    out: Path,
    settings: RenderSettings,
    *,
    workers: int = 2,
    on_event: OnEvent | None = None,
) -> RenderedCohort:
    """Render a cohort into the folder `out`: `slides/`, `labels.csv`, `regions.csv`.

    Slides that are already there are kept, so that a run which was cut short goes on where it stopped.

    Args:
        out: the folder; made when absent.
        settings: what to render.
        workers: processes; 1 renders in this one.
        on_event: told how many `slides` are done, at the start and after each.

    Raises:
        MismatchError: `out` holds a cohort of other settings.
    """
    _claim_folder(out, settings)
    designs = design_cohort(settings)
    paths = [out / "slides" / f"{design.slide}.tif" for design in designs]
    _write_tables(out, designs)

    missing = [(design, path) for design, path in zip(designs, paths, strict=True) if not path.exists()]
    done = len(designs) - len(missing)
    tell = on_event or warn_of
    tell(Progress("slides", done, len(designs)))
    for _ in each_in_process(missing, partial(_render_job, settings), workers=workers):
        done += 1
        tell(Progress("slides", done, len(designs)))
    return RenderedCohort(out, tuple(paths), out / "labels.csv", out / "regions.csv", designs)


def _render_job(settings: RenderSettings, item: tuple[SlideDesign, Path]) -> None:
    design, path = item
    render_slide(design, settings, path)


def _claim_folder(out: Path, settings: RenderSettings) -> None:
    """Note the settings in the folder, or check that the same ones are noted there."""
    path = out / _SETTINGS_FILE
    asked = provenance(settings.model_dump())["parfocal_settings"]
    if path.exists():
        found = canonical_json(json.loads(path.read_text())["settings"])
        if found != asked:
            raise MismatchError(
                f"cannot render into {out}: it holds a cohort rendered with {found}, and {asked} was asked. "
                "Name another folder, or remove this one."
            )
        return
    with writing(path) as temporary:
        temporary.write_text(
            json.dumps({"settings": settings.model_dump(mode="json"), **provenance({})}, indent=2) + "\n"
        )


def _write_tables(out: Path, designs: Sequence[SlideDesign]) -> None:
    kinds = {True: "solid", False: "tubular"}
    write_csv(
        out / "labels.csv",
        ("slide", "patient", "pairing", "gland_type"),
        ((one.slide, one.patient, int(one.pairing), kinds[one.mostly_solid]) for one in designs),
    )
    rows = (
        (design.slide, region.column, region.row, int(truth.diagonal), int(truth.checkerboard), kinds[truth.solid])
        for design in designs
        for region in design.regions
        for truth in (region.attributes,)
    )
    write_csv(out / "regions.csv", ("slide", "column", "row", "A", "C", "type"), rows)
