"""Networks of torch, which is imported when one is loaded: a public encoder by its name, and `timm:NAME`."""

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.encoders.preset import PRESETS, find_preset


def _load_preset(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    preset = find_preset(spec.target)  # a wrong name is said at once, before torch is imported
    from parfocal.encoders.preset_encoder import load_preset_encoder

    return load_preset_encoder(preset, spec, device=device, dtype=dtype)


def _load_timm(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    from parfocal.encoders.timm_encoder import load_timm_encoder

    return load_timm_encoder(spec, device=device, dtype=dtype)


PRESET = EncoderKind(
    "preset",
    _load_preset,
    lambda: [preset.info() for preset in PRESETS.values()],
    options={"checkpoint": True, "random": True, "trust_remote_code": False},
    has_map=True,
    runs_on_devices=True,
)
TIMM = EncoderKind(
    "timm",
    _load_timm,
    options={"checkpoint": True, "pretrained": False, "random": True, "tile_px": True, "norm": True},
    target="name",
    has_map=True,
    runs_on_devices=True,
)
