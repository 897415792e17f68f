"""From the text that names an encoder to the encoder: the grammar of specs, and the table of what there is.

filterbank                          the encoder that needs nothing
virchow2[,checkpoint=PATH]          a preset, from its hub or from a local file
timm:NAME,pretrained                any network of timm: hub weights, `checkpoint=PATH`, or `random=SEED`
file:PATH                           an exported program, TorchScript, ONNX or OpenVINO file
python:MODULE:FUNCTION              a function from uint8 tiles to rows
NAME[,OPTION...]                    an encoder that another package adds
...+grid2                           2 x 2 spatial pooling, four times the width, where there is a feature map
0.5=SPEC,2=SPEC                     one spec for each magnification (`parse_encoder_specs`)
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from parfocal.encoders.base import EncoderInfo, TileEncoder
from parfocal.encoders.kind import ENCODERS, EncoderSpec
from parfocal.errors import ConfigError, EncoderError, PluginError
from parfocal.geometry import format_mpp
from parfocal.run.device import find_device

WHAT_THERE_IS = (
    "Use filterbank (needs nothing), a preset such as virchow2, timm:NAME, file:PATH or python:MODULE:FUNCTION; "
    "docs/encoders.md lists the presets."
)


def unknown_encoder(name: str, names: Sequence[str]) -> EncoderError:
    """The error for a name that no encoder has, with the names that are close."""
    close = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"Close: {', '.join(close)}. " if close else ""
    return EncoderError(f"there is no tile encoder {name!r}. {hint}{WHAT_THERE_IS}")


def first_line(error: Exception) -> str:
    """The first line of an error of another library, short enough for one message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


GRID_SUFFIX = "+grid2"


def parse_spec(text: str) -> EncoderSpec:
    """Take a spec apart; nothing is loaded.

    Raises:
        EncoderError: the text is empty, an option is unknown, or a value is missing.
    """
    text = text.strip()
    body = text.removesuffix(GRID_SUFFIX)
    prefix, colon, rest = body.partition(":")
    pieces = (rest if colon else body).split(",")
    first = prefix if colon else pieces[0].removesuffix(GRID_SUFFIX).lower()
    kind = ENCODERS.get(first) if first in ENCODERS else None
    if colon and (kind is None or not kind.target):
        raise EncoderError(f"cannot read the encoder spec {text!r}: {prefix!r} is not timm, file or python.")
    if kind is None or (kind.target and not colon):
        kind = ENCODERS.get("preset")
    options: dict[str, str] = {}
    # From the end, so that a comma inside a path stays part of the path.
    while len(pieces) > 1:
        name, equals, value = pieces[-1].partition("=")
        if name not in kind.options or bool(equals) != kind.options[name] or (equals and not value):
            break
        options[name] = value
        pieces.pop()
    target = ",".join(pieces)
    if kind.target != "path" and len(pieces) > 1:
        takes = ", ".join(f"{name}=..." if valued else name for name, valued in kind.options.items())
        raise EncoderError(
            f"cannot read the encoder spec {text!r}: {pieces[-1]!r} is no option of it. It takes {takes or 'none'}."
        )
    # `virchow2+grid2,checkpoint=...` says the same as `virchow2,checkpoint=...+grid2`.
    grid2 = body != text or (kind.has_map and target.endswith(GRID_SUFFIX))
    if kind.target != "path":
        target = target.removesuffix(GRID_SUFFIX).strip()
    if not target:
        raise EncoderError(f"cannot read the encoder spec {text!r}: it names nothing. {WHAT_THERE_IS}")
    return EncoderSpec(text, kind.name, target, options, grid2)


