"""What a head of places says, one row for each place, and maps of it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from threadpoolctl import threadpool_limits

from parfocal.errors import ConfigError, SlideError, StoreError
from parfocal.evaluate.places.maps import find_thumbnail
from parfocal.evaluate.places.reading import offset_notes, target_values
from parfocal.evaluate.places.rows import read_made, rows_at
from parfocal.files import write_csv
from parfocal.predict.given import PredictSettings, check_named, embedded_slides, represented_slides
from parfocal.predict.places.head import PlaceHead, load_place_head
from parfocal.predict.places.page import best_targets, write_map_page
from parfocal.predict.shards import described, mark_done, prediction_records, record_prediction, table_of
from parfocal.predict.source import HeadModel
from parfocal.regions.places import Places, read_places
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, SlideOutcomes
from parfocal.run.jobs import attempt_slide
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, Source
from parfocal.table import some_of
from parfocal.version import __version__

MAPPED_SLIDES = 20
"""Of so many slides maps are drawn where nothing else is asked for."""
_MAPPED_TARGETS = 3
_FIRST = ("slide", "x_um", "y_um")
_LAST = ("about_slide_mean", "problem", "parfocal_version", "head", "encoder")
FIXED_COLUMNS = (*_FIRST, *_LAST)
"""The columns of a table of predictions beside the targets."""
_NO_REGION = "no region with a tile of every magnification holds the place"


@dataclass(frozen=True, eq=False)
class PlacePrediction:
    """What a head says of the places of one slide.

    Attributes:
        slide: its id.
        xy_um: the places, from the top left corner of the slide.
        offset_um: how far each lies from the middle of its region.
        there: whether a region holds it.
        value: of each target; NaN where no region holds the place.
        measured: what the file of places has of the targets; NaN where it has nothing.
    """

    slide: str
    xy_um: Float64[np.ndarray, "place 2"]
    offset_um: Float64[np.ndarray, " place"]
    there: Bool[np.ndarray, " place"]
    value: Float64[np.ndarray, "place target"]
    measured: Float64[np.ndarray, "place target"]


@dataclass(frozen=True, eq=False)
class PlacesSummary(SlideOutcomes[PlacePrediction]):
    """What came of a run.

    Attributes:
        out: the table.
        head: what predicted.
        tiles: the tile embeddings that were read.
        slides: the predictions, and the failures in between, in the order of the input.
        maps: the pages with maps.
    """

    out: Path
    head: PlaceHead
    tiles: EmbeddingSet
    slides: tuple[PlacePrediction | FailedSlide, ...]
    maps: tuple[Path, ...] = ()

    @property
    def predicted(self) -> tuple[PlacePrediction, ...]:
        """The slides with predictions."""
        return self.done

    @property
    def n_places(self) -> int:
        """How many places have a prediction."""
        return sum(int(one.there.sum()) for one in self.predicted)


def predict_places(
    inputs: Sequence[Source],
    head: Path,
    out: Path,
    settings: PredictSettings | None = None,
    *,
    places: Path | None = None,
    store: Path | None = None,
    maps: int = MAPPED_SLIDES,
    on_event: OnEvent | None = None,
) -> PlacesSummary:
    """Predict places inside slides, and write a table with a row for each, and a page of maps for each slide.

    A slide's predictions are the same whatever other slides are predicted with it; where the head was centred they are
    about the mean of those of its places that are predicted, so other places of the same slide have a say.

    Args:
        inputs: as in `predict_slides`; the regions of a store may lie on places or on a lattice.
        head: the folder of a head that `fit_places` has written.
        out: the table to write, a CSV; of a shard the one beside it, which `merge_predictions` joins.
        settings: how slides are embedded, and which shard of them is predicted.
        places: what to predict, see `parfocal.regions.read_places`; slide files are embedded with a region around each.
            What it holds of the head's targets is shown beside the predictions. None predicts the middles of regions.
        store: where embeddings are written; a folder beside `out` where None.
        maps: of so many slides a page with maps is written, into a folder beside the table; of each shard so many.
        on_event: told how far each stage is, and what was left out.

    Raises:
        StoreError: the head or the store cannot be read.
        MismatchError: the embeddings are of another encoder, other magnifications or other regions than the head's.
        ConfigError: an input is absent, `out` is a folder, no slide is found or has a place, or the encoder cannot be
            loaded.
    """
    settings, tell = settings or PredictSettings(), on_event or warn_of
    if maps < 0:
        raise ConfigError(f"maps cannot be drawn of {maps} slides. Give their number; 0 draws none.")
    for device in settings.device:
        find_device(device)
    fitted = load_place_head(head)
    store = store or out.with_name(f"{out.stem}-store")
    check_named(inputs, out)
    known = None if places is None else _read_places(places, fitted)
    given = embedded_slides(inputs, fitted.facts, head, settings, store, tell, places=places)
    slides, everyone, failed = given.slides, given.everyone, dict(given.failed)
    if known is not None:
        everyone = _slides_with_places(everyone, known, failed, tell)
        slides = tuple(slide for slide in slides if slide in {*everyone})
    about = described(fitted.digest, given.tiles.name, settings, places=places)
    tiles = replace(given.tiles, slides=tuple(slide for slide in slides if slide not in failed))
    made: Mapping[str, EmbeddingSet] = {}
    if fitted.model is not None and fitted.facts.model is not None:
        model = HeadModel(fitted.model, fitted.facts.model)
        made, unrepresented = represented_slides(tiles, model, fitted.readouts, head, settings, store, tell)
        failed |= unrepresented
    outcomes: list[PlacePrediction | FailedSlide] = []
    table = table_of(out, settings.part)
    with prediction_records(out, table, about, settings) as records, threadpool_limits(1):
        for number, slide in enumerate(slides):
            tell(Progress("predict", number, len(slides)))
            started = time.monotonic()
            outcome: PlacePrediction | FailedSlide
            if slide in failed:
                outcome = failed[slide]
            else:
                job = partial(_predict, fitted, tiles, made, slide, known)
                outcome = attempt_slide(SlideSource(slide, tiles.path), job)
            outcomes.append(outcome)
            record_prediction(records, outcome, tiles, time.monotonic() - started)
    tell(Progress("predict", len(slides), len(slides)))
    if records.problem:
        tell(Notice(records.problem, is_warning=True))
    summary = PlacesSummary(table, fitted, given.tiles, tuple(outcomes))
    for note in _notes(summary):
        tell(Notice(note, is_warning=True))
    write_csv(table, [*_FIRST, *(one.name for one in fitted.facts.targets), *_LAST], _rows(summary))
    if settings.part is not None:
        mark_done(table, settings.part, everyone, about)
    return replace(summary, maps=tuple(_write_maps(summary, maps)))


def _read_places(path: Path, head: PlaceHead) -> Places:
    """Places with those of the head's targets that the file has."""
    return read_places(path, list(dict.fromkeys(one.column for one in head.facts.targets)), may_lack=True)


