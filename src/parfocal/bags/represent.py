"""From tile embeddings and a region encoder to region embeddings in a store, one slide after the other.

What a region encoder sees of the tiles is settled before, and one that was not trained on such a set is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int
from pydantic import Field, field_validator

from parfocal.config import Settings
from parfocal.errors import MismatchError
from parfocal.files import writable_folder
from parfocal.former import call_as
from parfocal.geometry import format_mpp
from parfocal.region_encoder import Readout, RegionEncoder, RegionEncoderConfig, collate_regions
from parfocal.region_encoder.checkpoint import read_config, read_pretraining, resolve
from parfocal.region_encoder.standardise import nearest_levels
from parfocal.run.device import find_device
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide, exit_status, update_failures
from parfocal.run.jobs import attempt_slide
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
    config = read_config(folder)
    told = {format_mpp(float(mpp)) for mpp in read_pretraining(folder).get("settings", {}).get("mpps", ())}
    seen = only_mpps(source, [mpp for mpp in source.mpps if format_mpp(mpp) in told])
    _check(seen, config, str(model), other_mpps=other_mpps)
    return seen


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
    found = (source.region_um, source.tile_px)
    if found != (config.region_um, config.tile_px):
        raise MismatchError(
            f"{model} was trained on regions of {config.region_um:g} um with tiles of {config.tile_px} px; "
            f"{source.name} has {found[0]:g} um and {found[1]} px."
        )


class RepresentSettings(Settings):
    """How region embeddings are made and stored."""

    readouts: tuple[Readout, ...] = Field(
        ("cls",),
        min_length=1,
        description="cls: a vector for each region; attention: cls and a weighted mean for each magnification; "
        "tokens: a contextual vector for each tile.",
    )
    batch: int = Field(256, ge=1, description="Regions that are encoded at a time.")
    device: str = Field("cpu", description="Where the region encoder runs: cpu, cuda, cuda:1, mps.")
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Precision of the encoder.")
    dtype: RowDtype = Field("float16", description="Type of the stored rows.")
    other_mpps: bool = Field(
        False, description="Accept magnifications that the model was not trained at, and interpolate."
    )

    @field_validator("readouts")
    @classmethod
    def _once_each(cls, readouts: tuple[Readout, ...]) -> tuple[Readout, ...]:
        return tuple(dict.fromkeys(readouts))


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
    these.

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
        ConfigError: this machine does not have the device.
    """
    settings = settings or RepresentSettings()
    tiles = open_set(source)
    encoder = RegionEncoder.from_pretrained(model, device=find_device(settings.device), dtype=settings.precision)
    source = seen_by(tiles, model, other_mpps=settings.other_mpps)
    writable_folder(out)
    is_random = read_pretraining(resolve(model)).get("steps") == 0
    paths = {
        readout: _create(source, encoder, model, out, readout, settings, is_random=is_random)
        for readout in settings.readouts
    }
    there = {readout: set(open_set(path).slides) for readout, path in paths.items()}
    done: list[str] = []
    failed: list[FailedSlide] = []
    tell = on_event or warn_of
    for number, slide in enumerate(source.slides):
        tell(Progress("slides", number, len(source.slides), slide))
        missing = [readout for readout in settings.readouts if slide not in there[readout]]
        sets = {readout: paths[readout] for readout in missing}
        work = partial(_represent_slide, source, slide, encoder, sets, settings)
        outcome = attempt_slide(SlideSource(slide, source.path), work) if missing else None
        if isinstance(outcome, FailedSlide):
            failed.append(outcome)
            for path in sets.values():
                update_failures(out, path.name, [outcome], [])
        else:
            done.append(slide)
    for path in paths.values():
        update_failures(out, path.name, [], done)
    tell(Progress("slides", len(source.slides), len(source.slides)))
    return RepresentSummary(tuple(open_set(path) for path in paths.values()), tuple(done), tuple(failed))


def _create(
    source: EmbeddingSet,
    encoder: RegionEncoder,
    model: str | Path,
    out: Path,
    readout: Readout,
    settings: RepresentSettings,
    *,
    is_random: bool,
) -> Path:
    name = str(model).rstrip("/").rsplit("/", 1)[-1]
    described = {
        "model": name,
        "model_digest": encoder.digest,
        "source": source.name,
        "source_digest": settings_digest(source.settings),
        "precision": settings.precision,
        "readout": readout,
        **({"weights": "random"} if is_random else {}),
    }
    width = _width(encoder, readout)
    # One digest for all readouts of a model, so that they stand together.
    digest = settings_digest({key: value for key, value in described.items() if key != "readout"})
    return create_set(
        out,
        f"{name}-{digest}-{readout}",
        "tiles" if readout == "tokens" else "regions",
        region_um=source.region_um,
        dims=dict.fromkeys(source.mpps, width) if readout == "tokens" else width,
        settings=described,
        encoder_digests=source.encoder_digests,
        tile_px=source.tile_px if readout == "tokens" else None,
        dtype=settings.dtype,
    )


def _width(encoder: RegionEncoder, readout: Readout) -> int:
    return encoder.config.width * (1 + len(encoder.config.mpps) if readout == "attention" else 1)


def _represent_slide(
    source: EmbeddingSet,
    slide: str,
    encoder: RegionEncoder,
    paths: Mapping[Readout, Path],
    settings: RepresentSettings,
) -> None:
    tokens = source.read(slide)
    # A region without any tile has no vector; it is not there, rather than a row that says nothing.
    kept = np.unique(np.concatenate([tokens.region[mpp] for mpp in tokens.mpps]))
    rows = _encode(tokens, kept, encoder, tuple(paths), settings)
    origin = _origin(source, slide)
    for readout, path in paths.items():
        if readout == "tokens":
            features = {mpp: rows[readout, mpp] for mpp in tokens.mpps}
            write_tokens(path, replace(tokens, features=features), origin=origin)
        else:
            xy_um = tokens.region_xy_um[kept]
            regions = SlideRegions(slide, tokens.region_um, tokens.slide_mpp, xy_um, rows[readout, None])
            write_regions(path, regions, origin=origin)


def _encode(
    tokens: SlideTokens,
    regions: Int[np.ndarray, " region"],
    encoder: RegionEncoder,
    readouts: Sequence[Readout],
    settings: RepresentSettings,
) -> dict[tuple[Readout, float | None], Float32[np.ndarray, "row _width"]]:
    """The rows of every readout: of regions under None, of tiles under their magnification."""
    found = {
        (readout, part): [np.zeros((0, _width(encoder, readout)), np.float32)]
        for readout in readouts
        for part in (tokens.mpps if readout == "tokens" else (None,))
    }
    for begin in range(0, len(regions), settings.batch):
        batch = collate_regions([(tokens, regions[begin : begin + settings.batch])])
        encoded = encoder.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present)
        for readout, mpp in found:
            if mpp is None:
                rows = encoder.readout(encoded, batch.mpp, batch.present, readout)
            else:
                # Tokens stand in the order of the store: coarse to fine, and row by row inside a region.
                rows = encoded.tokens[batch.present & (batch.mpp == np.float32(mpp).item())]
            found[readout, mpp].append(rows.numpy())
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _origin(source: EmbeddingSet, slide: str) -> SlideOrigin:
    known = source.attributes(slide)
    size = (int(known.get("level0_width", 0)), int(known.get("level0_height", 0)))
    return SlideOrigin(
        path=known.get("slide_path"),
        fingerprint=known.get("slide_fingerprint"),
        size_l0px=size,
        mpp_source=known.get("slide_mpp_source"),
    )


call_as(__name__, "represent")
