"""A preset becomes an encoder: its network is built, its weights found, its readout set."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import EncoderSpec
from parfocal.encoders.loading import first_line
from parfocal.encoders.network import Backbone, NetworkEncoder
from parfocal.encoders.preset import Preset
from parfocal.encoders.timm_encoder import build_timm
from parfocal.encoders.weights import (
    UNREACHABLE,
    download_weights,
    efficientnet_lite0_tensors,
    hub_error,
    hub_is_reachable,
    load_weights,
    read_tensors,
)
from parfocal.errors import EncoderError


class TransformersBackbone(Backbone):
    """A vision transformer of the transformers library."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.config.hidden_size)
        self.prefix_tokens = 1 + int(getattr(network.config, "num_register_tokens", 0))

    def features(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile ..."]:
        """The tokens of the last layer."""
        return self.network(pixel_values=images).last_hidden_state  # type: ignore[no-any-return]

    def pooled(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile dim"]:
        """The library's pooler output."""
        return self.network(pixel_values=images).pooler_output  # type: ignore[no-any-return]


class ConchBackbone(Backbone):
    """The tile encoder inside TITAN; it gives a vector and no map."""

    width = 768
    prefix_tokens = 0

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile ..."]:
        """The vector again: its attentional pooling leaves no map."""
        return self.pooled(images)

    def pooled(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile dim"]:
        """The vector."""
        return self.network(images)  # type: ignore[no-any-return]


def load_preset_encoder(preset: Preset, spec: EncoderSpec, *, device: str, dtype: str) -> TileEncoder:
    """The encoder of a preset.

    Raises:
        EncoderError: a package is missing, or the weights cannot be had; the text says what to do.
    """
    missing = [name for name in preset.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EncoderError(
            f"cannot load {preset.name}: it needs the package {', '.join(missing)}, which is not installed. "
            f"Run: {preset.install}."
        )
    if preset.remote_code and "trust_remote_code" not in spec.options:
        raise EncoderError(
            f"cannot load {preset.name}: its weights come with Python code from {preset.page} that would run here. "
            f"Read it, and if you trust it write {preset.name},trust_remote_code."
        )
    if not preset.remote_code and "trust_remote_code" in spec.options:
        raise EncoderError(f"cannot load {spec.text}: {preset.name} runs no code of others; drop trust_remote_code.")
    if spec.grid2 and preset.loader == "titan":
        raise EncoderError(f"cannot load {spec.text}: {preset.name} gives a vector and no map of features for +grid2.")
    return NetworkEncoder(
        build_preset(preset, spec),
        spec,
        name=preset.name,
        dim=preset.dim,
        tile_px=preset.tile_px,
        normalisation=preset.normalisation,
        device=device,
        dtype=dtype,
        readout=preset.readout,
        trained_mpps=preset.trained_mpps,
        turn_invariant=preset.turn_invariant,
        description={
            "preset": preset.name,
            "architecture": preset.architecture or preset.hub,
            "arguments": preset.arguments,
        },
    )


def build_preset(preset: Preset, spec: EncoderSpec) -> Backbone:
    """The preset's network with its weights: from a local file, at random where asked, from its package or the hub.

    Raises:
        EncoderError: the weights cannot be had or do not fit.
    """
    if preset.loader in ("transformers", "titan"):
        return _build_transformers(preset, spec)
    seed = spec.whole_number("random")
    if seed is not None:
        if "checkpoint" in spec.options:
            raise EncoderError(f"cannot load {spec.text}: weights are either random or from a checkpoint. Drop one.")
        return build_timm(preset.architecture, preset.arguments, seed=seed)
    if "checkpoint" in spec.options:
        path = Path(spec.options["checkpoint"])
        tensors = read_tensors(path, preset.name)
    elif preset.loader == "package":
        backbone = build_timm(preset.architecture, preset.arguments)
        load_weights(backbone.network, efficientnet_lite0_tensors(), source=preset.packages[0], encoder=preset.name)
        return backbone
    else:
        path = download_weights(preset.hub, preset.files, encoder=preset.name, gated=preset.gated)
        tensors = read_tensors(path, preset.name)
    backbone = build_timm(preset.architecture, preset.arguments)
    load_weights(backbone.network, tensors, source=str(path), encoder=preset.name)
    return backbone


def _build_transformers(preset: Preset, spec: EncoderSpec) -> Backbone:
    if "random" in spec.options:
        raise EncoderError(f"cannot load {spec.text}: only networks of timm can be had with random weights.")
    source, local = preset.hub, not hub_is_reachable()
    if "checkpoint" in spec.options:
        folder = Path(spec.options["checkpoint"])
        folder = folder.parent if folder.is_file() else folder
        if not (folder / "config.json").is_file():
            raise EncoderError(
                f"cannot load {preset.name}: {folder} holds no config.json. "
                f"Copy the whole repository {preset.page} and name its folder, {preset.name},checkpoint=FOLDER."
            )
        source, local = str(folder), True
    transformers: Any = importlib.import_module("transformers")
    try:
        network = transformers.AutoModel.from_pretrained(
            source, trust_remote_code=preset.remote_code, local_files_only=local, **preset.arguments
        )
    except (OSError, ValueError, ImportError) as error:
        reason = UNREACHABLE if local and source == preset.hub else first_line(error)
        raise hub_error(preset.hub, encoder=preset.name, gated=preset.gated, reason=reason) from error
    if preset.loader == "titan":
        return ConchBackbone(network.return_conch()[0])
    return TransformersBackbone(network)
