"""What a head says about slides that nobody has labelled, one row for each, whatever becomes of the others."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, Filler, empty_bag, read_bags
from parfocal.embed import Zoom
from parfocal.errors import ParfocalWarning, SlideError, StoreError
from parfocal.files import write_csv
from parfocal.geometry import format_mpp
from parfocal.predict.given import PredictSettings, check_named, embedded_slides, represented_slides
from parfocal.predict.head import TILES, Head, SourceBag, load_head
from parfocal.predict.outside import Distance
from parfocal.predict.parts import filler_of_head
from parfocal.predict.shards import described, mark_done, prediction_records, record_prediction, table_of
from parfocal.predict.source import HeadModel
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, SlideOutcomes
from parfocal.run.jobs import attempt_slide, own_warnings
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, SlideTokens, Source
from parfocal.store.layout import BUDGET, RULE, SETTLED
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
        share_read: of its planned finest tiles.
        read_by: the policy and the shares of a slide that was read in part; empty of one that was read whole.
        doubt: why what is said of a slide that was read in part is not to be taken as it is; empty where it is.
        is_settled: whether reading ended because its class was settled; None where the head does not say when it is.
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
    share_read: float
    read_by: str
    doubt: str
    is_settled: bool | None
    distance: Distance
    rank: int | None
    is_outside: bool


@dataclass(frozen=True, eq=False)
class PredictSummary(SlideOutcomes[SlidePrediction]):
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
        return self.done


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
    read = ("read_by", "doubt") if head.stopping is None else ("share_read", "settled", "read_by", "doubt")
    return ("slide", *said, "absent_share", *absent, *read, *trust, "problem", "parfocal_version", "head", "encoder")


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
        if head.stopping is not None:
            numbers += [f"{one.share_read:.6g}", "" if one.is_settled is None else str(int(one.is_settled))]
        numbers += [one.read_by, one.doubt]
        yield [one.slide, *numbers, str(one.n_regions), *trust, "", *by]


_EVERYTHING = 1 << 62  # attention sees all instances of a slide: no draw, so nothing depends on other slides


def predict_slides(
    inputs: Sequence[Source],
    head: Path,
    out: Path,
    settings: PredictSettings | None = None,
    *,
    store: Path | None = None,
    zoom: Zoom | None = None,
    on_event: OnEvent | None = None,
) -> PredictSummary:
    """Predict slides, or the slides of a store, and write a table; a slide that fails has its reason in it.

    A prediction is the same whatever other slides are predicted with it. What is embedded is kept in `store`, so that
    a run that was stopped goes on where it was.

    Args:
        inputs: one store of tile embeddings, or a set of it, open or by its folder; or slide files, folders of them, or
            manifests. Of an open set only the slides in it are predicted; of a store those that failed have a row too.
        head: the folder of a head.
        out: the table to write, a CSV; of a shard the one beside it that `table_of` names. `merge_predictions` joins
            those of all shards. Beside it `NAME.run.jsonl` has a record of each slide.
        settings: how slides are embedded, and which shard of them is predicted.
        store: where embeddings are written; a folder beside `out` where None.
        zoom: which of the finest tiles of slide files are read, see `zoom_by` and `zoom_until_settled`; all where None.
        on_event: told how far each stage is.

    Raises:
        StoreError: the head or the store cannot be read.
        MismatchError: the embeddings are of another encoder, other magnifications or other regions than the head's.
        ConfigError: an input is absent, `out` is a folder, no slide is found, or the encoder cannot be loaded.
    """
    settings = settings or PredictSettings()
    tell = on_event or warn_of
    for device in settings.device:
        find_device(device)
    fitted = load_head(head)
    store = store or out.with_name(f"{out.stem}-store")
    check_named(inputs, out)
    given = embedded_slides(inputs, fitted.facts, head, settings, store, tell, zoom=zoom)
    tiles, slides, failed = given.tiles, given.slides, dict(given.failed)
    usable = [slide for slide in slides if slide not in failed]
    about = described(fitted.digest, tiles.name, settings, zoom=zoom)
    sources, unrepresented = sources_for(fitted, replace(tiles, slides=tuple(usable)), store, settings, tell)
    failed |= unrepresented
    outcomes: list[SlidePrediction | FailedSlide] = []
    warned: list[str] = []
    table = table_of(out, settings.part)
    with prediction_records(out, table, about, settings) as records, threadpool_limits(1):
        for number, slide in enumerate(slides):
            tell(Progress("predict", number, len(slides)))
            started = time.monotonic()
            outcome = failed.get(slide) or predict_slide(fitted, sources, slide, warned)
            outcomes.append(outcome)
            record_prediction(records, outcome, tiles, time.monotonic() - started)
    tell(Progress("predict", len(slides), len(slides)))
    if records.problem:
        tell(Notice(records.problem, is_warning=True))
    if warned:
        warnings.warn(f"{len(warned)} slides gave a warning; the first: {warned[0]}", ParfocalWarning, stacklevel=2)
    summary = PredictSummary(table, fitted, tiles, tuple(outcomes))
    write_predictions(summary)
    if settings.part is not None:
        mark_done(table, settings.part, given.everyone, about)
    return summary


@dataclass(frozen=True, eq=False)
class PredictSources:
    """What a head reads slides from.

    Attributes:
        sets: of tile embeddings, and of what its region encoder made of them, by readout.
        filler: what fills in tiles that were not read; None where they stay absent.
    """

    sets: Mapping[str, EmbeddingSet]
    filler: Filler | None

    @property
    def tiles(self) -> EmbeddingSet:
        """The set of tile embeddings."""
        return self.sets[TILES]


def sources_for(
    head: Head, tiles: EmbeddingSet, store: Path, settings: PredictSettings, tell: OnEvent
) -> tuple[PredictSources, dict[str, FailedSlide]]:
    """What the slides of a set are predicted from, and those that the head's region encoder could make nothing of.

    Args:
        head: its region encoder, where it has one, makes what it pools.
        tiles: the set that fits it.
        store: where region embeddings are written; what is there is not made again.
        settings: where the region encoder runs.
        tell: told how far that is.

    Raises:
        MismatchError: the region encoder is not the one that the head was fitted with.
    """
    sets, failed = {TILES: tiles}, dict[str, FailedSlide]()
    if head.readouts:
        assert head.model is not None  # a head with a readout has a model
        assert head.facts.model is not None
        model = HeadModel(head.model, head.facts.model)
        made, failed = represented_slides(tiles, model, head.readouts, head.path, settings, store, tell)
        sets |= made
    return PredictSources(sets, filler_of_head(head, tiles, device=settings.device[0])), failed


def predict_slide(head: Head, sources: PredictSources, slide: str, warned: list[str]) -> SlidePrediction | FailedSlide:
    """What a head says about one slide, or why it says nothing; the first warning, if there is one, joins `warned`."""
    with own_warnings() as caught:
        outcome = attempt_slide(
            SlideSource(slide, sources.tiles.path), partial(_predict, head, sources.sets, slide, sources.filler)
        )
    if not isinstance(outcome, FailedSlide):
        warned += [str(one.message) for one in caught[:1]]
    return outcome


def read_in_part_at(tiles: EmbeddingSet, slide: str) -> set[float]:
    """The magnifications of which a part of a slide was read by choice."""
    return {mpp for mpp, n in tiles.n_unread(slide).items() if n}


def refuse_nothing_to_pool(head: Head, tiles: EmbeddingSet, slide: str) -> None:
    """Return if a slide has the vectors that a head pools, or was read so that the head knows what to do without.

    Raises:
        SlideError: a magnification has none.
    """
    parts, filled = read_in_part_at(tiles, slide), {min(tiles.mpps)} if head.fills_in else set()
    pooled = {name for source, name in head.bags if source == TILES}
    for mpp, count in tiles.n_tiles(slide).items():
        # Where none of the chosen tiles was read: the head fills them in, adds nothing for them, or pools none.
        if not count and not (mpp in parts and (mpp in filled or head.adds_up or format_mpp(mpp) not in pooled)):
            why = "none of them was read" if mpp in parts else "no tissue was found on it"
            raise SlideError(
                f"{slide} has no vector to pool at {format_mpp(mpp)} mpp: {why}, so nothing can be "
                "predicted. Look at the slide, or leave it out."
            )


def warn_of_doubt(head: Head, tiles: EmbeddingSet, slide: str) -> str:
    """Warn where a slide was read in part in a way that the head does not know; not where the head's rule read it.

    Returns:
        What is wrong with it, as what the head does; empty where nothing is.
    """
    parts, reading = read_in_part_at(tiles, slide), tiles.reading(slide)
    if reading is None or not parts or tiles.attributes(slide).get(RULE) == head.digest:
        return ""
    doubt = head.doubt(reading, {format_mpp(mpp) for mpp in parts})
    if doubt is not None:
        of = " and ".join(format_mpp(mpp) for mpp in sorted(parts, reverse=True))
        warnings.warn(
            f"{slide} was read in part ({reading.policy}, {reading.shares} of its tiles at {of} mpp), and the head "
            f"{head.path} {doubt}.",
            ParfocalWarning,
            stacklevel=2,
        )
    return doubt or ""


def _filled(filler: Filler, tiles: EmbeddingSet, tokens: SlideTokens) -> list[SlideTokens]:
    return [filler.fill(tokens, *tiles.unread_tiles(tokens.slide))]


def _predict(head: Head, sources: Mapping[str, EmbeddingSet], slide: str, filler: Filler | None) -> SlidePrediction:
    """One slide, read by itself, so that nothing of another one can reach it."""
    tiles, bags = sources[TILES], dict[SourceBag, Bag]()
    parts, finest = read_in_part_at(tiles, slide), min(tiles.mpps)
    reading = tiles.reading(slide) if parts else None
    seen_as = None if reading is None or filler is None else partial(_filled, filler, tiles)
    n_tiles, pooled = tiles.n_tiles(slide), {name for source, name in head.bags if source == TILES}
    partly = parts - ({finest} if seen_as else set())
    refuse_nothing_to_pool(head, tiles, slide)
    # What was read whole of a slide says whether it is like others.
    usual = [None if mpp in parts else format_mpp(mpp) for mpp in tiles.mpps]
    unread = {format_mpp(mpp): mpp for mpp in partly if not n_tiles[mpp]}
    for source, one in sources.items():
        own = [name for asked, name in head.bags if asked == source]
        names = [name for name in (*(usual if source == TILES else ()), *own) if name is not None]
        names = [name for name in names if source != TILES or name not in unread]
        found = read_bags(one, [slide], names=names, most_instances=_EVERYTHING, seen_as=seen_as)
        bags |= {(source, bag.name): bag for bag in found}
    for name in unread.keys() & pooled:
        nothing = np.zeros(tiles.content["dims"][name], dtype=np.float32)
        bags[TILES, name] = empty_bag(slide, unread[name], tiles.n_regions(slide), nothing)
    stored = tiles.attributes(slide)
    shares = {(TILES, format_mpp(mpp)): tiles.share_read(slide, mpp) for mpp in partly}
    doubt = warn_of_doubt(head, tiles, slide)
    score = head.score(bags, 0, None if reading is None else shares)
    distance = head.habits.distance([None if name is None else bags[TILES, name] for name in usual], 0)
    calibration = head.calibration_at(None if reading is None else reading.budget)
    probability, value, interval = np.zeros(0), None, None
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
    n_regions = tiles.n_regions(slide)
    there, planned = 0, 0
    absent = {}
    for mpp in tiles.mpps:
        full = n_regions * round(tiles.region_um / tiles.tile_um[mpp]) ** 2
        absent[format_mpp(mpp)] = max(0.0, 1 - n_tiles[mpp] / full)  # there are more where tiles overlap
        there, planned = there + n_tiles[mpp], planned + full
    return SlidePrediction(
        slide=slide,
        probability=probability,
        value=value,
        interval=interval,
        absent_share=absent,
        absent_overall=1 - there / planned,
        n_regions=n_regions,
        share_read=float(stored.get(BUDGET, 1.0)),
        read_by="" if reading is None else f"{reading.policy} {reading.shares}",
        doubt=f"the head {doubt}" if doubt else "",
        is_settled=bool(stored[SETTLED]) if stored.get(RULE) == head.digest else None,
        distance=distance,
        rank=head.habits.limit.rank(distance.value),
        is_outside=distance.value > head.habits.limit.cut,
    )
