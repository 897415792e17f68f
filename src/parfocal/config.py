"""Settings and the files that hold them; among them how a slide is cut into regions, which every later stage shares."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from parfocal.errors import ConfigError, ParfocalDeprecationWarning
from parfocal.files import file_digest8
from parfocal.geometry import format_mpp, whole_ratio

WAYS_TO_TISSUE = ("default", "otsu", "none")
"""The ways to find tissue that need no file."""


class Settings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The base of all settings: frozen, and an unknown name is an error."""

    def changed(self) -> dict[str, Any]:
        """What is not as it is by default."""
        default = type(self)()
        names = [name for name in type(self).model_fields if getattr(self, name) != getattr(default, name)]
        return {name: getattr(self, name) for name in names}


_MOST_VALUES = 100_000
"""In a file of settings; one that holds more, such as by aliases in aliases, was not written by a person."""


def read_yaml(path: Path, what: str) -> dict[Any, Any]:
    """The sections of a file of settings.

    Args:
        path: a YAML file.
        what: what it is to be, for messages, such as `study`.

    Raises:
        ConfigError: it cannot be read, says something twice, or holds no sections.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"cannot read the {what} {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no {what}: it must hold sections with their values.")
    return content


def parse_yaml(text: str) -> Any:
    """What a text of YAML 1.2 says: `yes` is a word, `3e-4` a number; digits behind a zero, and dates, are names.

    Raises:
        ValueError: it is no YAML, says a key twice, or holds too much.
    """
    from ruamel.yaml import YAML  # only who reads a file of settings waits for it
    from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        def construct_yaml_int(self, node: Any) -> Any:
            return node.value if re.fullmatch("0[0-9]+", node.value) else super().construct_yaml_int(node)

    Constructor.add_constructor("tag:yaml.org,2002:int", Constructor.construct_yaml_int)
    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    loader = YAML(typ="safe", pure=True)
    loader.Constructor = Constructor
    try:
        content = loader.load(text)
        n_values = _n_values(content, {})
    except DuplicateKeyError as error:
        key = re.search('duplicate key "(.*?)" with value', str(error))
        twice = repr(key[1]) if key else "a key"
        raise ValueError(f"{twice} stands here twice, the second time in line {error.problem_mark.line + 1}") from error
    except YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if n_values > _MOST_VALUES:
        raise ValueError(f"it holds more than {_MOST_VALUES:,} values, as by aliases in aliases")
    return content


def _n_values(content: Any, known: dict[int, int]) -> int:
    """How many values there are where each alias counts as all that it stands for; each is looked at once."""
    if not isinstance(content, (dict, list)):
        return 1
    if id(content) not in known:
        known[id(content)] = _MOST_VALUES + 1  # of what holds itself there is no end
        inside = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_n_values(value, known) for value in inside)
    return known[id(content)]


def first_problem(error: ValidationError) -> str:
    """The place in some settings that is wrong, and what is expected there, in one line."""
    # A misspelt key is missing under its right name too; what stands in the file is what the user can find.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    messages: Mapping[str, str] = {"extra_forbidden": "there is no such setting", "missing": "must be given"}
    message = messages.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {message}" if where else message


def renamed(values: Any, names: Mapping[str, str]) -> Any:
    """Settings under the names that they have now; an old one is told, and understood until it goes.

    Args:
        values: what settings are made of; anything but a mapping is left as it is.
        names: the new name of each old one.
    """
    if not isinstance(values, Mapping):
        return values
    for name in names.keys() & values.keys():
        both = f" Both are there, and {names[name]} counts." if names[name] in values else ""
        text = f"the setting {name} is called {names[name]} now; the old name goes with version 0.3.{both}"
        warnings.warn(text, ParfocalDeprecationWarning, stacklevel=2)
    return {names[name]: values[name] for name in names if name in values} | {
        name: value for name, value in values.items() if name not in names
    }


def _each_device(value: Any) -> Any:
    """A device alone is one of them, and a number says how many GPUs."""
    if isinstance(value, (str, int)):
        value = (str(value),)
    if isinstance(value, (list, tuple)) and len(value) == 1 and str(value[0]).isdigit():
        count = int(value[0])
        return ("auto",) if count == 1 else tuple(f"cuda:{number}" for number in range(count))
    return value


Devices = Annotated[tuple[str, ...], BeforeValidator(_each_device), Field(min_length=1)]
"""Where processes run, each on one: auto, cpu, mps, cuda:0 cuda:1."""


class GridConfig(Settings):
    """How a slide is cut into regions, and a region into tiles."""

    region_um: float = Field(448.0, gt=0, description="Side of a region, in micrometres.")
    mpps: tuple[float, ...] = Field(
        (2.0, 1.0, 0.5), min_length=1, description="Micrometres per pixel of each magnification (20x is 0.5)."
    )
    tile_px: int = Field(224, gt=0, description="Side of a tile, in pixels, as the tile encoder expects it.")
    stride_um: float | None = Field(
        None,
        gt=0,
        description="From one region to the next, in micrometres: with less than the side of a region they overlap, "
        "and a tile that several of them share is embedded once. The side when not given.",
    )
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
        if self.stride_um is not None and not self.tile_um(min(self.mpps)) <= self.stride_um <= self.region_um:
            raise ValueError(
                f"stride_um={self.stride_um:g} is not between the side of a finest tile and that of a region "
                f"({self.tile_um(min(self.mpps)):g} to {self.region_um:g} um). Tiles are shared at multiples of "
                f"{self.tile_um(min(self.mpps)):g} um."
            )
        return self

    @property
    def step_um(self) -> float:
        """From one region to the next, in micrometres."""
        return self.region_um if self.stride_um is None else self.stride_um

    @property
    def overlaps(self) -> bool:
        """Whether a region begins before the one beside it ends."""
        return whole_ratio(self.region_um, self.step_um) != 1

    @property
    def words(self) -> str:
        """What its regions are, for tables and pictures."""
        return f"regions of {self.region_um:g} um{f' every {self.step_um:g} um' if self.overlaps else ''}"

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

        The way to find tissue is left out where it is the usual one, and so is the stride where regions do not overlap;
        a mask file is named by what is in it.

        Raises:
            ConfigError: there is no such mask file or folder.
        """
        described = self.model_dump(mode="json")
        if not self.overlaps:
            del described["stride_um"]
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
