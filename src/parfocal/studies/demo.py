"""The whole chain on a cohort whose answer is known: rendered, embedded, pretrained, represented, evaluated."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from parfocal.bags import RepresentSettings, represent
from parfocal.config import Settings
from parfocal.embeddings import EmbeddingSet, EmbedSettings, Event, SlideFinished, embed_slides, open_set
from parfocal.errors import StoreError
from parfocal.pretrain import OnPretrainEvent, PretrainSettings, StepsDone, pretrain
from parfocal.studies.demo_page import cohort_section, known_references, training_section
from parfocal.studies.evaluate import EvaluateSettings, evaluate
from parfocal.studies.evaluation import EvaluateResult
from parfocal.synthetic.density import pixel_adversary
from parfocal.synthetic.readability import attribute_readability
from parfocal.synthetic.rendered import RenderedCohort, RenderSettings, render_cohort

__all__ = ["DemoResult", "DemoSettings", "demo"]

Progress = Callable[[str, int, int], None]
"""Told the name of the stage, how much of it is done, and how much there is."""

_TARGETS = ("pairing", "gland_type")


class DemoSettings(Settings):
    """What the demo renders, and how long it trains."""

    n_slides: int = Field(48, ge=20, description="Slides to render, one for each patient.")
    steps: int = Field(300, gt=0, description="Steps of pretraining.")
    repeats: int = Field(5, ge=1, description="How often the five-fold cross-validation is repeated.")
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
    """Render a small cohort and run every command on it, by the same functions; what is done already is kept.

    The filter bank is the tile encoder, so nothing is downloaded. It was shaped so that it can see what was rendered:
    the demo shows that the chain works and what pairing magnifications can do, not how good an encoder is.

    Args:
        out: the folder for slides, store, model, regions and report.
        settings: size of the cohort and length of the training.
        progress: told how far each stage is.

    Raises:
        MismatchError: `out` holds a demo of other settings.
        StoreError: slides could not be embedded.
    """
    settings = settings or DemoSettings()
    tell = progress or (lambda stage, done, total: None)
    clock = _Clock()

    with clock("render slides"):
        cohort = render_cohort(
            out / "cohort",
            RenderSettings(n_slides=settings.n_slides, seed=settings.seed),
            workers=settings.workers,
            progress=lambda done, total: tell("render slides", done, total),
        )
    with clock("embed tiles"):
        tiles = _embed(cohort, out / "store", settings, tell)
    with clock("measure what can be read"):
        tell("measure what can be read", 0, 1)
        readings = attribute_readability([tiles.read(slide) for slide in tiles.slides], cohort.design)
        adversary = pixel_adversary(cohort, workers=settings.workers, seed=settings.seed)
        tell("measure what can be read", 1, 1)
    with clock("pretrain"):
        pretrain(
            tiles,
            out / "model",
            PretrainSettings(
                size="T", batch=128, steps=settings.steps, lr=1e-3, seed=settings.seed, monitor_every=100, log_every=20
            ),
            on_event=_steps(settings.steps, tell),
        )
    with clock("represent regions"):
        regions = represent(
            tiles,
            out / "model",
            out / "regions",
            RepresentSettings(readouts=("cls", "attention", "tokens")),
            progress=lambda done, total, _: tell("represent regions", done, total),
        )
    with clock("evaluate"):
        evaluation = evaluate(
            [tiles.path, *(one.path for one in regions.sets)],
            cohort.labels_csv,
            _TARGETS,
            out / "report",
            EvaluateSettings(repeats=settings.repeats),
            group="patient",
            references=known_references(adversary),
            sections=(
                cohort_section(cohort, tiles, readings, adversary),
                training_section(out / "model" / "metrics.csv", tiles.mpps),
            ),
            progress=lambda done, total, _: tell("evaluate", done, total),
        )
    return DemoResult(evaluation.report, cohort, tiles, out / "model", evaluation, clock.seconds)


def _embed(cohort: RenderedCohort, store: Path, settings: DemoSettings, tell: Progress) -> EmbeddingSet:
    done = 0

    def on_event(event: Event) -> None:
        nonlocal done
        if isinstance(event, SlideFinished):
            done += 1
            tell("embed tiles", done, len(cohort.slides))

    tell("embed tiles", 0, len(cohort.slides))
    summary = embed_slides(
        [cohort.folder / "slides"],
        store,
        EmbedSettings(encoder="filterbank", workers=settings.workers),
        on_event=on_event,
    )
    if summary.failed:
        raise StoreError(f"{len(summary.failed)} slides of the demo could not be embedded; see {summary.log}.")
    return open_set(summary.set_path)


def _steps(n_steps: int, tell: Progress) -> OnPretrainEvent:
    tell("pretrain", 0, n_steps)

    def on_event(event: object) -> None:
        if isinstance(event, StepsDone):
            tell("pretrain", int(event.values["step"]), n_steps)

    return on_event


class _Clock:
    """Wall-clock seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._started = "", 0.0

    def __call__(self, stage: str) -> "_Clock":
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._stage] = time.monotonic() - self._started
