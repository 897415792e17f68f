"""What a preset says about a public encoder, and all presets by name, which stand in `presets.toml`.

Only facts stand there, so that listing the presets imports neither torch nor timm.
"""

import importlib.util
import tomllib
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field, field_validator

from parfocal.config import Settings
from parfocal.encoders.base import EncoderInfo
from parfocal.encoders.kind import ENCODERS
from parfocal.encoders.loading import NORMALISATIONS, Normalisation, unknown_encoder

HUB = "https://huggingface.co/"


class Preset(Settings):
    """One public encoder. The names of layers in `arguments` are looked up in timm and torch when it is built."""

    name: str
    dim: int
    hub: str = ""
    """Repository on the Hugging Face hub; empty where the weights come from a package."""
    licence: str
    gated: bool
    source: str
    """Where the arguments are written."""
    architecture: str = ""
    """timm's name; empty where another library builds the model."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    readout: Literal["pooled", "cls", "cls+mean"] = "pooled"
    tile_px: int = 224
    normalisation: Normalisation = NORMALISATIONS["imagenet"]
    trained_mpps: tuple[float, ...] | None = (0.5,)
    loader: Literal["timm", "transformers", "titan", "package"] = "timm"
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    """Names of the weights in the hub's repository, in the order they are tried."""
    packages: tuple[str, ...] = ()
    """Modules that must be importable beyond parfocal's own dependencies."""
    install: str = ""
    remote_code: bool = False
    """Loading runs Python code of the hub's repository; it must be allowed explicitly."""
    turn_invariant: bool = True
    """Taken not to change under turns and mirror images, as the field does for encoders trained with them."""
    tokens: int | None = None
    """Length of the token sequence, prefix included; None for a convolutional network."""
    parameters_m: float | None = None
    """Published number of parameters, in millions."""
    aliases: tuple[str, ...] = ()

    @field_validator("normalisation", mode="before")
    @classmethod
    def _named(cls, normalisation: Any) -> Any:
        return NORMALISATIONS[normalisation] if isinstance(normalisation, str) else normalisation

    @property
    def page(self) -> str:
        """The web page where the weights, or the package, are found."""
        return HUB + self.hub if self.hub else self.source

    @property
    def needs(self) -> str:
        """What has to be there before it loads, in words for a table."""
        parts = [self.install] if self.install else []
        if self.hub:
            parts.append(
                "access to the hub" + (" and its terms accepted" if self.gated else "") + ", or checkpoint=PATH"
            )
        return "; ".join(parts)

    def info(self) -> EncoderInfo:
        """Its line in the table of encoders."""
        return EncoderInfo(
            self.name,
            self.dim,
            self.tile_px,
            self.trained_mpps,
            all(importlib.util.find_spec(name) for name in self.packages),
            self.needs,
            self.licence,
            self.source,
            self.aliases,
            self.readout,
            trained_on="photographs",
        )


def _read_presets() -> dict[str, Preset]:
    table = tomllib.loads(files("parfocal.encoders").joinpath("presets.toml").read_text(encoding="utf-8"))
    for entry in table.values():
        other = {key: value for key, value in table.get(entry.pop("like", ""), {}).items() if key != "aliases"}
        arguments = {**other.get("arguments", {}), **entry.get("arguments", {})}
        entry.update({**other, **entry, "arguments": arguments})
    return {
        name: Preset.model_validate(
            {
                "name": name,
                "source": HUB + entry.get("hub", ""),
                **entry,
                "trained_mpps": entry.get("trained_mpps", (0.5,)) or None,
            }
        )
        for name, entry in table.items()
    }


PRESETS = _read_presets()
_NAMES = {alias: preset for preset in PRESETS.values() for alias in (preset.name, *preset.aliases)}


def find_preset(name: str) -> Preset:
    """The preset of a name or alias, whatever its case.

    Raises:
        EncoderError: there is none; close names are listed.
    """
    preset = _NAMES.get(name.lower())
    if preset is None:
        raise unknown_encoder(name, (*ENCODERS.names, *_NAMES))
    return preset
