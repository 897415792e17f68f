"""Use a function of your own as the tile encoder.

    python examples/own_encoder.py out

On the command line the same is `--encoder python:examples/own_encoder.py:colours`.
"""

import sys
from pathlib import Path

import numpy as np

from parfocal import EmbedSettings, GridConfig, embed_slides, open_set
from parfocal.lab.synthetic import RenderSettings, design_cohort, render_slide


def colours(tiles: np.ndarray) -> np.ndarray:
    """Mean and spread of each colour: uint8 (tile, y, x, 3) in, one float32 row for each tile out."""
    pixels = tiles.astype(np.float32)
    return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)


def main(out: Path) -> None:
    """Embed one slide with `colours` at two magnifications."""
    slide = out / "slides" / "one.tif"
    slide.parent.mkdir(parents=True, exist_ok=True)
    settings = RenderSettings(n_slides=4)
    render_slide(design_cohort(settings)[0], settings, slide)

    spec = f"python:{Path(__file__).resolve()}:colours"
    summary = embed_slides([slide], out / "store", EmbedSettings(encoder=spec, grid=GridConfig(mpps=(2.0, 1.0))))
    tokens = open_set(summary.set_path).read("one")
    print({f"{mpp:g} um per pixel": rows.shape for mpp, rows in tokens.features.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
