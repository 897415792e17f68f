"""The whole chain on a cohort whose answer is known: rendered here, and then a study like any other.

Its page has more than the arms: the cohort in pictures, and what can be read of it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from parfocal.config import Settings
from parfocal.errors import StoreError
from parfocal.evaluate import EvaluateResult
from parfocal.geometry import Box, format_mpp
from parfocal.lab.synthetic.adversary import PixelAdversary, pixel_adversary
from parfocal.lab.synthetic.readability import AttributeReading, attribute_readability
from parfocal.lab.synthetic.rendered import RenderedCohort, RenderSettings, SlideDesign, render_cohort
from parfocal.lab.synthetic.tissue import LEVEL0_MPP, REGION_PX
from parfocal.predict import fit_study
from parfocal.regions import read_thumbnail
from parfocal.report import Figure, Note, Reference, Section, Text, slide_map_figure, tile_gallery
from parfocal.report.writer import Field as TableField
from parfocal.report.writer import page_table
from parfocal.run.events import OnEvent, Progress, as_stage, warn_of
from parfocal.slides import open_slide, read_tile
from parfocal.store import EmbeddingSet
from parfocal.study.run import Extras, run_study
from parfocal.study.settings import read_study

_N_EXAMPLES = 4
_COARSE_MPP, _FINE_MPP, _TILE_PX = 2.0, 0.5, 224
_ATTRIBUTES = {"A": "A, arrangement of glands", "C": "C, chromatin", "type": "gland type"}

_DESIGN = (
    "The slides are drawn, not scanned, so that the truth is known. Every region of 448 um has three attributes. A is "
    "the arrangement of gland orientation over the region: diagonal, or in rows and columns; a single tile at 10x or "
    "20x cannot show it. C is the texture of chromatin at the scale of one pixel at 20x; at 10x and 5x its pixels are "
    "identical, bit by bit. Gland type (tubular or solid) can be seen at every magnification.",
    "Label pairing: in every slide half of the regions have A and half have C, half of each gland type. In positive "
    "slides they are the same regions, in negative slides the others. So the tiles of one magnification, in any order, "
    "are distributed alike in both classes: no reader of unordered tiles of one magnification can pass 0.5. Only what "
    "tells which tiles belong together can. Label gland_type: whether most regions are solid; one magnification is "
    "enough, and mixing should gain nothing.",
)
_LIMITS = (
    "So few slides show large differences only; the intervals say how large, and a gain of a few points cannot be "
    "seen. By chance alone about one interval in ten of an arm that knows nothing leaves out 0.5 at 48 slides. The "
    "filter bank was shaped so that it can see A and C; a real encoder may not. The cohort shows that the chain "
    "works from pixels to prediction, and which poolings can use pairing when there is something to use. It says "
    "nothing about any biomarker."
)


def known_references(adversary: PixelAdversary) -> dict[str, dict[str, tuple[Reference, ...]]]:
    """What is known beside each kind of arm: ceilings by construction, and the re-pairing adversary for late fusion."""
    return {
        "pairing": {
            "single": (Reference(0.5, "ceiling of unordered tiles of one magnification"),),
            "late": (Reference(adversary.by_density, "re-pairing adversary", is_ceiling=False),),
            "mixed": (Reference(1.0, "ceiling with perfect reading"),),
        },
        "gland_type": {
            kind: (Reference(1.0, "ceiling"),) for kind in ("single", "single, with regions", "late", "mixed")
        },
    }


def cohort_section(
    cohort: RenderedCohort, tiles: EmbeddingSet, readings: Sequence[AttributeReading], adversary: PixelAdversary
) -> Section:
    """The cohort: what was drawn, a slide with its truth, tiles with and without each attribute, what can be read."""
    design = next(one for one in cohort.design if one.pairing)
    path = cohort.slides[design.number]
    return Section(
        "The rendered cohort",
        (
            Text(_DESIGN),
            _map(path, design, tiles.region_um),
            tile_gallery(
                {
                    "A = 1: diagonal (5x)": _examples(path, design, diagonal=True),
                    "A = 0: rows or columns (5x)": _examples(path, design, diagonal=False),
                    "C = 1 (20x, enlarged)": _examples(path, design, checkerboard=True),
                    "C = 0 (20x, enlarged)": _examples(path, design, checkerboard=False),
                },
                f"Tiles of {design.slide}. 5x tiles are whole regions; 20x tiles are shown by their middle, four times "
                "enlarged.",
            ),
            page_table(
                "How well the encoder reads the attributes of single regions",
                _READING,
                readings,
                footnotes=("Logistic regression on held-out slides; slides are resampled for the interval.",),
            ),
            Text(
                (
                    "Late fusion sees unordered bags of both magnifications. In pixels it could re-pair them by "
                    "whatever both show. An adversary that is handed A and C perfectly and re-pairs the tiles of a "
                    f"slide by their mean optical density reaches an AUC of {adversary.by_density:.2f} for pairing "
                    f"({adversary.by_density_of_tiles:.2f} with all 20x tiles of a slide in one bag, "
                    f"{adversary.by_gland_type:.2f} by gland type alone). The late arms are printed beside it.",
                )
            ),
            Note(_LIMITS, "What so few slides can and cannot show"),
        ),
    )


_READING = (
    TableField("Attribute", lambda one: _ATTRIBUTES[one.attribute]),
    TableField("Magnification", lambda one: f"{10 / one.mpp:g}x ({format_mpp(one.mpp)} mpp)"),
    TableField("Read from", lambda one: "mean of the region's tiles" if one.unit == "region" else "one tile"),
    TableField("AUC", "auc", show=".2f"),
    TableField("95 % interval", lambda one: f"{one.low:.2f} to {one.high:.2f}", align="right"),
)


def _map(path: Path, design: SlideDesign, region_um: float) -> Figure:
    with open_slide(path) as slide:
        thumbnail = read_thumbnail(slide)
        mpp = slide.width_px * slide.mpp / thumbnail.shape[1]
    truth = [one.attributes for one in design.regions]
    xy_um = np.array([[one.column, one.row] for one in design.regions], dtype=np.float64) * region_um
    maps = {
        "A": np.array([1.0 if one.diagonal else -1.0 for one in truth]),
        "C": np.array([1.0 if one.checkerboard else -1.0 for one in truth]),
        "solid glands": np.array([1.0 if one.solid else -1.0 for one in truth]),
    }
    caption = "A positive slide and the truth about its regions: orange 1, blue 0. A and C lie in the same regions."
    return slide_map_figure(thumbnail, mpp, xy_um, region_um, maps, caption, slide=design.slide)


def _examples(
    path: Path, design: SlideDesign, *, diagonal: bool | None = None, checkerboard: bool | None = None
) -> list[UInt8[np.ndarray, "y x 3"]]:
    """Regions with a value of A, whole at 5x; or with a value of C, the middle of a 20x tile enlarged."""
    wanted = [
        one
        for one in design.regions
        if (diagonal is None or one.attributes.diagonal == diagonal)
        and (checkerboard is None or one.attributes.checkerboard == checkerboard)
    ][:_N_EXAMPLES]
    mpp = _COARSE_MPP if checkerboard is None else _FINE_MPP
    side_um = REGION_PX * LEVEL0_MPP
    tiles = []
    with open_slide(path) as slide:
        for one in wanted:
            tile_um = _TILE_PX * mpp
            tile = read_tile(slide, Box(one.column * side_um, one.row * side_um, tile_um, tile_um), mpp=mpp)
            if checkerboard is not None:
                quarter = _TILE_PX // 4
                start = (_TILE_PX - quarter) // 2
                middle = tile[start : start + quarter, start : start + quarter]
                tile = np.kron(middle, np.ones((4, 4, 1), np.uint8))
            tiles.append(tile)
    return tiles


_RENDER, _MEASURE, _FIT = "render slides", "measure what can be read", "fit a head"


class DemoSettings(Settings):
    """What the demo renders, and how long it trains."""

    n_slides: int = Field(48, ge=20, description="Slides to render, one for each patient.")
    steps: int = Field(300, gt=0, description="Steps of pretraining.")
    repeats: int = Field(3, ge=1, description="How often the five-fold cross-validation is repeated.")
    workers: int = Field(2, ge=1, description="Processes for rendering and embedding.")
    seed: int = Field(0, ge=0, description="Seed of the cohort, of pretraining and of the folds.")


@dataclass(frozen=True)
class DemoResult:
    """Where everything is.

    Attributes:
        report: the page to open.
        cohort: the rendered slides and the truth about them.
        tiles: the tile embeddings.
        model: the folder of the region encoder.
        evaluation: the arms' results.
        head: the folder of a head for the label `pairing`, by the arm contrast.
        seconds: wall-clock time of each stage.
    """

    report: Path
    cohort: RenderedCohort
    tiles: EmbeddingSet
    model: Path
    evaluation: EvaluateResult
    head: Path
    seconds: dict[str, float]


def run_demo(out: Path, settings: DemoSettings | None = None, *, on_event: OnEvent | None = None) -> DemoResult:
    """Render a small cohort and run the study `demo` on it; what is done already is kept.

    The filter bank is the tile encoder, so nothing is downloaded. It was shaped so that it can see what was rendered:
    the demo shows that the chain works and what pairing magnifications can do, not how good an encoder is.

    Args:
        out: the folder for slides, store, models, regions, report and head.
        settings: size of the cohort and length of the training.
        on_event: told how far each stage is.

    Raises:
        MismatchError: `out` holds a cohort of other settings.
        StoreError: slides could not be embedded.
    """
    settings = settings or DemoSettings()
    tell = on_event or warn_of
    started = time.monotonic()
    cohort = render_cohort(
        out / "cohort",
        RenderSettings(n_slides=settings.n_slides, seed=settings.seed),
        workers=settings.workers,
        on_event=as_stage(tell, _RENDER, "slides"),
    )
    seconds = {_RENDER: time.monotonic() - started}

    def known(tiles: EmbeddingSet) -> Extras:
        started = time.monotonic()
        if len(tiles.slides) < len(cohort.slides):
            raise StoreError(f"{len(cohort.slides) - len(tiles.slides)} slides of the demo could not be embedded.")
        tell(Progress(_MEASURE, 0, 1))
        readings = attribute_readability([tiles.read(slide) for slide in tiles.slides], cohort.design)
        adversary = pixel_adversary(cohort, workers=settings.workers, seed=settings.seed)
        tell(Progress(_MEASURE, 1, 1))
        section = cohort_section(cohort, tiles, readings, adversary)
        seconds[_MEASURE] = time.monotonic() - started
        return Extras(known_references(adversary), (section,))

    plan = read_study(
        "demo",
        {
            "slides": cohort.folder / "slides",
            "labels.file": cohort.labels_csv,
            "pretraining.steps": settings.steps,
            "pretraining.seed": settings.seed,
            "evaluation.repeats": settings.repeats,
            "evaluation.probes.seed": settings.seed,
            "run.workers": settings.workers,
        },
    )
    done = run_study(plan, out, extras=known, on_event=tell)
    assert isinstance(done.evaluation, EvaluateResult)  # the demo is about labels of slides
    started = time.monotonic()
    head = fit_study(out, "contrast", out / "head", target="pairing", on_event=tell)
    seconds = {**seconds, **done.seconds, _FIT: time.monotonic() - started}
    return DemoResult(done.report, cohort, done.tiles, done.models["mem"], done.evaluation, head.path, seconds)
