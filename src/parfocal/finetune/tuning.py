"""Which weights of a tile encoder are trained, and how the result is saved.

`lora:RANK`       of a vision transformer of timm: a product of two thin matrices beside every linear layer of its
                  attention and MLPs (Hu et al. 2021, arXiv 2106.09685)
`last-stages:N`   of an EfficientNet, a ResNet or a ConvNeXt of timm: its last N stages and what follows them
`none`            nothing, as a control

All else is frozen, and the network stays in evaluation mode: batch norms keep their statistics, nothing is dropped.
What comes before the first trained weight gives the same for a tile every time, so it is computed once (`prepare`).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.encoders.network import NetworkEncoder, pool_grid2
from parfocal.errors import ConfigError

_TUNED_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
_WAYS = "lora:RANK (vision transformers), last-stages:N (EfficientNet, ResNet, ConvNeXt) or none"


@dataclass(frozen=True)
class Tune:
    """What `--tune` says: a way, and its number."""

    way: str
    number: int = 0

    @staticmethod
    def of(text: str) -> "Tune":
        """Take the text apart.

        Raises:
            ValueError: it is none of the ways.
        """
        way, colon, number = text.partition(":")
        if text == "none":
            return Tune("none")
        if way not in ("lora", "last-stages") or not colon or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"tune={text} is not one of {_WAYS}, with a whole number from 1")
        return Tune(way, int(number))


class LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it, which is 0 at the start."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        """Draw the first matrix; the second is 0."""
        super().__init__()
        self.linear = linear
        weight = linear.weight
        down = torch.randn(rank, linear.in_features, generator=generator) * linear.in_features**-0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Float[Tensor, "*batch inner"]) -> Float[Tensor, "*batch outer"]:
        """What the layer gives, and the product."""
        plain: Tensor = self.linear(x)
        return plain + nn.functional.linear(nn.functional.linear(x, self.down), self.up)

    def merged(self) -> Float[Tensor, "outer inner"]:
        """The weight of one linear layer that gives the same."""
        return self.linear.weight + self.up @ self.down


@dataclass(frozen=True)
class _Family:
    """How a family of convolutional networks is put together: the names of its parts, in order."""

    stem: tuple[str, ...]
    stages: tuple[str, ...]
    end: tuple[str, ...] = ()


def _family(network: nn.Module) -> _Family | None:
    models = timm.models
    if isinstance(network, models.efficientnet.EfficientNet):
        return _Family(("conv_stem", "bn1"), ("blocks",), ("conv_head", "bn2"))
    if isinstance(network, models.resnet.ResNet):
        return _Family(("conv1", "bn1", "act1", "maxpool"), ("layer1", "layer2", "layer3", "layer4"))
    if isinstance(network, models.convnext.ConvNeXt):
        return _Family(("stem",), ("stages",), ("norm_pre",))
    return None


class TunedEncoder(nn.Module):
    """A tile encoder of which some weights are trained."""

    def __init__(self, encoder: NetworkEncoder, tune: Tune, *, seed: int = 0) -> None:
        """Freeze all weights but those that `tune` names; products are in float32 at first.

        Raises:
            ConfigError: the network is of another family, or has fewer stages.
        """
        super().__init__()
        self._encoder = encoder
        self.network: Any = getattr(encoder.backbone, "network", None)
        encoder.backbone.eval().requires_grad_(False)
        self.stem: nn.Sequential | None = None
        self.tail: nn.Sequential | None = None
        self._adapters: dict[str, LowRank] = {}
        self.tune = tune
        self.stem_autocast = self.autocast = False
        if tune.way == "lora":
            self._add_low_rank(tune.number, seed)
        elif tune.way == "last-stages":
            self._split(tune.number)

    def train(self, mode: bool = True) -> "TunedEncoder":
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [one for one in self.network.parameters() if one.requires_grad]

    @torch.no_grad()
    def prepare(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Tensor:
        """What the tiles are where the first trained weight meets them, on the CPU: pixels, a map, or their rows."""
        given = torch.from_numpy(np.require(tiles, requirements=["C", "W"]))
        if self.tune.way == "lora":
            return given
        images = self._encoder.images(given)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.stem_autocast):
            prepared: Tensor = self._encoder.read(images) if self.stem is None else self.stem(images)
        return prepared.cpu()

    def forward(self, prepared: Tensor) -> Float[Tensor, "tile dim"]:
        """The rows of prepared tiles, in float32 and on the device."""
        with self.products():
            return self._rows(prepared).float()

    def products(self) -> AbstractContextManager[Any]:
        """Products of what is trained, in bfloat16 where `autocast` says so; `stem_autocast` is about the rest."""
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.autocast)

    def _rows(self, prepared: Tensor) -> Float[Tensor, "tile dim"]:
        if self.tune.way == "lora":
            return self._encoder.read(self._encoder.images(prepared))
        prepared = prepared.to(self._device).float()
        if self.tail is None:
            return prepared
        features: Tensor = self.tail(prepared)
        if self._encoder.readout == "grid2":
            return pool_grid2(features, self._encoder.backbone)
        pooled: Tensor = self.network.forward_head(features, pre_logits=True)
        return pooled

    @property
    def _device(self) -> torch.device:
        return next(self._encoder.backbone.parameters()).device

    def tensors(self) -> dict[str, Tensor]:
        """The weights of the whole network under the names that it has untuned."""
        found: dict[str, Tensor] = dict(self.network.state_dict())
        for name, adapter in self._adapters.items():
            for own in ("down", "up"):
                del found[f"{name}.{own}"]
            for own in adapter.linear.state_dict():
                found[f"{name}.{own}"] = found.pop(f"{name}.linear.{own}")
            found[f"{name}.weight"] = adapter.merged()
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def trained_state(self) -> dict[str, Tensor]:
        """The trained weights alone, by name."""
        return {name: value.detach() for name, value in self.network.named_parameters() if value.requires_grad}

    def load_trained(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `trained_state` gave."""
        self.network.load_state_dict(dict(state), strict=False)

    def _refuse(self, what: str) -> ConfigError:
        kind = type(self._encoder.backbone if self.network is None else self.network).__name__
        return ConfigError(f"cannot tune {self._encoder.spec} ({kind}) by {what}: --tune knows {_WAYS}.")

    def _add_low_rank(self, rank: int, seed: int) -> None:
        if not isinstance(self.network, timm.models.VisionTransformer):
            raise self._refuse("lora")
        generator = torch.Generator().manual_seed(seed)
        chosen = [
            (name, module)
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(_TUNED_LAYERS)
        ]
        for name, linear in chosen:
            parent, _, own = name.rpartition(".")
            adapter = LowRank(linear, rank, generator)
            setattr(self.network.get_submodule(parent), own, adapter)
            self._adapters[name] = adapter

    def _split(self, n_stages: int) -> None:
        family = _family(self.network)
        if family is None:
            raise self._refuse("last-stages")
        named = [getattr(self.network, name) for name in family.stages]
        stages = list(named[0]) if len(named) == 1 else named
        if n_stages > len(stages):
            raise ConfigError(f"{self._encoder.spec} has {len(stages)} stages and not {n_stages}. Use a smaller N.")
        kept = len(stages) - n_stages
        stem = [getattr(self.network, name) for name in family.stem]
        end = [getattr(self.network, name) for name in family.end]
        self.stem, self.tail = nn.Sequential(*stem, *stages[:kept]), nn.Sequential(*stages[kept:], *end)
        self.tail.requires_grad_(True)
