"""From tile embeddings and a region encoder to region embeddings in a store, one slide after the other.

What a region encoder sees of the tiles is settled before, and one that was not trained on such a set is refused.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float32, Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from parfocal.bags.decoded import DECODED, DecodedReadout, TileDecoder, open_decoder
from parfocal.config import Devices, Settings
from parfocal.errors import ConfigError, MismatchError, ParfocalError, ParfocalWarning
from parfocal.files import writable_folder
from parfocal.former import call_as
from parfocal.geometry import format_mpp
from parfocal.region_encoder import Readout, RegionEncoder, RegionEncoderConfig, collate_regions
from parfocal.region_encoder.checkpoint import read_config, read_pretraining, resolve
from parfocal.region_encoder.standardise import nearest_levels
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.executor import Serial
from parfocal.run.executors import RunsSlides, lost_slide, slide_executor
from parfocal.run.failures import DISK_FULL, NOT_TRIED, FailedSlide, exit_status, not_tried, try_update_failures
from parfocal.run.jobs import attempt_slide
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut
from parfocal.run.records import RUN_FILE, RunRecords
from parfocal.run.shards import Sharding
from parfocal.slides import SlideSource
from parfocal.store import (
    EmbeddingSet,
    RowDtype,
    SlideOrigin,
    SlideRegions,
    SlideTokens,
    Source,
    create_set,
    only_mpps,
    open_set,
    settings_digest,
    write_regions,
    write_tokens,
)
from parfocal.store.layout import READING, read_settings, stored_bytes

RegionReadout = Literal[Readout, DecodedReadout]
"""What is read out of a model: of its encoder, or of its decoder."""


def seen_by(source: EmbeddingSet, model: str | Path, *, other_mpps: bool = False) -> EmbeddingSet:
    """The set with the magnifications that a model was told to see in its pretraining; all where it was told none.

    Args:
        source: a set of tiles.
        model: a checkpoint's folder or its id on the hub.
        other_mpps: accept magnifications that the model was not trained at; it interpolates.

    Raises:
        MismatchError: the model was trained on another tile encoder, other magnifications or other regions.
        StoreError: the checkpoint cannot be read, or `source` is no set of tiles.
    """
    folder = resolve(model)
    seen = _shown(source, folder)
    _check(seen, read_config(folder), str(model), other_mpps=other_mpps)
    return seen


def _shown(source: EmbeddingSet, folder: Path) -> EmbeddingSet:
    told = {format_mpp(float(mpp)) for mpp in read_pretraining(folder).get("settings", {}).get("mpps", ())}
    return only_mpps(source, [mpp for mpp in source.mpps if format_mpp(mpp) in told])


def _check(source: EmbeddingSet, config: RegionEncoderConfig, model: str, *, other_mpps: bool) -> None:
    """Refuse a model that was trained on something else than what the set holds."""
    names = tuple(format_mpp(mpp) for mpp in config.mpps)
    unknown = [format_mpp(mpp) for mpp in source.mpps if format_mpp(mpp) not in names]
    if unknown and not other_mpps:
        raise MismatchError(
            f"{model} was trained at {', '.join(names)} mpp and {source.name} has {', '.join(unknown)}. "
            "Pass --other-mpps (other_mpps=True) to interpolate."
        )
    for mpp in source.mpps:
        nearest = int(nearest_levels(torch.tensor(mpp), config))
        if source.dims[mpp] != config.dims[nearest]:
            raise MismatchError(
                f"{model} takes vectors of width {config.dims[nearest]} at {format_mpp(mpp)} mpp and {source.name} has "
                f"{source.dims[mpp]}: it was trained on another tile encoder."
            )
        if config.encoders and config.encoders[nearest] != source.encoder_digests[mpp]:
            raise MismatchError(
                f"{model} was trained on the tile encoder {config.encoders[nearest]} and {source.name} was embedded by "
                f"{source.encoder_digests[mpp]} (at {format_mpp(mpp)} mpp). Embed with that encoder or train a model."
            )
    source.refuse_several_sides()
    found = (source.region_um, source.tile_px)
    if found != (config.region_um, config.tile_px):
        raise MismatchError(
            f"{model} was trained on regions of {config.region_um:g} um with tiles of {config.tile_px} px; "
            f"{source.name} has {found[0]:g} um and {found[1]} px."
        )


def readout_label(one: EmbeddingSet) -> str | None:
    """What was read out of a region encoder, by the words that ask for it; None for the embeddings of tiles themselves.

    After the readout stands what is unusual of it: `decoded/at-1` predicts 1 mpp, which is not the model's finest, and
    `cls/from-2` was given 2 mpp of a set that has more.
    """
    if "model" not in one.settings:
        return None
    words = [str(one.settings["readout"])]
    if one.settings.get("predict_mpp") != one.settings.get("model_mpps", [None])[-1]:
        words.append(f"at-{format_mpp(one.settings['predict_mpp'])}")
    if "read_mpps" in one.settings:
        words.append(f"from-{'+'.join(map(format_mpp, one.settings['read_mpps']))}")
    return "/".join(words)


class RepresentChoices(Settings):
    """What is read out of a model, and from which tiles."""

    readouts: tuple[RegionReadout, ...] = Field(
        ("cls",),
        min_length=1,
        description="cls: a vector for each region; attention: cls and a weighted mean for each magnification; "
        "tokens: a contextual vector for each tile; decoded: the mean of the tile embeddings that the model predicts "
        "at every place of the region, read or not; decoded-middle: that of a tile in the region's middle; "
        "decoded-variance: the mean variance of what decoded predicts.",
    )
    read_mpps: tuple[float, ...] = Field(
        (), description="Magnifications that the model is given; all that the set has when empty. Others are not read."
    )
    predict_mpp: float | None = Field(
        None, gt=0, description="Magnification of the tiles that decoded predicts; the model's finest when None."
    )

    @field_validator("readouts")
    @classmethod
    def _once_each(cls, readouts: tuple[RegionReadout, ...]) -> tuple[RegionReadout, ...]:
        return tuple(dict.fromkeys(readouts))

    @property
    def decoded(self) -> tuple[DecodedReadout, ...]:
        """The readouts for which the decoder is asked."""
        return tuple(readout for readout in DECODED if readout in self.readouts)

    @model_validator(mode="after")
    def _asks_the_decoder(self) -> "RepresentChoices":
        if self.predict_mpp is not None and not self.decoded:
            raise ValueError(
                f"predict_mpp={self.predict_mpp:g} is for what the decoder predicts. Add decoded to readouts, or leave "
                "it out."
            )
        return self


class RepresentSettings(RepresentChoices, RunsSlides, Sharding):
    """How region embeddings are made and stored."""

    batch: int = Field(256, ge=1, description="Regions that are encoded at a time.")
    device: Devices = Field(
        ("cpu",), description="Where the region encoder runs: cpu, cuda, mps, or several such as cuda:0 cuda:1."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the encoder.")
    dtype: RowDtype = Field("float16", description="Type of the stored rows.")
    other_mpps: bool = Field(
        False, description="Accept magnifications that the model was not trained at, and interpolate."
    )


@dataclass(frozen=True, eq=False)
class RepresentSummary:
    """What came of a run.

    Attributes:
        sets: the sets that were written, one for each readout, in the order of the settings.
        done: slides that are in all of them now, those of earlier runs included.
        failed: the others.
    """

    sets: tuple[EmbeddingSet, ...]
    done: tuple[str, ...]
    failed: tuple[FailedSlide, ...]

    @property
    def exit_status(self) -> int:
        """0 when all slides are done, 1 when none is, 3 when some are."""
        return exit_status(len(self.failed), len(self.failed) + len(self.done))


def represent_regions(
    source: Source,
    model: str | Path,
    out: Path,
    settings: RepresentSettings | None = None,
    *,
    on_event: OnEvent | None = None,
) -> RepresentSummary:
    """Write region embeddings of every slide of a set; what is done is kept, what fails is recorded, the rest goes on.

    Memory holds one slide. A slide's files are renamed into place when they are whole, so a run that was killed is
    continued by the same call. A model that was pretrained to see some of the set's magnifications only is shown only
    these, and of `settings.read_mpps` only those: files of others are never opened.

    Args:
        source: a set of tile embeddings, or the store or the folder that holds it.
        model: a checkpoint's folder or its id on the hub.
        out: the store to write to.
        settings: how.
        on_event: told how many `slides` are done.

    Raises:
        StoreError: the checkpoint cannot be read, or `source` is no set of tiles.
        MismatchError: the model was trained on another tile encoder, other magnifications or other regions; or `out`
            holds a set of that name with other settings.
        ConfigError: this machine does not have the device, or the model has no decoder to ask.
    """
    settings = settings or RepresentSettings()
    executor = slide_executor(settings, settings.device)
    executor.check()
    tiles = open_set(source)
    reader = _open_reader(model, settings)
    source = seen_by(only_mpps(tiles, settings.read_mpps), model, other_mpps=settings.other_mpps)
    if reader.decoder is not None and reader.decoder.mpp in source.mpps:
        name = format_mpp(reader.decoder.mpp)
        warnings.warn(
            f"tiles at {name} mpp are predicted where they were read too, which the model was not trained for. Name "
            f"coarser ones: --read-mpps {' '.join(format_mpp(m) for m in source.mpps if m > reader.decoder.mpp)} "
            "(read_mpps=...).".replace("  ", " "),
            ParfocalWarning,
            stacklevel=2,
        )
    writable_folder(out)
    # Said only where it is not what the model reads of the set anyway.
    read = {} if source.mpps == _shown(open_set(tiles.path), resolve(model)).mpps else {"read_mpps": [*source.mpps]}
    is_random = read_pretraining(resolve(model)).get("steps") == 0
    described = {**read, **({"weights": "random"} if is_random else {})}
    paths = {
        readout: _create(source, reader, model, out, readout, settings, described) for readout in settings.readouts
    }
    there = {readout: _represented(open_set(path), source) for readout, path in paths.items()}
    done: list[str] = []
    failed: list[FailedSlide] = []
    unwritten: list[str] = []
    tell = on_event or warn_of
    sources = [SlideSource(slide, source.path) for slide in settings.own(source.slides)]
    missing = {
        one.slide: tuple(readout for readout in settings.readouts if one.slide not in there[readout]) for one in sources
    }
    todo = [one for one in sources if missing[one.slide]]
    job = _Job(source, model, settings, paths, missing)
    prepare = (lambda device: partial(job.do, reader)) if isinstance(executor, Serial) else job.prepare
    with _records(out, tuple(paths.values()), settings) as records:

        def ended(one: SlideSource, outcome: tuple[float, int] | FailedSlide | None) -> None:
            if isinstance(outcome, FailedSlide):
                failed.append(outcome)
                records.failed(outcome)
                for readout in missing[one.slide] if outcome.error != NOT_TRIED else ():
                    unwritten.extend(try_update_failures(out, paths[readout].name, [outcome], []))
            else:
                done.append(one.slide)
                records.ended(
                    one,
                    "kept" if outcome is None else "done",
                    seconds=outcome and outcome[0],
                    tiles=outcome and outcome[1],
                    n_bytes=sum(stored_bytes(path, one.slide) for path in paths.values()),
                )
            tell(Progress("slides", len(done) + len(failed), len(sources), one.slide))

        tell(Progress("slides", 0, len(sources)))
        records.given(todo)
        for one in sources:
            if not missing[one.slide]:
                ended(one, None)
        left = {one.slide: one for one in todo}
        try:
            with closing(executor.run(todo, prepare)) as results:
                for one, outcome in results:
                    del left[one.slide]
                    if isinstance(outcome, Death | TimedOut):
                        outcome = lost_slide(one, outcome, "represented")
                    ended(one, outcome)
                    if failed and failed[-1].error == DISK_FULL:
                        break
        except CannotStartError as error:
            raise ConfigError(
                f"the model {model} cannot be opened in a process of its own: {error}. Use --workers 0."
            ) from error
        for one in left.values():
            ended(one, not_tried(one))
    place = {slide: number for number, slide in enumerate(source.slides)}
    done.sort(key=place.__getitem__)
    failed.sort(key=lambda one: place[one.slide])
    for path in paths.values():
        unwritten += try_update_failures(out, path.name, [], done)
    for text in dict.fromkeys([*unwritten, *filter(None, [records.problem])]):
        tell(Notice(text, is_warning=True))
    return RepresentSummary(tuple(open_set(path) for path in paths.values()), tuple(done), tuple(failed))


def _records(out: Path, sets: Sequence[Path], settings: RepresentSettings) -> RunRecords:
    return RunRecords(
        out / RUN_FILE,
        command="represent",
        sets=[path.name for path in sets],
        settings=settings_digest({path.name: read_settings(path)["settings"] for path in sets}),
        shard=settings.shard,
    )


@dataclass(frozen=True, eq=False)
class _Job:
    """What is done with each slide; it can be pickled.

    Attributes:
        source: the set of tiles.
        model: the checkpoint, which every process opens for itself.
        settings: how.
        paths: the set of each readout.
        missing: the readouts of each slide that are not there.
    """

    source: EmbeddingSet
    model: str | Path
    settings: RepresentSettings
    paths: Mapping[RegionReadout, Path]
    missing: Mapping[str, tuple[RegionReadout, ...]]

    def prepare(self, device: str) -> Callable[[SlideSource, Tell], tuple[float, int] | FailedSlide]:
        """Open the model in a process."""
        return partial(self.do, _open_reader(self.model, self.settings.model_copy(update={"device": (device,)})))

    def do(self, reader: "_Reader", task: SlideSource, tell: Tell) -> tuple[float, int] | FailedSlide:
        """Represent a slide: the seconds that it took and its tiles, or what went wrong with it."""
        started = time.monotonic()
        sets = {readout: self.paths[readout] for readout in self.missing[task.slide]}
        work = partial(_represent_slide, self.source, task.slide, reader, sets, self.settings)
        outcome = attempt_slide(task, work, writes_to=next(iter(self.paths.values())).parent)
        return outcome if isinstance(outcome, FailedSlide) else (time.monotonic() - started, outcome)


@dataclass(frozen=True, eq=False)
class _Reader:
    """A model as `represent` uses it: the encoder, and what asks the decoder where a readout needs it."""

    encoder: RegionEncoder
    decoder: TileDecoder | None

    def width(self, readout: RegionReadout) -> int:
        """Length of a row of a readout."""
        if readout in DECODED:
            assert self.decoder is not None  # it was opened for these
            return self.decoder.dim
        return self.encoder.config.width * (1 + len(self.encoder.config.mpps) if readout == "attention" else 1)


def _open_reader(model: str | Path, settings: RepresentSettings) -> _Reader:
    if not settings.decoded:
        device = find_device(settings.device[0])
        return _Reader(RegionEncoder.from_pretrained(model, device=device, dtype=settings.precision), None)
    decoder = open_decoder(
        model,
        settings.decoded,
        mpp=settings.predict_mpp,
        other_mpps=settings.other_mpps,
        device=settings.device[0],
        precision=settings.precision,
    )
    return _Reader(decoder.model.encoder, decoder)


def _create(
    source: EmbeddingSet,
    reader: _Reader,
    model: str | Path,
    out: Path,
    readout: RegionReadout,
    settings: RepresentSettings,
    more: Mapping[str, Any],
) -> Path:
    name = str(model).rstrip("/").rsplit("/", 1)[-1]
    described = {
        "model": name,
        "model_digest": reader.encoder.digest,
        "source": source.name,
        "source_digest": settings_digest(source.settings),
        "precision": settings.precision,
        **more,
    }
    # One digest for all readouts of a model, so that they stand together.
    digest, called = settings_digest(described), str(readout)
    width = reader.width(readout)
    described["readout"] = readout
    if readout in DECODED and reader.decoder is not None:
        described |= reader.decoder.describe()
        called += "" if reader.decoder.is_finest else f"-{format_mpp(reader.decoder.mpp)}"
    return create_set(
        out,
        f"{name}-{digest}-{called}",
        "tiles" if readout == "tokens" else "regions",
        region_um=source.region_um,
        dims=dict.fromkeys(source.mpps, width) if readout == "tokens" else width,
        settings=described,
        encoder_digests=source.encoder_digests,
        tile_px=source.tile_px if readout == "tokens" else None,
        dtype=settings.dtype,
    )


def _represent_slide(
    source: EmbeddingSet,
    slide: str,
    reader: _Reader,
    paths: Mapping[RegionReadout, Path],
    settings: RepresentSettings,
) -> int:
    """Write what is read out of a slide; how many tiles it has."""
    tokens = source.read(slide)
    # A region without any tile has no vector; it is not there, rather than a row that says nothing.
    kept = np.unique(np.concatenate([tokens.region[mpp] for mpp in tokens.mpps]))
    rows = _encode(tokens, kept, reader, tuple(paths), settings)
    origin = _origin(source, slide)
    for readout, path in paths.items():
        if readout == "tokens":
            features = {mpp: rows[readout, mpp] for mpp in tokens.mpps}
            write_tokens(path, replace(tokens, features=features), origin=origin)
        else:
            xy_um = tokens.region_xy_um[kept]
            regions = SlideRegions(slide, tokens.region_um, tokens.slide_mpp, xy_um, rows[readout, None])
            write_regions(path, regions, origin=origin)
    return sum(len(own) for own in tokens.features.values())


def _encode(
    tokens: SlideTokens,
    regions: Int[np.ndarray, " region"],
    reader: _Reader,
    readouts: Sequence[RegionReadout],
    settings: RepresentSettings,
) -> dict[tuple[RegionReadout, float | None], Float32[np.ndarray, "row _width"]]:
    """The rows of every readout: of regions under None, of tiles under their magnification."""
    encoder, decoder = reader.encoder, reader.decoder
    found = {
        (readout, part): [np.zeros((0, reader.width(readout)), np.float32)]
        for readout in readouts
        for part in (tokens.mpps if readout == "tokens" else (None,))
    }
    decoded = [readout for readout in DECODED if readout in readouts]
    for begin in range(0, len(regions), settings.batch):
        batch = collate_regions([(tokens, regions[begin : begin + settings.batch])])
        encoded = encoder.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)
        of_decoder: Mapping[DecodedReadout, Tensor] = {}
        if decoder is not None and decoded:
            of_decoder = decoder.read_out(encoded, batch.present, decoded, region_um=tokens.region_um)
        for readout, mpp in found:
            if readout in of_decoder:
                rows = of_decoder[cast(DecodedReadout, readout)]
            elif mpp is None:
                rows = encoder.readout(encoded, batch.mpp, batch.present, cast(Readout, readout))
            else:
                # Tokens stand in the order of the store: coarse to fine, and row by row inside a region.
                rows = encoded.tokens[batch.present & (batch.mpp == np.float32(mpp).item())]
            found[readout, mpp].append(rows.numpy())
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _represented(made: EmbeddingSet, source: EmbeddingSet) -> set[str]:
    """The slides that are done, but those of which more tiles have been read since."""
    done = set()
    for slide in {*made.slides} & {*source.slides}:
        try:
            if made.reading(slide) == source.reading(slide):
                done.add(slide)
        except ParfocalError:  # told where the slide is read
            done.add(slide)
    return done


def _origin(source: EmbeddingSet, slide: str) -> SlideOrigin:
    known = source.attributes(slide)
    size = (int(known.get("level0_width", 0)), int(known.get("level0_height", 0)))
    return SlideOrigin(
        path=known.get("slide_path"),
        fingerprint=known.get("slide_fingerprint"),
        size_l0px=size,
        mpp_source=known.get("slide_mpp_source"),
        reading={name: known[name] for name in READING if name in known},
    )


call_as(__name__, "represent")
