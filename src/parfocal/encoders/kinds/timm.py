"""`timm:NAME`: any network of timm."""

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import EncoderKind, EncoderSpec


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    from parfocal.encoders.timm_encoder import load_timm_encoder

    return load_timm_encoder(spec, device=device, dtype=dtype)


TIMM = EncoderKind(
    "timm",
    _load,
    options={"checkpoint": True, "pretrained": False, "random": True, "tile_px": True, "norm": True},
    target="name",
    has_map=True,
    runs_on_devices=True,
)
