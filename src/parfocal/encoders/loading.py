"""The encoders as a Markdown table, for the documentation: `python -m parfocal.encoders.loading` prints it.

From a spec to the encoder that it names, and the table of what there is.
"""

import re
from dataclasses import replace
from pathlib import Path

from parfocal.encoders.base import EncoderInfo, TileEncoder
from parfocal.encoders.kind import ENCODERS
from parfocal.encoders.spec import GRID_SUFFIX, parse_spec
from parfocal.errors import ConfigError, EncoderError, PluginError
from parfocal.geometry import format_mpp
from parfocal.run.device import find_device

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
