"""What a head says about slides that nobody has labelled, one row for each, whatever becomes of the others."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import Field
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, RepresentSettings, read_bags, represent_regions
from parfocal.embed import SlideSettings, embed_slides
from parfocal.errors import ConfigError, MismatchError, ParfocalError, ParfocalWarning, SlideError, StoreError
from parfocal.files import digest8, writable_folder, write_csv
from parfocal.geometry import format_mpp
from parfocal.predict.head import TILES, Head, SourceBag, load_head
from parfocal.predict.outside import Distance
from parfocal.predict.source import embed_settings, find_tiles, is_store, refuse_other_tiles
from parfocal.run import read_failures
from parfocal.run.device import find_device
from parfocal.run.events import OnEvent, Progress, as_stage, warn_of
from parfocal.run.failures import FailedSlide, exit_status, failure
from parfocal.run.jobs import attempt_slide, own_warnings
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, Source, open_sets
from parfocal.version import __version__


@dataclass(frozen=True, eq=False)
class SlidePrediction:
    """What a head says about one slide.

    Attributes:
        slide: its id.
        probability: of each class; empty for numbers and times.
        value: the number, or the percentile of the risk; None for classes.
        interval: what holds nine of ten new values; None for other kinds than numbers.
        absent_share: share of the tiles of the slide's regions that are absent, for each magnification.
        absent_overall: the same over all magnifications.
        n_regions: regions of the slide.
        distance: from the training slides.
        rank: its place among the training patients' distances and its own, 1 where it is further than all; None where
            the head does not know them.
        is_outside: whether that is beyond what is usual.
    """

    slide: str
    probability: Float64[np.ndarray, " class"]
    value: float | None
    interval: tuple[float, float] | None
    absent_share: Mapping[str, float]
    absent_overall: float
    n_regions: int
    distance: Distance
    rank: int | None
    is_outside: bool


@dataclass(frozen=True, eq=False)
class PredictSummary:
    """What came of a run.

    Attributes:
        out: the table.
        head: what predicted.
        tiles: the tile embeddings that were read.
        slides: the predictions, and the failures in between, in the order of the input.
    """

    out: Path
    head: Head
    tiles: EmbeddingSet
    slides: tuple[SlidePrediction | FailedSlide, ...]

    @property
    def predicted(self) -> tuple[SlidePrediction, ...]:
        """The slides with a prediction."""
        return tuple(one for one in self.slides if isinstance(one, SlidePrediction))

    @property
    def failed(self) -> tuple[FailedSlide, ...]:
        """The slides without."""
        return tuple(one for one in self.slides if isinstance(one, FailedSlide))

    @property
    def exit_status(self) -> int:
        """0 when all slides are predicted, 1 when none is, 3 when some are."""
        return exit_status(len(self.failed), len(self.slides))


def prediction_columns(head: Head) -> tuple[str, ...]:
    """The columns of the table: what is said, how much of the slide it rests on, whether to trust it, and by what."""
    kind, classes = head.facts.kind, head.facts.classes
    if kind == "binary":
        said = [f"probability_{classes[1]}"]
    elif kind == "continuous":
        said = [head.facts.target, "low", "high"]
    elif kind == "survival":
        said = ["risk_percentile"]
    else:
        said = [f"probability_{name}" for name in classes]
    absent = [f"absent_share_{format_mpp(mpp)}" for mpp in head.facts.tiles.mpps]
    trust = ["n_regions", "outside", "distance", "cut", "rank", "rank_of", "false_alarm_rate", "furthest"]
    return ("slide", *said, "absent_share", *absent, *trust, "problem", "parfocal_version", "head", "encoder")


def write_predictions(summary: PredictSummary) -> None:
    """Write the table, whole or not at all."""
    write_csv(summary.out, prediction_columns(summary.head), _rows(summary))


def _rows(summary: PredictSummary) -> Iterator[list[str]]:
    head = summary.head
    by = [__version__, head.digest, head.facts.tiles.encoder_digest]
    empty = len(prediction_columns(head)) - 2 - len(by)
    for one in summary.slides:
        if isinstance(one, FailedSlide):
            yield [one.slide, *[""] * empty, f"{one.error}: {one.message}", *by]
            continue
        if head.facts.kind == "binary":
            said = [float(one.probability[1])]
        elif head.facts.classes:
            said = one.probability.tolist()
        else:
            said = [float("nan") if one.value is None else one.value, *(one.interval or ())]
        shares = [one.absent_overall, *one.absent_share.values()]
        limit = head.habits.limit
        ranked = ["", "", ""] if one.rank is None else [str(one.rank), str(limit.n + 1), f"{limit.rate:.4g}"]
        far = [f"{one.distance.value:.4g}", f"{limit.cut:.4g}"]
        trust = [str(int(one.is_outside)), *far, *ranked, one.distance.furthest]
        numbers = [f"{number:.6g}" for number in (*said, *shares)]
        yield [one.slide, *numbers, str(one.n_regions), *trust, "", *by]


_FINGERPRINT = "slide_fingerprint"
_EVERYTHING = 1 << 62  # attention sees all instances of a slide: no draw, so nothing depends on other slides


class PredictSettings(SlideSettings):
    """How slides are embedded for a prediction; what changes a row is the head's and not asked."""

    encoder: str = Field(
        "", description="How the head's tile encoder is loaded, where its name does not say or its weights have moved."
    )