def with_checkpoint(text: str, weights: Path) -> str:
    """The spec of the same encoder with weights from a file, in place of those that it names.

    Raises:
        EncoderError: it cannot be read, takes no file of weights, or could not name this one.
    """
    spec = parse_spec(text)
    kind = ENCODERS.get(spec.kind)
    if "checkpoint" not in kind.options:
        raise EncoderError(f"cannot give {text} other weights: it takes no file of them.")
    kept = [
        f"{name}={value}" if kind.options[name] else name
        for name, value in spec.options.items()
        if name not in ("checkpoint", "pretrained", "random")
    ]
    name = f"{kind.name}:{spec.target}" if kind.target else spec.target
    grid = GRID_SUFFIX if spec.grid2 else ""
    result = ",".join([f"{name}{grid}", *reversed(kept), f"checkpoint={weights}"])
    try:
        is_named = parse_spec(result).options.get("checkpoint") == str(weights)
    except EncoderError:
        is_named = False
    if not is_named:
        raise EncoderError(f"cannot name {weights} in the spec of an encoder. Use a path without commas.")
    return result


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


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and standard deviation of each channel, of pixels from 0 to 1.
NORMALISATIONS: dict[str, Normalisation] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}


def read_normalisation(spec: EncoderSpec) -> Normalisation | None:
    """The spec's `norm=`: a name, or six numbers `r/g/b/r/g/b` (means, then standard deviations); None if not given.

    Raises:
        EncoderError: it is neither.
    """
    text = spec.options.get("norm")
    if text is None:
        return None
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or any(not std > 0 for std in numbers[3:]):
        names = ", ".join(NORMALISATIONS)
        raise EncoderError(
            f"cannot load {spec.text}: norm={text} is not one of {names}, nor three means and three standard "
            f"deviations of pixels from 0 to 1, such as norm=0.7/0.5/0.7/0.2/0.2/0.2."
        )
    return tuple(numbers[:3]), tuple(numbers[3:])


DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_tile_encoder(
    spec: str, *, device: str = "cpu", dtype: str = "auto", weights: Path | None = None
) -> TileEncoder:
    """Load the encoder that a spec names.

    Args:
        spec: as the grammar at the top of this file has it.
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
    kind = ENCODERS.get(parsed.kind)
    if device != "cpu" and not kind.runs_on_devices:
        # Nothing of these runs there, and who asks for a GPU that is absent must hear it all the same.
        try:
            find_device(device)
        except ConfigError as error:
            raise EncoderError(f"cannot load {spec}: {error}") from error
    if weights is not None:
        if "checkpoint" in parsed.options:
            raise EncoderError(f"cannot load {spec}: weights are named twice, in the spec and as {weights}. Drop one.")
        if "checkpoint" not in kind.options:
            raise EncoderError(f"cannot load {spec}: it takes no file of weights, and {weights} was given.")
        parsed = replace(parsed, options={**parsed.options, "checkpoint": str(weights)})
    if parsed.grid2 and not kind.has_map:
        raise EncoderError(f"cannot load {spec}: {GRID_SUFFIX} needs a feature map, and {parsed.target} has none.")
    return kind.load(parsed, device, dtype)


def available_encoders() -> list[EncoderInfo]:
    """Every named encoder, with what it needs and whether that is installed; nothing is loaded or downloaded.

    One of another package that cannot be used says so in its line.
    """
    infos = [info for kind in ENCODERS.ours.values() for info in kind.infos()]
    for name in ENCODERS.added():
        try:
            infos += ENCODERS.get(name).infos()
        except PluginError as error:
            infos.append(EncoderInfo(name, None, None, None, False, str(error), "", ""))
    return infos


def encoders_table() -> str:
    """One row for each named encoder of ours: the same on every machine, installed or not."""
    rows = [
        "| name | other spellings | width | tile | readout | trained at (mpp) | licence | needs | arguments from |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for info in (info for kind in ENCODERS.ours.values() for info in kind.infos()):
        cells = (
            f"`{info.name}`",
            ", ".join(f"`{alias}`" for alias in info.aliases),
            str(info.dim),
            str(info.tile_px),
            info.readout,
            ", ".join(map(format_mpp, info.trained_mpps)) if info.trained_mpps else info.trained_on,
            info.licence,
            info.needs,
            f"<{info.source}>" if info.source.startswith("http") else info.source,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(encoders_table())
