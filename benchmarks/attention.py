"""Gated attention against mean and linear model where a few regions of a slide carry the signal.

    python benchmarks/attention.py [--cohorts 6] [--steps 160] [--growth 4] [--abmil] [--seed 0]

One magnification, 160 slides of 64 regions, one tile each, of 32 numbers; every slide is a patient. In positive slides
a few regions are moved along one direction. Both arms come from `parfocal evaluate`, on the same folds, with the same
preparations; with --abmil the reader as Ilse et al. published it stands beside them. Prints the AUC of each cohort,
what attention chose, and how often that was the most steps it was offered.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from parfocal.cohort import Target
from parfocal.evaluate import EvaluateSettings, evaluate_arms
from parfocal.heads import ProbeSettings
from parfocal.store import SlideTokens, create_set, write_tokens

SLIDES, REGIONS, DIM, MPP, REGION_UM = 160, 64, 32, 0.5, 112.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="number of the first cohort")
    parser.add_argument("--needles", type=int, default=4, help="regions of a positive slide that carry the signal")
    parser.add_argument("--shift", type=float, default=2.5, help="how far they are moved, in spreads of a region")
    parser.add_argument("--steps", type=int, default=ProbeSettings().attention_steps)
    parser.add_argument("--growth", type=int, default=ProbeSettings().growth)
    parser.add_argument("--abmil", action="store_true", help="also gated attention at its published width and length")
    parser.add_argument("--seed", type=int, default=0, help="of the networks and of the folds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    probes = ProbeSettings(attention_steps=arguments.steps, growth=arguments.growth, seed=arguments.seed)
    arms = ("mean", "gated-attention", *(["abmil"] if arguments.abmil else []))
    settings = EvaluateSettings(repeats=1, arms=arms, arms_at_a_time=1, probes=probes)
    found: dict[str, list[float]] = {}
    for number in range(arguments.first, arguments.first + arguments.cohorts):
        started = time.process_time()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_cohort(folder, number, arguments.needles, arguments.shift)
            result = evaluate_arms(
                [folder / "store"], folder / "labels.csv", [Target(name="needles")], folder / "out", settings
            ).targets["needles"]
        line = []
        for run in result.runs:
            found.setdefault(run.arm.pooling, []).append(run.interval.estimate)
            line.append(f"{run.arm.pooling} {run.interval.estimate:.3f}")
        attention = next(run for run in result.runs if run.arm.id.endswith("gated-attention"))
        print(
            f"cohort {number}: {', '.join(line)}; the most steps in {attention.at_edge} of "
            f"{len(attention.predictions)} folds; {'; '.join(attention.chosen)}; "
            f"{time.process_time() - started:.0f} s of processor time",
            flush=True,
        )
    print(
        f"{arguments.steps} steps, growth {arguments.growth}: mean AUC over {arguments.cohorts} cohorts (s.e.): "
        + ", ".join(
            f"{name} {np.mean(values):.3f} ({np.std(values, ddof=1) / np.sqrt(len(values)):.3f})"
            for name, values in found.items()
        )
    )
    attention, mean = (np.array(found[next(name for name in found if word in name)]) for word in ("attention", "mean"))
    gain = attention - mean
    print(f"attention minus mean: {gain.mean():+.3f} ({gain.std(ddof=1) / np.sqrt(len(gain)):.3f})")


def write_cohort(folder: Path, number: int, needles: int, shift: float) -> None:
    """A store and its labels."""
    rng = np.random.default_rng([number, 15])
    direction = rng.standard_normal(DIM)
    direction *= shift / np.linalg.norm(direction)
    path = create_set(
        folder / "store",
        "needles-00000000",
        "tiles",
        region_um=REGION_UM,
        dims={MPP: DIM},
        settings={"encoder": "drawn"},
        encoder_digests={MPP: "aa"},
        tile_px=224,
    )
    side = int(np.sqrt(REGIONS))
    corner = REGION_UM * np.stack(np.divmod(np.arange(REGIONS), side), axis=1).astype(np.float64)
    rows = []
    for slide in range(SLIDES):
        features = rng.standard_normal((REGIONS, DIM))
        if slide % 2:
            features[rng.choice(REGIONS, needles, replace=False)] += direction
        write_tokens(
            path,
            SlideTokens(
                f"s{slide:03d}",
                REGION_UM,
                MPP,
                corner,
                {MPP: features.astype(np.float32)},
                {MPP: np.arange(REGIONS, dtype=np.int32)},
                {MPP: np.zeros((REGIONS, 2), dtype=np.float32)},
            ),
        )
        rows.append((f"s{slide:03d}", "yes" if slide % 2 else "no"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "needles"), *rows])


if __name__ == "__main__":
    main()
