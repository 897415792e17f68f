"""What a head is to predict: a store or slide files, embedded and represented as the head expects."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from parfocal.addresses import address_of
from parfocal.bags import RepresentSettings, represent_regions
from parfocal.embed import SlideSettings, Zoom, embed_slides
from parfocal.errors import ConfigError, MismatchError, ParfocalError
from parfocal.files import digest8, writable_folder
from parfocal.predict.facts import AnyHeadFacts
from parfocal.predict.source import HeadModel, embed_settings, find_tiles, is_store, refuse_other_tiles
from parfocal.run import read_failures
from parfocal.run.events import OnEvent, as_stage
from parfocal.run.executors import RunsSlides
from parfocal.run.failures import FailedSlide, failure
from parfocal.run.shards import Sharding
from parfocal.slides import SlideSource, find_slides
from parfocal.store import EmbeddingSet, Source, open_sets

_FINGERPRINT = "slide_fingerprint"


class PredictSettings(SlideSettings, Sharding):
    """How slides are embedded for a prediction; what changes a row is the head's and not asked."""

    encoder: str = Field(
        "", description="How the head's tile encoder is loaded, where its name does not say or its weights have moved."
    )


@dataclass(frozen=True, eq=False)
class EmbeddedSlides:
    """The slides that are to be predicted.

    Attributes:
        tiles: the set with those that are embedded.
        slides: all of them, or of the run's shard; files in the order of the input, those of a store sorted.
        failed: those that could not be embedded.
        everyone: the slides of all shards.
    """

    tiles: EmbeddingSet
    slides: tuple[str, ...]
    failed: Mapping[str, FailedSlide]
    everyone: tuple[str, ...]


def check_named(inputs: Sequence[Source], out: Path) -> None:
    """Make sure that every input is there and that a table of predictions can be written.

    Raises:
        ConfigError: an input is absent, `out` is a folder, or its folder cannot be written.
    """
    if out.is_dir():
        raise ConfigError(f"cannot write the predictions to {out}: it is a folder. Name a file, such as {out}.csv.")
    for one in inputs:
        if isinstance(one, EmbeddingSet) or address_of(one) is not None:
            continue
        if not os.path.lexists(one):
            raise ConfigError(f"cannot predict {one}: there is no such file or folder.")
    writable_folder(out.absolute().parent)


def embedded_slides(
    inputs: Sequence[Source],
    facts: AnyHeadFacts,
    head: Path,
    settings: PredictSettings,
    store: Path,
    tell: OnEvent,
    *,
    places: Path | None = None,
    zoom: Zoom | None = None,
) -> EmbeddedSlides:
    """Find the head's set in a store, or embed slide files as it expects.

    Args:
        inputs: one store, or a set of it, open or by its folder; or slide files, folders of them, or manifests.
        facts: what the head takes.
        head: its folder, for messages.
        settings: how slide files are embedded.
        store: where.
        tell: told how far that is.
        places: where the regions of slide files lie; on a lattice where None.
        zoom: which of their finest tiles are read; all where None.

    Raises:
        ConfigError: a store is not alone or would have to be read in part, no slide is found, the encoder cannot be
            loaded, or the head takes coarse tiles that are made of fine ones where these are not all read.
        MismatchError: the embeddings are others than the head's.
        StoreError: the store cannot be read.
    """
    paths = [Path(one) for one in inputs if not isinstance(one, EmbeddingSet)]
    stores: list[Source] = [one for one in inputs if isinstance(one, EmbeddingSet)]
    stores += [path for path in paths if is_store(path)]
    if stores and len(inputs) > 1:
        raise ConfigError(f"{stores[0]} is a store, and something else is named beside it. Predict one at a time.")
    if stores and zoom is not None:
        raise ConfigError(f"{stores[0]} is a store and has been read; --zoom and --budget are of slide files.")
    if zoom is not None and facts.tiles.settings.get("coarse") != "native":
        raise ConfigError(
            f"the head {head} was fitted on coarse tiles that are averaged from fine ones, so slides cannot be read in "
            "part for it. Fit it on a store that was embedded with --coarse native."
        )
    if stores:
        tiles = find_tiles(stores[0], facts, head)
        failed = {} if isinstance(stores[0], EmbeddingSet) else _failures_of(tiles)
        everyone = tuple(sorted({*tiles.slides, *failed}))
        own = tuple(settings.own(everyone))
        return EmbeddedSlides(tiles, own, {slide: failed[slide] for slide in own if slide in failed}, everyone)
    how = settings.model_dump(exclude={"encoder"}) | ({} if places is None else {"places": places})
    embedding = embed_settings(facts.tiles, head, encoder=settings.encoder, **how)
    summary = embed_slides(paths, store, embedding, zoom=zoom, on_event=as_stage(tell, "embed", "slides"))
    (tiles,) = (one for one in open_sets(summary.set_path) if one.path == summary.set_path)
    refuse_other_tiles(tiles, facts.tiles, head)
    slides = tuple(one.slide for one in summary.outcomes)
    everyone = slides if settings.shard is None else tuple(one.slide for one in find_slides(paths, ids=settings.ids))
    return EmbeddedSlides(tiles, slides, {one.slide: one for one in summary.failed}, everyone)


def _failures_of(tiles: EmbeddingSet) -> dict[str, FailedSlide]:
    """Slides that are not in a set because they could not be embedded."""
    return {
        one.slide: FailedSlide(one.slide, Path(one.path), one.error, one.message)
        for one in read_failures(tiles.path.parent)
        if one.set == tiles.name and one.slide not in tiles.slides
    }


def represented_slides(
    tiles: EmbeddingSet,
    model: HeadModel,
    readouts: Sequence[str],
    head: Path,
    settings: PredictSettings,
    store: Path,
    tell: OnEvent,
) -> tuple[dict[str, EmbeddingSet], dict[str, FailedSlide]]:
    """The sets of the head's own region encoder by readout, and the slides that are in none.

    Raises:
        MismatchError: the region encoder is not the one that the head was fitted with.
    """
    how = RepresentSettings.model_validate(
        {
            "readouts": readouts,
            "precision": model.facts.precision,
            "dtype": model.facts.dtype,
            "read_mpps": model.facts.read_mpps,
            "predict_mpp": model.facts.predict_mpp,
            **{name: getattr(settings, name) for name in ("device", *RunsSlides.model_fields)},
            "other_mpps": True,  # those of the head's own training, which had been accepted there
        }
    )
    # A place for each set of tiles: another store may hold another slide under the same id.
    place = store / f"regions-{digest8(str(tiles.path.resolve()))}"
    summary = represent_regions(tiles, model.folder, place, how, on_event=as_stage(tell, "represent", "slides"))
    for one in summary.sets:
        if one.settings["model_digest"] != model.facts.digest:
            raise MismatchError(
                f"the head {head} is damaged: its region encoder is {one.settings['model_digest']} and was "
                f"{model.facts.digest} when it was fitted. Copy or fit it again."
            )
    made = dict(zip(readouts, summary.sets, strict=True))
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
