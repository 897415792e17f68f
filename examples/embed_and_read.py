"""Embed a folder of slides at three magnifications and read the embeddings of one region.

    python examples/embed_and_read.py out [SLIDES]

A rerun embeds only what is missing; a slide that fails is a row of `failures.csv` and the rest goes on.
"""

import sys
from pathlib import Path

from parfocal import EmbedSettings, GridConfig, embed_slides, open_set
from parfocal.lab.synthetic import RenderSettings, design_cohort, render_slide


def main(out: Path, slides: Path | None = None) -> None:
    """Embed with the filter bank, which needs no weights; put any other spec in its place."""
    if slides is None:
        slides = out / "slides"
        slides.mkdir(parents=True, exist_ok=True)
        settings = RenderSettings(n_slides=4)
        first = design_cohort(settings)[0]
        render_slide(first, settings, slides / f"{first.slide}.tif")

    summary = embed_slides(
        [slides], out / "store", EmbedSettings(encoder="filterbank", grid=GridConfig(mpps=(2.0, 1.0, 0.5)))
    )
    for failed in summary.failed:
        print(f"{failed.slide}: {failed.message}")

    tiles = open_set(summary.set_path)
    slide = tiles.slides[0]
    tokens = tiles.read(slide)
    print(f"{slide}: {tokens.n_regions} regions")
    for mpp, rows in tokens.features.items():
        of_first = rows[tokens.region[mpp] == 0]
        print(
            f"  {mpp:g} um per pixel: {len(rows)} tiles of {rows.shape[1]} numbers, {len(of_first)} in the first region"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
