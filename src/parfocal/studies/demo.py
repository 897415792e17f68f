"""The whole chain on a cohort whose answer is known: rendered here, and then a study like any other."""

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from parfocal.config import Settings
from parfocal.embeddings import EmbeddingSet
from parfocal.errors import StoreError
from parfocal.studies.chain.file import read_study
from parfocal.studies.chain.stages import Progress
from parfocal.studies.demo_page import cohort_section, known_references
from parfocal.studies.evaluation import EvaluateResult
from parfocal.studies.study import Extras, study
from parfocal.synthetic.density import pixel_adversary
from parfocal.synthetic.readability import attribute_readability
from parfocal.synthetic.rendered import RenderedCohort, RenderSettings, render_cohort

__all__ = ["DemoResult", "DemoSettings", "demo"]

_RENDER, _MEASURE = "render slides", "measure what can be read"


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
        seconds: wall-clock time of each stage.
    """

    report: Path
    cohort: RenderedCohort
    tiles: EmbeddingSet
    model: Path
    evaluation: EvaluateResult
    seconds: dict[str, float]


def demo(out: Path, settings: DemoSettings | None = None, *, progress: Progress | None = None) -> DemoResult:
    """Render a small cohort and run the study `demo` on it; what is done already is kept.

    The filter bank is the tile encoder, so nothing is downloaded. It was shaped so that it can see what was rendered:
    the demo shows that the chain works and what pairing magnifications can do, not how good an encoder is.

    Args:
        out: the folder for slides, store, models, regions and report.
        settings: size of the cohort and length of the training.
        progress: told how far each stage is.

    Raises:
        MismatchError: `out` holds a cohort of other settings.
        StoreError: slides could not be embedded.
    """
    settings = settings or DemoSettings()
    tell = progress or (lambda stage, done, total: None)
    started = time.monotonic()
    cohort = render_cohort(
        out / "cohort",
        RenderSettings(n_slides=settings.n_slides, seed=settings.seed),
        workers=settings.workers,
        progress=lambda done, total: tell(_RENDER, done, total),
    )
    seconds = {_RENDER: time.monotonic() - started}

    def known(tiles: EmbeddingSet) -> Extras:
        started = time.monotonic()
        if len(tiles.slides) < len(cohort.slides):
            raise StoreError(f"{len(cohort.slides) - len(tiles.slides)} slides of the demo could not be embedded.")
        tell(_MEASURE, 0, 1)
        readings = attribute_readability([tiles.read(slide) for slide in tiles.slides], cohort.design)
        adversary = pixel_adversary(cohort, workers=settings.workers, seed=settings.seed)
        tell(_MEASURE, 1, 1)
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
    done = study(plan, out, extras=known, progress=tell)
    return DemoResult(done.report, cohort, done.tiles, done.models["mem"], done.evaluation, {**seconds, **done.seconds})
