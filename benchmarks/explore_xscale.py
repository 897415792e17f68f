"""The design space explored: on XScale-strat with labels, and on the embeddings of one real slide by held-out R2.

    python benchmarks/explore_xscale.py work explore-xscale --workers 2
    python benchmarks/explore_xscale.py work explore-pairing --design design-pairing.yaml
    python benchmarks/explore_xscale.py work explore-colon --slide colon-he-section.tif

The first runs studies/design-xscale.yaml: 14 cells and their controls with 3 seeds, size T, 200 steps of 24 regions;
the second its base cell and CMEM alone, whose runs the first then need not repeat. All continue what was stopped, and
copy page and tables (not the models) into the second folder.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import torch

from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.heads import ProbeSettings
from parfocal.lab.explore.run import ExploreSettings, explore_designs
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort
from parfocal.run.events import Event, Progress, warn_of

DESIGNS = Path(__file__).resolve().parents[1] / "studies"
# Smaller than the default cohort, for two cores: 32 features in place of 128, 32 regions a slide in place of 64. The
# product and its two factors are further apart (5 and 4 in place of 3), so that 200 small steps can learn it.
COHORT = StratSettings(
    n_slides=72, n_types=1, omega=4.0, model=FeatureModel(dim=32, separation_h=4.0, size_product=5.0)
)
PROBES = ProbeSettings(inner_folds=3, attention_validation=1)
KEPT = ("report.html", "results.csv", "cells.csv", "effects.csv", "results.json")


def tell(event: Event) -> None:
    if isinstance(event, Progress):
        done = f"{event.done} of {event.total} runs are done; {event.item}"
        print(f"{time.strftime('%H:%M:%S')} {done}", file=sys.stderr, flush=True)
    else:
        warn_of(event)


def on_xscale(work: Path, workers: int, design: str) -> Path:
    store = work / "xscale"
    if not (store / "labels.csv").is_file():
        write_cohort(draw_cohort(COHORT), store)
    settings = ExploreSettings(workers=workers, device=("cpu",), regions=384, probes=PROBES)
    out = work / "explored-xscale"
    explore_designs(
        DESIGNS / design,
        store,
        out,
        settings,
        labels=store / "labels.csv",
        target="pairing",
        columns=LabelColumns(group="patient"),
        on_event=tell,
    )
    return out


def on_slide(work: Path, slide: Path, encoder: str, workers: int) -> Path:
    store = work / f"slide-{encoder}"
    embed_slides([slide], store, EmbedSettings(encoder=encoder))
    settings = ExploreSettings(workers=workers, device=("cpu",))
    out = work / f"explored-{encoder}"
    explore_designs(DESIGNS / "design-colon.yaml", store, out, settings, on_event=tell)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of stores and cells")
    parser.add_argument("page", type=Path, help="folder that page and tables are copied to")
    parser.add_argument("--slide", type=Path, help="explore on this slide and not on XScale-strat")
    parser.add_argument("--design", default="design-xscale.yaml", help="a file of studies/, for XScale-strat")
    parser.add_argument("--encoder", default="efficientnet-lite0", help="tile encoder of the slide")
    parser.add_argument("--workers", type=int, default=1, help="cells that run at a time")
    given = parser.parse_args()
    if given.workers == 1:
        torch.set_num_threads(1)
    started = time.monotonic()
    if given.slide:
        out = on_slide(given.work, given.slide, given.encoder, given.workers)
    else:
        out = on_xscale(given.work, given.workers, given.design)
    given.page.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(out / name, given.page / name)
    print(f"{time.monotonic() - started:.0f} s; {given.page / 'report.html'}")


if __name__ == "__main__":
    main()
