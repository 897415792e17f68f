"""`timm:NAME`: any network of timm, with weights that are named: never random ones by accident."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import EncoderSpec
from parfocal.encoders.loading import read_normalisation
from parfocal.encoders.network import Backbone, NetworkEncoder
from parfocal.encoders.weights import download_weights, load_weights, read_tensors
from parfocal.errors import EncoderError


class TimmBackbone(Backbone):
    """A network of timm."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.width = int(network.num_features)
        # Networks without tokens have no such attribute; timm documents it for those that have.
        self.prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))

    def features(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile ..."]:
        """What timm calls `forward_features`."""
        return self.network.forward_features(images)  # type: ignore[no-any-return]

    def pooled(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile dim"]:
        """What the network gives without its classifier."""
        return self.network(images)  # type: ignore[no-any-return]


def build_timm(
    architecture: str, arguments: dict[str, Any], *, pretrained: bool = False, seed: int | None = None
) -> TimmBackbone:
    """Build a network of timm; the names of layers among the arguments become the layers.

    Args:
        architecture: its name in timm.
        arguments: of its constructor.
        pretrained: whether timm loads its weights.
        seed: of random weights. With neither, the weights are to be loaded and are not drawn where that can be left
            out: for a large transformer that is half of the time in which it is built.
    """
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
    named = {key: layers.get(value, value) if isinstance(value, str) else value for key, value in arguments.items()}
    if seed is None:
        maker = timm.model_entrypoint(architecture.partition(".")[0])
        if not pretrained and maker.__module__ == timm.models.vision_transformer.__name__:
            named["weight_init"] = "skip"
        return TimmBackbone(timm.create_model(architecture, pretrained=pretrained, **named))
    # timm draws from torch's global generator; what it was is put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TimmBackbone(timm.create_model(architecture, pretrained=pretrained, **named))


def load_timm_encoder(spec: EncoderSpec, *, device: str, dtype: str) -> TileEncoder:
    """The encoder of a `timm:` spec.

    Raises:
        EncoderError: timm has no such network, or it is not said which weights it gets.
    """
    name = spec.target
    given = [option for option in ("checkpoint", "pretrained", "random") if option in spec.options]
    if len(given) != 1:
        raise EncoderError(
            f"cannot load {spec.text}: say once which weights it gets (found: {', '.join(given) or 'nothing'}). "
            f"Write timm:{name},pretrained or timm:{name},checkpoint=PATH, or timm:{name},random=0 for random ones."
        )
    config = _configuration(spec)
    tile_px, arguments = _tile_side(spec, config)
    network = _with_weights(spec, arguments)
    return NetworkEncoder(
        network,
        spec,
        name=f"timm-{name}",
        dim=_check_tile(network, tile_px, spec),
        tile_px=tile_px,
        normalisation=read_normalisation(spec) or (tuple(config.mean), tuple(config.std)),
        device=device,
        dtype=dtype,
        description={"library": "timm", "architecture": name, "arguments": arguments},
    )


def _configuration(spec: EncoderSpec) -> Any:
    """What timm knows of the network: mean, deviation, side, hub."""
    name = spec.target
    try:
        if timm.is_model(name):
            return timm.get_pretrained_cfg(name)
        reason = f"timm {timm.__version__} has no network {name}"
    except RuntimeError as error:
        reason = f"timm {timm.__version__}: {error}"
    plain = name.split(".")[0]
    close = get_close_matches(plain, timm.list_models(), n=3, cutoff=0.6)
    raise EncoderError(f"cannot load {spec.text}: {reason.rstrip('.')}. Close: {', '.join(close) or 'none'}.")


def _tile_side(spec: EncoderSpec, config: Any) -> tuple[int, dict[str, Any]]:
    """Tile side, and the arguments that make the network take it."""
    arguments: dict[str, Any] = {"num_classes": 0}
    asked = spec.whole_number("tile_px")
    if config.fixed_input_size:
        tile_px = config.input_size[1] if asked is None else asked
        return tile_px, {**arguments, "img_size": tile_px}
    return 224 if asked is None else asked, arguments


def _with_weights(spec: EncoderSpec, arguments: dict[str, Any]) -> TimmBackbone:
    if "pretrained" in spec.options:
        return build_timm(spec.target, {**arguments, **_hub_file(spec)}, pretrained=True)
    seed = spec.whole_number("random")
    if seed is not None:
        return build_timm(spec.target, arguments, seed=seed)
    network = build_timm(spec.target, arguments)
    path = Path(spec.options["checkpoint"])
    load_weights(network.network, read_tensors(path, spec.text), source=str(path), encoder=spec.text)
    return network


def _hub_file(spec: EncoderSpec) -> dict[str, Any]:
    """The argument that hands timm its weights as a file; timm still adapts them to the network's arguments."""
    config = timm.get_pretrained_cfg(spec.target)
    if not config.hf_hub_id:
        raise EncoderError(
            f"cannot load {spec.text}: timm has no weights for it on the hub. Name some, checkpoint=PATH."
        )
    files = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    path = download_weights(config.hf_hub_id, files, encoder=f"timm:{spec.target}", gated=False)
    return {"pretrained_cfg_overlay": {"file": str(path)}}


def _check_tile(network: TimmBackbone, tile_px: int, spec: EncoderSpec) -> int:
    """Width of the row, found by one blank tile, so that a wrong side or a missing map is said at once."""
    if isinstance(network.network, timm.models.VisionTransformer):
        patch_px = network.network.patch_embed.patch_size[0]
        if tile_px % patch_px:
            raise EncoderError(
                f"cannot load {spec.text}: {tile_px} px are not a whole number of its {patch_px}-px patches, and it "
                f"would cut off the rest. Use tile_px={tile_px // patch_px * patch_px}."
            )
    blank = torch.zeros(1, 3, tile_px, tile_px)
    try:
        with torch.inference_mode():
            network.eval()
            features = network.features(blank)
            width = network.pooled(blank).shape[-1]
    except (RuntimeError, AssertionError, ValueError) as error:
        raise EncoderError(f"cannot load {spec.text}: it does not take tiles of {tile_px} px ({error}).") from error
    patches = features.shape[1] - network.prefix_tokens
    is_map = features.ndim == 4 or (features.ndim == 3 and round(patches**0.5) ** 2 == patches)
    if spec.grid2 and not is_map:
        raise EncoderError(f"cannot load {spec.text}: it has no square map of features for +grid2.")
    return int(width)
