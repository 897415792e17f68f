"""What the pipe of `embed` costs beside reading tiles alone, and what of it is hidden behind a real encoder.

    python benchmarks/pipe.py SLIDE [--slide-mpp 0.5] [--repeats 5] [--encoder efficientnet-lite0] [--encoder-repeats 1]

First with an encoder that returns at once, so that everything else is left: the tissue is found, tiles are read, put
into batches, their rows checked and written, the slide's digest and its picture taken. Beside it `iter_tiles` alone,
with and without opening the slide and finding its tissue. Then with a real encoder: the seconds of `embed`, and those
of the same encoder on the same tiles when they lie in memory. The ways take turns in this one process; the best of each
counts, by the clock and by CPU time, which also counts what other threads did.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.embed.reading import batches
from parfocal.embed.settings import load_encoders
from parfocal.regions import plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.run.processes import count_cores
from parfocal.slides import open_slide

AT_ONCE = """
import numpy as np

def encode(tiles):
    return np.zeros((len(tiles), 8), np.float32)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--encoder-repeats", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "at_once.py"
        module.write_text(AT_ONCE)
        settings = EmbedSettings(encoder=f"python:{module}:encode,tile_px=224", slide_mpp=asked.slide_mpp)
        the_pipe(asked, settings)
    if asked.encoder_repeats:
        behind_an_encoder(asked, settings.model_copy(update={"encoder": asked.encoder}))


def the_pipe(asked: argparse.Namespace, settings: EmbedSettings) -> None:
    """Both rates, side by side."""
    best: dict[str, tuple[float, float]] = {}
    n_tiles = 0
    for _ in range(asked.repeats):
        with (
            Clock(best, "iter_tiles, opening and tissue included"),
            open_slide(asked.slide, slide_mpp=asked.slide_mpp) as slide,
        ):
            plan = plan_regions(slide, settings.grid)
            with Clock(best, "iter_tiles alone"):
                n_tiles = sum(len(tiles) for region in iter_tiles(slide, plan) for tiles in region.tiles.values())
        with Clock(best, "embed, encoder at once"):
            done = embedded(asked.slide, settings)
        while_read = done["encode_seconds"] + done["wait_seconds"]
        best["of it from the first tile to the last"] = (
            min(best.get("of it from the first tile to the last", (np.inf, 0))[0], while_read),
            np.nan,
        )
    print(f"{asked.slide.name}: {n_tiles} tiles, best of {asked.repeats}, {count_cores()} cores")
    for name, (seconds, cpu) in best.items():
        by_cpu = "" if np.isnan(cpu) else f" {n_tiles / cpu:7.0f} per CPU second"
        print(f"{name:42} {n_tiles / seconds:7.0f} tiles/s{by_cpu}")
    whole, alone, embed, within = best.values()
    print(
        f"embed to iter_tiles, opening and tissue in both: {whole[0] / embed[0]:.2f}, by CPU {whole[1] / embed[1]:.2f}"
    )
    print(f"embed to iter_tiles, from the first tile to the last: {alone[0] / within[0]:.2f}", flush=True)


def behind_an_encoder(asked: argparse.Namespace, settings: EmbedSettings) -> None:
    """The wall clock of `embed` beside the seconds that the encoder needs for the same tiles."""
    encoders = load_encoders(settings)
    sizes = dict.fromkeys(settings.grid.mpps, settings.batch)
    with open_slide(asked.slide, slide_mpp=asked.slide_mpp) as slide:
        tiles = list(batches(iter_tiles(slide, plan_regions(slide, GridConfig())), sizes))
    for mpp, first in tiles[:1]:
        encoders[mpp].encode(first)  # the first call loads kernels and does not count
    best: dict[str, tuple[float, float]] = {}
    for _ in range(asked.encoder_repeats):
        with Clock(best, f"{asked.encoder} alone, tiles in memory"):
            for mpp, batch in tiles:
                encoders[mpp].encode(batch)
        with Clock(best, f"embed with {asked.encoder}"):
            done = embedded(asked.slide, settings)
        encode, wait = done["encode_seconds"], done["wait_seconds"]
        print(
            f"embed: {done['seconds']:.1f} s, of which encoding {encode:.1f}, waiting for tiles {wait:.2f}, opening, "
            f"tissue and writing {done['seconds'] - encode - wait:.2f}"
        )
    for name, (seconds, cpu) in best.items():
        print(f"{name:42} {seconds:7.1f} s {cpu:7.1f} CPU s")
    alone, embed = best.values()
    print(f"the encoder alone to embed, by the clock: {alone[0] / embed[0]:.2f}")


def embedded(path: Path, settings: EmbedSettings) -> dict[str, float]:
    """The seconds of a slide that is embedded into a store that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        (done,) = embed_slides([path], Path(folder) / "store", settings).done
    return {name: getattr(done, name) for name in ("seconds", "encode_seconds", "wait_seconds")}


class Clock:
    """Keeps the least seconds and CPU seconds of what is done under a name."""

    def __init__(self, best: dict[str, tuple[float, float]], name: str) -> None:
        self._best, self._name = best, name
        best.setdefault(name, (np.inf, np.inf))

    def __enter__(self) -> None:
        self._began, self._worked = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        seconds, cpu = time.monotonic() - self._began, time.process_time() - self._worked
        before = self._best[self._name]
        self._best[self._name] = min(before[0], seconds), min(before[1], cpu)


if __name__ == "__main__":
    main()