def _slides_with_places(
    slides: Sequence[str], places: Places, failed: Mapping[str, FailedSlide], tell: OnEvent
) -> tuple[str, ...]:
    places.check_names(slides)
    with_places = tuple(slide for slide in slides if slide in failed or len(places.of(slide)))
    if not with_places:
        raise ConfigError(
            f"no slide has a place in {places.path}: it names {some_of(dict.fromkeys(places.slide))}, and the slides "
            f"are {some_of(slides)}."
        )
    without = [slide for slide in slides if slide not in with_places]
    if without:
        text = f"{len(without)} slides have no place in {places.path.name} and are left out: {some_of(without)}."
        tell(Notice(text, is_warning=True))
    return with_places


def _predict(
    head: PlaceHead, tiles: EmbeddingSet, made: Mapping[str, EmbeddingSet], slide: str, places: Places | None
) -> PlacePrediction:
    """One slide, read by itself."""
    tokens = tiles.read(slide)
    if not tokens.n_regions:
        raise SlideError(f"{slide} has no region: no tissue was found on it. Look at the slide, or leave it out.")
    numbers = np.zeros(0, np.int64) if places is None else places.of(slide)
    xy_um = tokens.region_xy_um + tokens.region_um / 2 if places is None else places.xy_um(numbers, tokens.slide_mpp)
    of_models = [
        ([name for source, name in head.facts.blocks if source == readout], read_made(one, slide))
        for readout, one in made.items()
    ]
    rows = rows_at(tokens, tiles.tile_um_of(tokens), of_models, xy_um)
    if not rows.there.any():
        raise SlideError(f"of {len(xy_um)} places of {slide} none can be predicted: {_NO_REGION}.")
    value = np.full((len(xy_um), len(head.facts.targets)), np.nan)
    seen = {name: rows.blocks[name][rows.there] for name in head.fitted.blocks}
    value[rows.there] = head.fitted.predict(seen, np.zeros(int(rows.there.sum()), np.int64))
    if not np.isfinite(value[rows.there]).all():
        raise StoreError(
            f"what the head {head.path} says of {slide} is not finite: its embeddings are too far from those that the "
            "head was fitted on. Look at how it was embedded."
        )
    measured = np.full(value.shape, np.nan)
    for number, one in enumerate(head.facts.targets):
        if places is not None and one.column in places.targets:
            measured[:, number] = target_values(places.targets[one.column][numbers], one.class_name)
    return PlacePrediction(slide, xy_um, rows.offset_um, rows.there, value, measured)


