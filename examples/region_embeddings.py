"""Pretrain a region encoder on tile embeddings by masked embedding modelling, and keep what it says of each region.

    python examples/region_embeddings.py out

No label is used. Region embeddings are written in TRIDENT's layout again, so any MIL tool can train on them.
"""

import sys
from pathlib import Path

from cohort import draw
from parfocal import PretrainSettings, open_set, represent_regions
from parfocal.bags import RepresentSettings
from parfocal.pretrain import pretrain_encoder


def main(out: Path) -> None:
    """A tiny model and a few steps: enough to see every step, not to learn much."""
    tiles = open_set(draw(out / "tiles", n_slides=4))
    result = pretrain_encoder(tiles, out / "model", PretrainSettings(size="T", steps=6, batch=16, monitor_every=3))
    print(f"model: {result.model}")

    summary = represent_regions(tiles, out / "model", out / "regions", RepresentSettings(readouts=("cls", "tokens")))
    for made in summary.sets:
        print(f"{made.name}: {made.kind} of {len(made.slides)} slides")

    cls = next(made for made in summary.sets if made.kind == "regions")
    n_regions, width = cls.read_regions(cls.slides[0]).features.shape
    print(f"{cls.slides[0]}: {n_regions} regions, a vector of {width} numbers for each")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
