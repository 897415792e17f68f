"""A public encoder by its name: one of `presets.toml`."""

from parfocal.encoders.base import TileEncoder
from parfocal.encoders.kind import EncoderKind, EncoderSpec
from parfocal.encoders.preset import PRESETS, find_preset


def _load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    preset = find_preset(spec.target)  # a wrong name is said at once, before torch is imported
    from parfocal.encoders.preset_encoder import load_preset_encoder

    return load_preset_encoder(preset, spec, device=device, dtype=dtype)


PRESET = EncoderKind(
    "preset",
    _load,
    lambda: [preset.info() for preset in PRESETS.values()],
    options={"checkpoint": True, "random": True, "trust_remote_code": False},
    has_map=True,
    runs_on_devices=True,
)
