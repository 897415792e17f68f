"""How true the plan of a larger run is: beside a run that is measured, and beside one that is played through.

    python benchmarks/fleet.py SLIDE [--copies 8] [--workers 2] [--encoder filterbank] [--slides 1000000]
        [--nodes 1000]

The slide is planned alone, as `embed --dry-run --plan` does, for so many copies of it on so many workers, and then they
are embedded. Then runs of many slides on --nodes machines that fail now and then are worked out, and played through
slide by slide.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from parfocal.embed import (
    EmbedSettings,
    FleetPlan,
    FleetSettings,
    embed_slides,
    estimate_run,
    plan_fleet,
    play_fleet,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--slides", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = EmbedSettings(encoder=arguments.encoder, workers=0)
        estimate = estimate_run([arguments.slide], folder / "store", settings)
        here = plan_fleet(estimate, FleetSettings(slides=arguments.copies, devices=arguments.workers))
        seconds = measured(arguments, folder)
    print("| | seconds |\n|---|---|")
    for stage, own in {**here.stages, "before the first tile": here.alone}.items():
        print(f"| planned: {stage}, a slide | {own:.1f} |")
    print(f"| planned: {arguments.copies} slides, {arguments.workers} workers | {here.hours * 3600:.0f} |")
    print(f"| measured, with the start of the workers | {seconds:.0f} |")
    print(f"| measured to planned | {seconds / (here.hours * 3600):.2f} |\n", flush=True)
    played(arguments)


def played(arguments: argparse.Namespace) -> None:
    """Plans of a minute a slide, and the same runs slide by slide."""
    print(f"{arguments.slides:,} slides of a minute each, give or take 60 %, a machine back after 10 minutes")
    print("| nodes x devices | failures a node and day | hours, planned | played | failures | begun anew | lost |")
    print("|---|---|---|---|---|---|---|")
    for devices, failures in ((1, 0.0), (1, 0.1), (1, 5.0), (8, 1.0)):
        fleet = FleetSettings(
            slides=arguments.slides, nodes=arguments.nodes, devices=devices, failures=failures, restart=10
        )
        stages = {"encoding": 60.0, "reading": 20.0}
        plan = FleetPlan(fleet, arguments.slides, 1, 1.0, stages, 0.0, 1e9, 1e7, 0.6)
        run = play_fleet(plan, seed=arguments.seed)
        lost = run.lost_hours / (run.hours * arguments.nodes * devices)
        print(
            f"| {arguments.nodes:,} x {devices} | {failures:g} | {plan.hours:.2f} | {run.hours:.2f} | {run.n_failures} "
            f"| {run.n_lost} | {lost:.2%} |",
            flush=True,
        )


def measured(arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds of embedding copies of the slide, each under a name of its own."""
    (folder / "scans").mkdir()
    for number in range(arguments.copies):
        shutil.copy(arguments.slide, folder / "scans" / f"{number}{arguments.slide.suffix}")
    settings = EmbedSettings(encoder=arguments.encoder, workers=arguments.workers)
    started = time.monotonic()
    embed_slides([folder / "scans"], folder / "store", settings)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
