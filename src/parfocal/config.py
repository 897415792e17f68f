"""How a slide is cut into regions and tiles: the settings that every later stage shares."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, field_validator, model_validator

from parfocal.errors import ConfigError
from parfocal.files import file_digest8
from parfocal.geometry import format_mpp, whole_ratio

__all__ = ["WAYS_TO_TISSUE", "GridConfig", "Settings"]

WAYS_TO_TISSUE = ("default", "otsu", "none")
"""The ways to find tissue that need no file."""


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The base of all settings: frozen, and an unknown name is an error."""


class GridConfig(Settings):
    """How a slide is cut into regions, and a region into tiles."""

    region_um: float = Field(448.0, gt=0, description="Side of a region, in micrometres.")
    mpps: tuple[float, ...] = Field(
        (2.0, 1.0, 0.5), min_length=1, description="Micrometres per pixel of each magnification (20x is 0.5)."
    )
    tile_px: int = Field(224, gt=0, description="Side of a tile, in pixels, as the tile encoder expects it.")
    min_tissue: float = Field(
        0.1, ge=0, le=1, description="Smallest share of tissue for a region and for a tile to be kept; 0 keeps all."
    )
    min_inside: float = Field(
        0.5, ge=0, le=1, description="Smallest share of a tile that must lie on the slide; with less it is absent."
    )
    tissue: str = Field(
        "default",
        min_length=1,
        description="Where tissue is: default, otsu (Otsu on saturation), none (everywhere), a mask picture or GeoJSON "
        "file, or a folder of them named by slide id.",
    )

    @field_validator("mpps")
    @classmethod
    def _coarse_to_fine(cls, mpps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not mpp > 0 for mpp in mpps):
            raise ValueError(f"mpps={mpps} holds a value that is not above 0; 20x is 0.5.")
        if len(set(map(format_mpp, mpps))) != len(mpps):
            raise ValueError(f"mpps={mpps} names one magnification twice.")
        return tuple(sorted(mpps, reverse=True))

    @model_validator(mode="after")
    def _region_is_whole_tiles(self) -> "GridConfig":
        for mpp in self.mpps:
            side_um = self.tile_um(mpp)
            if whole_ratio(self.region_um, side_um) is None:
                raise ValueError(
                    f"region_um={self.region_um:g} is not a whole number of {self.tile_px}-px tiles at {mpp:g} mpp "
                    f"(it is {self.region_um / side_um:.2f}). "
                    f"Use a multiple of {side_um:g} um, or drop {mpp:g} from mpps."
                )
        return self

    def tile_um(self, mpp: float) -> float:
        """Side of a tile of this magnification, in micrometres."""
        return self.tile_px * mpp

    def tiles_per_side(self, mpp: float) -> int:
        """How many tiles of this magnification lie along one side of a region."""
        ratio = whole_ratio(self.region_um, self.tile_um(mpp))
        if ratio is None:
            raise ValueError(f"{mpp:g} mpp is not one of the magnifications of this grid: {self.mpps}")
        return ratio

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for attributes of files and for digests.

        The way to find tissue is left out where it is the usual one; a mask file is named by what is in it.

        Raises:
            ConfigError: there is no such mask file or folder.
        """
        described = self.model_dump(mode="json")
        tissue = described.pop("tissue")
        if tissue != "default":
            described["tissue"] = tissue if tissue in WAYS_TO_TISSUE else _mask_name(Path(tissue))
        return described


def _mask_name(path: Path) -> str:
    if path.is_dir():
        return "masks"  # it gains files as slides come; the index of each slide names the mask that was used
    try:
        return f"mask:{file_digest8(path)}"
    except OSError as error:
        raise ConfigError(
            f"there is no mask {path} ({error.strerror or error}). --tissue takes {', '.join(WAYS_TO_TISSUE)}, a mask "
            "picture (PNG), a GeoJSON file, or a folder of such files named by slide id."
        ) from error
