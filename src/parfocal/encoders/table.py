"""The encoders as a Markdown table, for the documentation: `python -m parfocal.encoders.table` prints it."""

from parfocal.encoders.filterbank import FilterBank
from parfocal.encoders.presets import PRESETS
from parfocal.geometry import format_mpp

__all__ = ["encoders_table"]


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
