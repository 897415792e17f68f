"""The encoders as a Markdown table, for the documentation: `python -m parfocal.encoders.loading` prints it.

From a spec to the encoder that it names, and the table of what there is.
"""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

from parfocal.encoders.base import EncoderInfo, TileEncoder
from parfocal.encoders.filterbank import FilterBank
from parfocal.encoders.presets import PRESETS, find_preset
from parfocal.encoders.spec import GRID_SUFFIX, OPTIONS, parse_spec
from parfocal.errors import ConfigError, EncoderError
from parfocal.geometry import format_mpp
from parfocal.run.device import find_device

__all__ = ["available_encoders", "encoders_table", "load_tile_encoder"]

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_tile_encoder(
    spec: str, *, device: str = "cpu", dtype: str = "auto", weights: Path | None = None
) -> TileEncoder:
    """Load the encoder that a spec names.

    Args:
        spec: see `parfocal.encoders.spec`.
        device: where networks run: `cpu`, `cuda`, `cuda:1`, `mps`. The filter bank and functions run on the CPU.
        dtype: of a network's products: `auto` (bfloat16 where the processor has it, float16 where only that is fast),
            `float32`, `bfloat16` or `float16`. Rows are float32 in any case.
        weights: a local file of weights; the same as `,checkpoint=PATH` in the spec.

    Raises:
        EncoderError: the spec cannot be read, or the encoder cannot be loaded; the text says what to do.
    """
    parsed = parse_spec(spec)
    if dtype not in DTYPES:
        raise EncoderError(f"cannot load {spec}: dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise EncoderError(f"cannot load {spec}: device {device!r} is none of cpu, cuda, cuda:1, mps.")
    if device != "cpu" and parsed.kind in ("filterbank", "python"):
        # Nothing of these runs there, and who asks for a GPU that is absent must hear it all the same.
        try:
            find_device(device)
        except ConfigError as error:
            raise EncoderError(f"cannot load {spec}: {error}") from error
    if weights is not None:
        if "checkpoint" in parsed.options:
            raise EncoderError(f"cannot load {spec}: weights are named twice, in the spec and as {weights}. Drop one.")
        if "checkpoint" not in OPTIONS[parsed.kind]:
            raise EncoderError(f"cannot load {spec}: it takes no file of weights, and {weights} was given.")
        parsed = replace(parsed, options={**parsed.options, "checkpoint": str(weights)})
    if parsed.grid2 and parsed.kind not in ("preset", "timm"):
        raise EncoderError(f"cannot load {spec}: {GRID_SUFFIX} needs a feature map, and {parsed.target} has none.")
    if parsed.kind == "filterbank":
        tile_px = parsed.whole_number("tile_px")
        try:
            return FilterBank(224 if tile_px is None else tile_px, spec=parsed.text)
        except ValueError as error:
            raise EncoderError(f"cannot load {spec}: {error}.") from error
    # Only here, so that the filter bank works without importing torch.
    if parsed.kind == "file":
        from parfocal.encoders.file_encoder import load_file_encoder

        return load_file_encoder(parsed, device=device, dtype=dtype)
    if parsed.kind == "python":
        from parfocal.encoders.function_encoder import load_function_encoder

        return load_function_encoder(parsed)
    if parsed.kind == "timm":
        from parfocal.encoders.timm_encoder import load_timm_encoder

        return load_timm_encoder(parsed, device=device, dtype=dtype)
    find_preset(parsed.target)  # a wrong name is said at once, before torch is imported
    from parfocal.encoders.preset_encoder import load_preset_encoder

    return load_preset_encoder(parsed, device=device, dtype=dtype)


def available_encoders() -> list[EncoderInfo]:
    """Every named encoder, with what it needs and whether that is installed; nothing is loaded or downloaded."""
    bank = FilterBank()
    infos = [
        EncoderInfo(bank.name, bank.dim, bank.tile_px, None, True, "nothing", "Apache-2.0", "part of parfocal"),
    ]
    for preset in PRESETS.values():
        missing = [name for name in preset.packages if importlib.util.find_spec(name) is None]
        infos.append(
            EncoderInfo(
                preset.name,
                preset.dim,
                preset.tile_px,
                preset.trained_mpps,
                not missing,
                preset.needs,
                preset.licence,
                preset.source,
                preset.aliases,
            )
        )
    return infos


def encoders_table() -> str:
    """One row for each named encoder: the same on every machine, installed or not."""
    rows = [
        "| name | other spellings | width | tile | readout | trained at (mpp) | licence | needs | arguments from |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| `filterbank` | | {FilterBank().dim} | 224 | | any | Apache-2.0 | nothing | parfocal |",
    ]
    for preset in PRESETS.values():
        cells = (
            f"`{preset.name}`",
            ", ".join(f"`{alias}`" for alias in preset.aliases),
            str(preset.dim),
            str(preset.tile_px),
            preset.readout,
            ", ".join(map(format_mpp, preset.trained_mpps)) if preset.trained_mpps else "photographs",
            preset.licence,
            preset.needs,
            f"<{preset.source}>",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(encoders_table())
