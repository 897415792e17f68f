"""What a preset says about a public encoder."""

import importlib.util
from dataclasses import dataclass, field
from typing import Any, Literal

from parfocal.encoders.base import EncoderInfo
from parfocal.encoders.spec import NORMALISATIONS

HUB = "https://huggingface.co/"

Readout = Literal["pooled", "cls", "cls+mean"]


@dataclass(frozen=True)
class Preset:
    """One public encoder. The names of layers in `arguments` are looked up in timm and torch when it is built."""

    name: str
    dim: int
    hub: str
    """Repository on the Hugging Face hub; empty where the weights come from a package."""
    licence: str
    gated: bool
    source: str
    """Where the arguments are written."""
    architecture: str = ""
    """timm's name; empty where another library builds the model."""
    arguments: dict[str, Any] = field(default_factory=dict)
    readout: Readout = "pooled"
    tile_px: int = 224
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = NORMALISATIONS["imagenet"]
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
