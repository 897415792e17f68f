"""What a budget of fine tiles saves on the clock: `embed --zoom` beside `embed --coarse native`, measured whole.

    python benchmarks/zoom_time.py [SLIDE ...] [--encoder efficientnet-lite0] [--budget 0.1] [--policies diversity]

Without slides some of the demo's are rendered. For 5x, 10x and 20x, and for 5x and 20x, every slide is embedded whole
and by each policy, in turns, into stores that are thrown away: coarse tiles and choosing are in the seconds. The last
number is the share of the saving in encodings that arrives as saved seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.lab.synthetic.rendered import RenderSettings, render_cohort
from parfocal.predict import zoom_by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--budget", type=float, default=0.1)
    parser.add_argument("--policies", nargs="+", default=["diversity", "random"], help="as after --zoom")
    parser.add_argument("--render", type=int, default=8, help="slides to render where none is named")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print("| magnifications (mpp) | policy | tiles | seconds | encodings saved | seconds saved | share that arrives |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        slides = arguments.slides
        if not slides:
            slides = render_cohort(Path(folder) / "cohort", RenderSettings(n_slides=arguments.render)).slides
        for mpps in ((2.0, 1.0, 0.5), (2.0, 0.5)):
            settings = EmbedSettings(
                grid=GridConfig(mpps=mpps),
                encoder=arguments.encoder,
                coarse="native",
                workers=arguments.workers,
                qc=False,
            )
            measure(arguments, slides, settings, Path(folder) / "-".join(map(str, mpps)))


def measure(arguments: argparse.Namespace, slides: list[Path], settings: EmbedSettings, folder: Path) -> None:
    """A row for the whole store and one for each policy; of several rounds the medians."""
    seconds: dict[str, list[float]] = {"": []} | {policy: [] for policy in arguments.policies}
    tiles: dict[str, int] = {}
    for number in range(arguments.repeats):
        for policy, taken in seconds.items():
            zoom = zoom_by(policy, arguments.budget) if policy else None
            started = time.monotonic()
            summary = embed_slides(slides, folder / f"{policy.replace('/', '-')}-{number}", settings, zoom=zoom)
            taken.append(time.monotonic() - started)
            assert not summary.failed, summary.failed
            tiles[policy] = sum(sum(one.n_tiles.values()) for one in summary.done)
    whole = float(np.median(seconds[""]))
    for policy, taken in seconds.items():
        own = float(np.median(taken))
        encodings, clock = 1 - tiles[policy] / tiles[""], 1 - own / whole
        saved = [f"{encodings:.3f}", f"{clock:.3f}", f"{clock / encodings:.2f}"] if policy else ["", "", ""]
        name = ", ".join(f"{mpp:g}" for mpp in settings.grid.mpps)
        row = [name, policy or "all tiles", str(tiles[policy]), f"{own:.1f}", *saved]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