def predict_slides(
    inputs: Sequence[Source],
    head: Path,
    out: Path,
    settings: PredictSettings | None = None,
    *,
    store: Path | None = None,
    on_event: OnEvent | None = None,
) -> PredictSummary:
    """Predict slides, or the slides of a store, and write a table; a slide that fails has its reason in it.

    A prediction is the same whatever other slides are predicted with it. What is embedded is kept in `store`, so that
    a run that was stopped goes on where it was.

    Args:
        inputs: one store of tile embeddings, or a set of it, open or by its folder; or slide files, folders of them, or
            manifests. Of an open set only the slides in it are predicted; of a store those that failed have a row too.
        head: the folder of a head.
        out: the table to write, a CSV.
        settings: how slides are embedded.
        store: where embeddings are written; a folder beside `out` where None.
        on_event: told how far each stage is.

    Raises:
        StoreError: the head or the store cannot be read.
        MismatchError: the embeddings are of another encoder, other magnifications or other regions than the head's.
        ConfigError: an input is absent, `out` is a folder, no slide is found, or the encoder cannot be loaded.
    """
    settings = settings or PredictSettings()
    tell = on_event or warn_of
    find_device(settings.device)
    fitted = load_head(head)
    store = store or out.with_name(f"{out.stem}-store")
    if out.is_dir():
        raise ConfigError(f"cannot write the predictions to {out}: it is a folder. Name a file, such as {out}.csv.")
    paths = [Path(one) for one in inputs if not isinstance(one, EmbeddingSet)]
    absent = [path for path in paths if not os.path.lexists(path)]
    if absent:
        raise ConfigError(f"cannot predict {absent[0]}: there is no such file or folder.")
    writable_folder(out.absolute().parent)
    stores: list[Source] = [one for one in inputs if isinstance(one, EmbeddingSet)]
    stores += [path for path in paths if is_store(path)]
    if stores and len(inputs) > 1:
        raise ConfigError(f"{stores[0]} is a store, and something else is named beside it. Predict one at a time.")
    failed: dict[str, FailedSlide]
    if stores:
        tiles = find_tiles(stores[0], fitted.facts.tiles, head)
        failed = {} if isinstance(stores[0], EmbeddingSet) else _failures_of(tiles)
        slides = sorted({*tiles.slides, *failed})
    else:
        tiles, failed, slides = _embed(paths, fitted, store, settings, tell)
    usable = [slide for slide in slides if slide not in failed]
    sources = {TILES: replace(tiles, slides=tuple(usable))}
    if fitted.readouts:
        made, unrepresented = _represent(sources[TILES], fitted, store, settings, tell)
        sources |= made
        failed |= unrepresented
    outcomes: list[SlidePrediction | FailedSlide] = []
    warned: list[str] = []
    for number, slide in enumerate(slides):
        tell(Progress("predict", number, len(slides)))
        outcomes.append(failed.get(slide) or _predict_or_fail(fitted, sources, slide, warned))
    tell(Progress("predict", len(slides), len(slides)))
    if warned:
        warnings.warn(f"{len(warned)} slides gave a warning; the first: {warned[0]}", ParfocalWarning, stacklevel=2)
    summary = PredictSummary(out, fitted, tiles, tuple(outcomes))
    write_predictions(summary)
    return summary


def _embed(
    inputs: Sequence[Path], head: Head, store: Path, settings: PredictSettings, tell: OnEvent
) -> tuple[EmbeddingSet, dict[str, FailedSlide], list[str]]:
    """The set with the slides in it, those that failed, and all of them in the order of the input."""
    facts = head.facts.tiles
    how = settings.model_dump(exclude={"encoder"})
    embedding = embed_settings(facts, head.path, encoder=settings.encoder, **how)
    summary = embed_slides(list(inputs), store, embedding, on_event=as_stage(tell, "embed", "slides"))
    (tiles,) = (one for one in open_sets(summary.set_path) if one.path == summary.set_path)
    refuse_other_tiles(tiles, facts, head.path)
    return tiles, {one.slide: one for one in summary.failed}, [one.slide for one in summary.outcomes]


def _failures_of(tiles: EmbeddingSet) -> dict[str, FailedSlide]:
    """Slides that are not in a set because they could not be embedded."""
    return {
        one.slide: FailedSlide(one.slide, Path(one.path), one.error, one.message)
        for one in read_failures(tiles.path.parent)
        if one.set == tiles.name and one.slide not in tiles.slides
    }