def _notes(summary: PlacesSummary) -> list[str]:
    """What is to be known of the places that were predicted."""
    notes = []
    lost = sum(int((~one.there).sum()) for one in summary.predicted)
    if lost:
        notes.append(f"{lost} places have no region, or not a tile of every magnification, and are not predicted.")
    single = [one.slide for one in summary.predicted if one.there.sum() == 1]
    if single and summary.head.facts.centred:
        notes.append(
            f"{len(single)} slides have a single place, which about its own mean says nothing: {some_of(single)}."
        )
    offsets = [one.offset_um[one.there] for one in summary.predicted]
    return notes + (offset_notes(np.concatenate(offsets)) if offsets else [])


def _rows(summary: PlacesSummary) -> Iterator[list[str]]:
    facts = summary.head.facts
    about, by = str(int(facts.centred)), [__version__, summary.head.digest, facts.tiles.encoder_digest]
    empty = [""] * len(facts.targets)
    for one in summary.slides:
        if isinstance(one, FailedSlide):
            yield [one.slide, "", "", *empty, about, f"{one.error}: {one.message}", *by]
            continue
        for xy_um, there, value in zip(one.xy_um.tolist(), one.there.tolist(), one.value.tolist(), strict=True):
            said = [f"{number:.6g}" for number in value] if there else empty
            yield [one.slide, *(f"{cell:.8g}" for cell in xy_um), *said, about, "" if there else _NO_REGION, *by]


def _write_maps(summary: PlacesSummary, most: int) -> Iterator[Path]:
    """Of the first slides a page each: the targets that are known best, measured where they are, and predicted."""
    facts = summary.head.facts
    folder = summary.out.with_name(f"{summary.out.stem}-maps")
    for one in [one for one in summary.predicted if len(one.xy_um) > 1][:most]:
        maps = {}
        for target in best_targets(facts)[:_MAPPED_TARGETS]:
            if np.isfinite(one.measured[:, target]).any():
                maps[f"{facts.targets[target].name}, measured"] = one.measured[:, target]
            maps[f"{facts.targets[target].name}, predicted"] = one.value[:, target]
        path = folder / f"{one.slide}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        thumbnail = find_thumbnail(summary.tiles, one.slide)
        yield write_map_page(facts, summary.head.digest, one.slide, one.xy_um, maps, thumbnail, path)
