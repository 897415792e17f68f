"""Whether every arm is at one half when the labels are permuted: on average over many permutations of one cohort.

    python benchmarks/permuted_null.py [--permutations 20] [--slides 60]

A small XScale-strat cohort, a region encoder pretrained on it for a few steps, and every arm that `evaluate` knows for
them. Patients' labels are permuted; each permutation is a target of one evaluation, five folds once.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort, write_cohort
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.run.events import Event, Progress, warn_of
from parfocal.store import open_set


def tell(event: Event) -> None:
    if isinstance(event, Progress):
        print(f"{event.done} of {event.total}: {event.item}", file=sys.stderr, flush=True)
    else:
        warn_of(event)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--slides", type=int, default=60)
    parser.add_argument("--arms", nargs="+", default=(), help="only these, as in evaluate --arms")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = StratSettings(
        n_slides=arguments.slides,
        n_types=1,
        model=FeatureModel(dim=32, seed=arguments.seed),
        seed=arguments.seed,
    )
    cohort = draw_cohort(settings)
    rng = np.random.default_rng([arguments.seed, 7])
    targets = [f"permutation {number + 1}" for number in range(arguments.permutations)]
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        write_cohort(cohort, out / "store")
        permuted = [rng.permutation(cohort.labels["pairing"]).astype(int) for _ in targets]
        with (out / "labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["slide", *targets])
            table.writerows(zip(cohort.slides, *permuted, strict=True))
        tiles = open_set(out / "store")
        pretrain_encoder(
            tiles,
            out / "mem",
            PretrainSettings(
                size="T",
                decoder_bias="none",
                bottleneck=0.5,
                steps=30,
                batch=64,
                device="cpu",
                seed=arguments.seed,
            ),
        )
        made = represent_regions(tiles, out / "mem", out / "regions", RepresentSettings(readouts=("cls", "tokens")))
        result = evaluate_arms(
            [tiles.path, *(one.path for one in made.sets)],
            out / "labels.csv",
            targets,
            out / "report",
            EvaluateSettings(
                repeats=1,
                arms=tuple(arguments.arms),
                probes=ProbeSettings(inner_folds=3, attention_validation=1),
            ),
            on_event=tell,
        )
    print(f"{arguments.slides} slides, {len(targets)} permutations, five folds; mean AUC over permutations (its s.e.)")
    worst = 0.0
    first, *_ = result.targets.values()
    for place, run in enumerate(first.runs):
        values = np.array([one.runs[place].interval.estimate for one in result.targets.values()])
        error = values.std(ddof=1) / np.sqrt(len(values))
        worst = max(worst, abs(values.mean() - 0.5) / error)
        print(f"{values.mean():.3f} ({error:.3f})  {run.arm.label}")
    print(f"farthest from one half: {worst:.1f} standard errors, of {len(first.runs)} arms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
