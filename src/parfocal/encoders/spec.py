"""From the text that names an encoder to the encoder: the grammar of specs, and the table of what there is.

filterbank                          the encoder that needs nothing
virchow2[,checkpoint=PATH]          a preset, from its hub or from a local file
timm:NAME,pretrained                any network of timm: hub weights, `checkpoint=PATH`, or `random=SEED`
file:PATH                           an exported program, TorchScript, ONNX or OpenVINO file
python:MODULE:FUNCTION              a function from uint8 tiles to rows
...+grid2                           2 x 2 spatial pooling, four times the width, where there is a feature map
0.5=SPEC,2=SPEC                     one spec for each magnification (`parse_encoder_specs`)
"""

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.encoders.base import EncoderInfo, TileEncoder
from parfocal.encoders.filterbank import FilterBank
from parfocal.encoders.presets import PRESETS, find_preset
from parfocal.encoders.spec_errors import WHAT_THERE_IS
from parfocal.errors import EncoderError
from parfocal.geometry import format_mpp

__all__ = ["EncoderSpec", "available_encoders", "load_tile_encoder", "parse_encoder_specs", "parse_spec"]

DTYPES = ("auto", "float32", "bfloat16", "float16")
GRID_SUFFIX = "+grid2"
# Which options each kind of spec takes, and whether the option has a value.
OPTIONS = {
    "filterbank": {"tile_px": True},
    "preset": {"checkpoint": True, "random": True, "trust_remote_code": False},
    "timm": {"checkpoint": True, "pretrained": False, "random": True, "tile_px": True, "norm": True},
    "file": {"tile_px": True, "norm": True, "input": True, "batch": True, "runtime": True},
    "python": {"tile_px": True},
}


@dataclass(frozen=True)
class EncoderSpec:
    """A spec, taken apart."""

    text: str
    kind: str
    """`filterbank`, `preset`, `timm`, `file` or `python`."""
    target: str
    """Name, path or `module:function`."""
    options: dict[str, str] = field(default_factory=dict)
    grid2: bool = False

    def whole_number(self, option: str) -> int | None:
        """The option as a whole number, None where it is not given.

        Raises:
            EncoderError: the value is no whole number.
        """
        text = self.options.get(option)
        if text is None:
            return None
        if not text.isdecimal():
            raise EncoderError(f"cannot read the encoder spec {self.text!r}: {option}={text} is not a whole number.")
        return int(text)


def parse_spec(text: str) -> EncoderSpec:
    """Take a spec apart; nothing is loaded.

    Raises:
        EncoderError: the text is empty, an option is unknown, or a value is missing.
    """
    text = text.strip()
    body = text.removesuffix(GRID_SUFFIX)
    prefix, colon, rest = body.partition(":")
    kind = prefix if colon and prefix in ("timm", "file", "python") else "preset"
    if colon and kind == "preset":
        raise EncoderError(f"cannot read the encoder spec {text!r}: {prefix!r} is not timm, file or python.")
    pieces = (rest if colon else body).split(",")
    if kind == "preset" and pieces[0].removesuffix(GRID_SUFFIX).lower() == "filterbank":
        kind = "filterbank"
    known = OPTIONS[kind]
    options: dict[str, str] = {}
    # From the end, so that a comma inside a path stays part of the path.
    while len(pieces) > 1:
        name, equals, value = pieces[-1].partition("=")
        if name not in known or bool(equals) != known[name] or (equals and not value):
            break
        options[name] = value
        pieces.pop()
    target = ",".join(pieces)
    if kind != "file" and len(pieces) > 1:
        takes = ", ".join(f"{name}=..." if valued else name for name, valued in known.items())
        raise EncoderError(
            f"cannot read the encoder spec {text!r}: {pieces[-1]!r} is no option of it. It takes {takes}."
        )
    # `virchow2+grid2,checkpoint=...` says the same as `virchow2,checkpoint=...+grid2`.
    grid2 = body != text or (kind in ("preset", "timm") and target.endswith(GRID_SUFFIX))
    if kind != "file":
        target = target.removesuffix(GRID_SUFFIX).strip()
    if not target:
        raise EncoderError(f"cannot read the encoder spec {text!r}: it names nothing. {WHAT_THERE_IS}")
    return EncoderSpec(text, kind, target, options, grid2)


def load_tile_encoder(
    spec: str, *, device: str = "cpu", dtype: str = "auto", weights: Path | None = None
) -> TileEncoder:
    """Load the encoder that a spec names.

    Args:
        spec: see the head of this module.
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
    if weights is not None:
        if "checkpoint" in parsed.options:
            raise EncoderError(f"cannot load {spec}: weights are named twice, in the spec and as {weights}. Drop one.")
        if "checkpoint" not in OPTIONS[parsed.kind]:
            raise EncoderError(f"cannot load {spec}: it takes no file of weights, and {weights} was given.")
        parsed = EncoderSpec(
            parsed.text, parsed.kind, parsed.target, {**parsed.options, "checkpoint": str(weights)}, parsed.grid2
        )
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


def parse_encoder_specs(text: str, mpps: Sequence[float]) -> dict[float, str]:
    """The spec of each magnification: `SPEC` for all, or `0.5=SPEC,2=SPEC` with every magnification named once.

    Raises:
        EncoderError: a magnification is missing, named twice, or not one of `mpps`.
    """
    parts: list[tuple[float, list[str]]] = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)=(.*)", piece)
        if found:
            parts.append((float(found[1]), [found[2]]))
        elif parts:
            parts[-1][1].append(piece)
        else:
            return dict.fromkeys(mpps, parse_spec(text).text)
    specs: dict[float, str] = {}
    for named, pieces in parts:
        matching = [mpp for mpp in mpps if math.isclose(mpp, named, rel_tol=1e-6)]
        asked = ", ".join(map(format_mpp, mpps))
        if not matching:
            raise EncoderError(f"cannot use {text!r}: {format_mpp(named)} is not one of the magnifications {asked}.")
        if matching[0] in specs:
            raise EncoderError(f"cannot use {text!r}: it names an encoder for {format_mpp(named)} twice.")
        specs[matching[0]] = parse_spec(",".join(pieces)).text
    missing = [format_mpp(mpp) for mpp in mpps if mpp not in specs]
    if missing:
        raise EncoderError(f"cannot use {text!r}: it names no encoder for {', '.join(missing)}. Name one for each.")
    return {mpp: specs[mpp] for mpp in mpps}


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
