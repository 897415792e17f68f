"""The settings of `embed`, and which of them change a row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from parfocal.config import Devices, GridConfig, Settings
from parfocal.encoders import TileEncoder, available_encoders, load_tile_encoder, parse_encoder_specs
from parfocal.errors import ConfigError
from parfocal.files import digest8
from parfocal.geometry import format_mpp
from parfocal.regions.tiles import Coarse
from parfocal.run.executors import RunsSlides
from parfocal.run.shards import Sharding
from parfocal.slides import SlideIds, SlideSource
from parfocal.store import RowDtype


class SlideOpening(Settings):
    """How slides are found and opened."""

    slide_mpp: float | None = Field(
        None, description="Micrometres per pixel of every given slide, in place of what its file says."
    )
    mpp_from_objective: bool = Field(
        False, description="Take 10 um / power where a slide has an objective power and no resolution."
    )
    ids: SlideIds = Field(
        "path", description="Whether a slide in a folder is called by its path below it or by its file's name alone."
    )
    scan: int | None = Field(
        None, ge=0, description="Which scan of a file that holds several, from 0 in the order of the file; the first."
    )


class SlideReading(SlideOpening):
    """How slides are read while they are embedded."""

    trust_times: bool = Field(
        False,
        description="Take a finished slide's file of the same size for unchanged though its time differs, without "
        "reading it: for archives that were copied without their times.",
    )
    max_absent: float = Field(
        0.05, ge=0, le=1, description="Share of a slide's planned tiles that its file may lack; with more, it fails."
    )


class SlideSettings(SlideReading, RunsSlides):
    """How slides are read while they are embedded, and where; nothing of it says how they are cut or by what."""

    device: Devices = Field(
        ("cpu",), description="Where networks run: cpu, cuda, mps, or several such as cuda:0 cuda:1, a process each."
    )
    batch: int = Field(64, gt=0, description="How many tiles the encoder gets at once.")


class EncoderPrecision(Settings):
    """In which precision a tile encoder runs, which changes its digest."""

    encoder_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of a network's products."
    )


class RowChoices(EncoderPrecision):
    """How tiles become rows, beside the grid and the encoder."""

    coarse: Literal["auto", "derived", "native"] = Field(
        "auto",
        description="Whether coarse tiles are averaged from the finest ones (derived) or read from the slide's levels "
        "(native). Auto: derived, and native with --zoom.",
    )
    dtype: RowDtype = Field("float16", description="Type of the stored rows.")

    @property
    def coarse_from(self) -> Coarse:
        """Where coarse tiles come from."""
        return "derived" if self.coarse == "auto" else self.coarse


class EmbedSettings(RowChoices, SlideSettings, Sharding):
    """How slides become tile embeddings."""

    grid: GridConfig = Field(GridConfig(), description="How a slide is cut into regions and tiles.")
    encoder: str = Field(
        "", description="The tile encoder, such as filterbank or virchow2; or one per magnification: 0.5=SPEC,2=SPEC."
    )
    places: Path | None = Field(
        None,
        description="Lay a region on every place of this file, all magnifications centred on it, not on a lattice: a "
        "table with slide, x_um, y_um (or x_px, y_px), an .h5ad with obsm['spatial'], or GeoJSON areas.",
    )
    add_to: Path | None = Field(
        None,
        description="Encode only the magnifications that this store does not have, on the lattice of its tiles, in "
        "regions of one of the coarsest: a store that `parfocal index` or `embed` made. Its rows stay where they are.",
    )
    verify: int = Field(
        32,
        ge=0,
        description="With --add-to: how many stored tiles of each slide and magnification are encoded again; where the "
        "rows differ the slide fails. 0 takes them as another encoder's.",
    )
    expect: float | None = Field(
        None,
        gt=0,
        description="Tiles per second that the run should reach, such as --dry-run tells. A run that falls below 70 % "
        "of it says so once, and what it waits for; of the rate of its own first minute where None.",
    )
    qc: bool = Field(
        True, description="Write a picture of each slide with its tissue and regions into the folder qc of the store."
    )

    @model_validator(mode="after")
    def _one_way_to_lay_regions(self) -> "EmbedSettings":
        if self.places is not None and self.grid.overlaps:
            raise ValueError("places say where regions lie, so stride_um would do nothing. Leave one of them out.")
        if self.add_to is not None and (self.places is not None or self.grid.overlaps):
            what = "places" if self.places is not None else "stride_um"
            raise ValueError(f"tiles that are there say where regions lie, so {what} would do nothing. Leave it out.")
        if self.add_to is None and self.verify != type(self).model_fields["verify"].default:
            raise ValueError(
                "verify is of tiles that are there. Name them with --add-to (add_to=...), or leave it out."
            )
        return self


def load_encoders(settings: EmbedSettings) -> dict[float, TileEncoder]:
    """The encoder of each magnification; one that several magnifications share is loaded once.

    Raises:
        ConfigError: no encoder is named, or it takes tiles of another side than the grid cuts.
        EncoderError: an encoder cannot be loaded.
    """
    if not settings.encoder:
        names = ", ".join(info.name for info in available_encoders() if info.installed)
        raise ConfigError(
            f"no tile encoder is named, and there is no silent default. Use --encoder with one of: {names}."
        )
    specs = parse_encoder_specs(settings.encoder, settings.grid.mpps)
    loaded = {
        spec: load_tile_encoder(spec, device=settings.device[0], dtype=settings.encoder_dtype)
        for spec in dict.fromkeys(specs.values())
    }
    for spec, encoder in loaded.items():
        if encoder.tile_px != settings.grid.tile_px:
            raise ConfigError(
                f"{spec} takes tiles of {encoder.tile_px} px and the grid cuts {settings.grid.tile_px} px. "
                f"Use --tile-px {encoder.tile_px} with a region side that fits it."
            )
    return {mpp: loaded[spec] for mpp, spec in specs.items()}


def row_settings(settings: EmbedSettings, encoders: Mapping[float, TileEncoder]) -> dict[str, Any]:
    """What changes a row or which rows there are, as plain values; the digest of it stands in the set's name.

    Batch, workers and device are not part of it: they change the last bits at most. `slide_mpp` is not either: it is
    a fact about a slide, and each slide's index has the value that was used. So is `scan`.
    `max_absent` only says which slides fail, `qc` only whether pictures are drawn.
    """
    # Not which places: a table gains slides, and the index of each slide says which of its places were used.
    return {
        **({"regions": "places"} if settings.places else {}),
        "encoder": "+".join(dict.fromkeys(encoder.name for encoder in encoders.values())),
        "encoders": {format_mpp(mpp): encoder.describe() for mpp, encoder in encoders.items()},
        "grid": settings.grid.describe(),
        "coarse": settings.coarse_from,
        "dtype": settings.dtype,
    }


def set_name(rows: Mapping[str, Any]) -> str:
    """The name of the set's folder: the encoders and the digest of everything that changes a row."""
    return f"{rows['encoder']}-{digest8(dict(rows))}"


def asked_mpp(source: SlideSource, settings: EmbedSettings) -> float | None:
    """The resolution that is asked for a slide: its own from the manifest, else the one given for all."""
    return settings.slide_mpp if source.slide_mpp is None else source.slide_mpp


def asked_scan(source: SlideSource, settings: EmbedSettings) -> int | None:
    """The scan that is asked for a slide: its own from the manifest, else the one given for all."""
    return settings.scan if source.scan is None else source.scan