def _represent(
    tiles: EmbeddingSet, head: Head, store: Path, settings: PredictSettings, tell: OnEvent
) -> tuple[dict[str, EmbeddingSet], dict[str, FailedSlide]]:
    """The sets of the head's own region encoder by readout, and the slides that are in none."""
    model = head.facts.model
    assert head.model is not None  # a head with a readout has a model
    assert model is not None
    how = RepresentSettings.model_validate(
        {
            "readouts": head.readouts,
            "precision": model.precision,
            "dtype": model.dtype,
            "device": settings.device,
            "other_mpps": True,  # those of the head's own training, which had been accepted there
        }
    )
    # A place for each set of tiles: another store may hold another slide under the same id.
    place = store / f"regions-{digest8(str(tiles.path.resolve()))}"
    summary = represent_regions(tiles, head.model, place, how, on_event=as_stage(tell, "represent", "slides"))
    for one in summary.sets:
        if one.settings["model_digest"] != model.digest:
            raise MismatchError(
                f"the head {head.path} is damaged: its region encoder is {one.settings['model_digest']} and was "
                f"{model.digest} when it was fitted. Copy or fit it again."
            )
    made = dict(zip(head.readouts, summary.sets, strict=True))
    failed = {one.slide: one for one in summary.failed}
    for slide in summary.done:
        try:
            ours = tiles.attributes(slide).get(_FINGERPRINT)
            if any(one.attributes(slide).get(_FINGERPRINT) != ours for one in summary.sets):
                raise MismatchError(
                    f"its region embeddings in {place} are those of another slide file; remove that folder."
                )
        except (ParfocalError, OSError) as error:
            failed[slide] = failure(SlideSource(slide, tiles.path), error)
    return made, failed


def _predict_or_fail(
    head: Head, sources: Mapping[str, EmbeddingSet], slide: str, warned: list[str]
) -> SlidePrediction | FailedSlide:
    with own_warnings() as caught, threadpool_limits(1):
        outcome = attempt_slide(SlideSource(slide, sources[TILES].path), partial(_predict, head, sources, slide))
    if not isinstance(outcome, FailedSlide):
        warned += [str(one.message) for one in caught[:1]]
    return outcome


def _predict(head: Head, sources: Mapping[str, EmbeddingSet], slide: str) -> SlidePrediction:
    """One slide, read by itself, so that nothing of another one can reach it."""
    tiles, bags = sources[TILES], dict[SourceBag, Bag]()
    for mpp, count in tiles.n_tiles(slide).items():
        if not count:
            raise SlideError(
                f"{slide} has no vector to pool at {format_mpp(mpp)} mpp: no tissue was found on it, so nothing can be "
                "predicted. Look at the slide, or leave it out."
            )
    usual = [format_mpp(mpp) for mpp in tiles.mpps]
    for source, one in sources.items():
        names = [*(usual if source == TILES else ()), *(name for asked, name in head.bags if asked == source)]
        bags |= {(source, bag.name): bag for bag in read_bags(one, [slide], names=names, most_instances=_EVERYTHING)}
    score = head.score(bags, 0)
    distance = head.habits.distance([bags[TILES, name] for name in usual], 0)
    calibration, probability, value, interval = head.calibration, np.zeros(0), None, None
    with np.errstate(invalid="ignore"):  # what is not finite is refused below, with its reason
        if head.facts.classes:
            probability = calibration.probability(score)[0]
        else:
            value = float(calibration.value(score)[0])
            if head.facts.kind == "continuous":
                interval = value - calibration.half_width, value + calibration.half_width
    said = np.array([*probability, *(() if value is None else (value,)), *(interval or ()), distance.value])
    if not np.isfinite(said).all():
        raise StoreError(
            f"what the head {head.path} says of {slide} is not finite (a score of {score.ravel()[0]:g}): its "
            "embeddings are too far from those that the head was fitted on. Look at how it was embedded."
        )
    n_regions, n_tiles = tiles.n_regions(slide), tiles.n_tiles(slide)
    there, planned = 0, 0
    absent = {}
    for mpp in tiles.mpps:
        full = n_regions * round(tiles.region_um / (head.facts.tiles.tile_px * mpp)) ** 2
        absent[format_mpp(mpp)] = 1 - n_tiles[mpp] / full
        there, planned = there + n_tiles[mpp], planned + full
    return SlidePrediction(
        slide=slide,
        probability=probability,
        value=value,
        interval=interval,
        absent_share=absent,
        absent_overall=1 - there / planned,
        n_regions=n_regions,
        distance=distance,
        rank=head.habits.limit.rank(distance.value),
        is_outside=distance.value > head.habits.limit.cut,
    )
