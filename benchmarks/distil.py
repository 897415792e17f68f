"""Label efficiency earned by pretraining: tiles that were never read, predicted from coarse ones.

    python benchmarks/distil.py [--worlds 1 2 3] [--steps 500] [--test 300]
    python benchmarks/distil.py --masks default

A region has one of two states, and a slide's label shifts how often. At 20x the state is linear in an embedding; at 5x
it is which of two signs agree, an XOR that no mean and no linear map of a 5x embedding knows. A region model is
pretrained on slides without labels, where all magnifications are read. Labelled slides and test slides are read at 5x
alone, one tile of a region's 21, and every reader is given the same ones: the mean and the second moment of 5x, a
network on regions that learns from labels, what the model makes of the 5x tile (its token), and the mean of the 20x
tiles that its decoder predicts (`represent --readouts decoded --read-mpps 2`), beside that of a model with random
weights. Two rows are no rivals: the true 20x tiles, and the best observer of 5x, who knows the law that was drawn from.
A world is another draw of embeddings, slides and weights.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from xscale_bags import one_fold

from parfocal.bags import Bag, RepresentSettings, read_bags, represent_regions
from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, fit_contrast, fit_mean, fit_region_mlp
from parfocal.heads.base import Fit
from parfocal.lab.synthetic.design import balanced_labels
from parfocal.lab.synthetic.feature_model import COARSE, FINE, FeatureModel
from parfocal.lab.synthetic.xscale import FeatureCohort, IidSettings, draw_cohort, write_cohort
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.stats import auc
from parfocal.store import EmbeddingSet, open_set

LABELLED = (20, 40, 80, 160)
COARSE_ONLY = {"mask_random": 0.0, "mask_whole": 0.0, "mask_subtree": 0.0, "mask_coarse_only": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--unlabelled", type=int, default=400, help="slides that the model is pretrained on")
    parser.add_argument("--test", type=int, default=300, help="test slides")
    parser.add_argument("--regions", type=int, default=32, help="regions of a slide")
    parser.add_argument("--shift", type=float, default=0.1, help="of the state's probability from one half")
    parser.add_argument("--steps", type=int, default=500, help="of the pretraining")
    parser.add_argument("--masks", choices=("coarse-only", "default"), default="coarse-only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None, help="keep stores and models here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found: dict[str, list[list[float]]] = {}
    for world in arguments.worlds:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.keep or Path(temporary)) / f"world-{world}"
            for reader, row in in_world(world, folder, arguments).items():
                found.setdefault(reader, []).append(row)
    worlds = ", ".join(map(str, arguments.worlds))
    print(f"\nAUC on {arguments.test} test slides: mean of worlds {worlds} (each of them)\n")
    print("| reader | " + " | ".join(f"{n} labels" for n in LABELLED) + " |")
    print("|---" * (1 + len(LABELLED)) + "|")
    for reader, rows in found.items():
        columns = [
            f"{np.mean(one):.3f} ({', '.join(f'{value:.2f}' for value in one)})" for one in zip(*rows, strict=True)
        ]
        print(f"| {reader} | " + " | ".join(columns) + " |")


def in_world(world: int, folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """The AUC of every reader with each number of labelled slides."""
    started = time.process_time()
    cohort = draw_state_cohort(
        arguments.unlabelled + LABELLED[-1] + arguments.test, arguments.regions, arguments.shift, seed=world
    )
    if not (folder / "store" / "labels.csv").is_file():
        write_cohort(cohort, folder / "store")
    tiles = open_set(folder / "store")
    unlabelled = cohort.slides[: arguments.unlabelled]
    labelled = cohort.slides[arguments.unlabelled :]
    is_positive = cohort.labels["state"][arguments.unlabelled :]
    bags: dict[str, Sequence[Bag]] = {}
    for name, steps in (("random", 0), ("mem", arguments.steps)):
        model = folder / name
        pretrain_encoder(replace(tiles, slides=unlabelled), model, _pretraining(steps, world, arguments.masks))
        how = RepresentSettings(readouts=("tokens", "decoded"), read_mpps=(COARSE,))
        summary = represent_regions(replace(tiles, slides=labelled), model, folder / "regions", how)
        bags[f"{name}, token"], bags[f"{name}, decoded"] = (read_bags(one, labelled) for one in summary.sets)
        print(f"world {world}: {name} done after {time.process_time() - started:.0f} CPU s", file=sys.stderr)
    fine, coarse = read_bags(tiles, labelled, names=["0.5", "2"])
    assert float(fine.name) == FINE
    readers: dict[str, tuple[Sequence[Bag], Fit]] = {
        "true 20x, mean": ([fine], fit_mean),
        "5x, mean": ([coarse], fit_mean),
        "5x, second moment": ([coarse], fit_contrast),
        "5x, region MLP": ([coarse], fit_region_mlp),
        "random weights, decoded": (bags["random, decoded"], fit_mean),
        "MEM, token": (bags["mem, token"], fit_mean),
        "MEM, decoded": (bags["mem, decoded"], fit_mean),
    }
    test = np.arange(LABELLED[-1], len(labelled))
    outcome = Outcome.binary(is_positive, target="state")
    best = auc(is_positive[test], known_at_5x(cohort, tiles, [labelled[number] for number in test]))
    result = {"5x, its best observer": [best] * len(LABELLED)}
    print(f"world {world}  {'5x, its best observer':<24} {best:.3f}", flush=True)
    for reader, (read, fit) in readers.items():
        folds = [one_fold(is_positive, np.arange(n), test) for n in LABELLED]
        fitted = fit(read, outcome, folds, ProbeSettings(seed=world))
        result[reader] = [auc(is_positive[test], one.score(read, test)[:, 0]) for one in fitted]
        print(f"world {world}  {reader:<24} " + "  ".join(f"{value:.3f}" for value in result[reader]), flush=True)
    print(f"world {world}: {time.process_time() - started:.0f} CPU s", file=sys.stderr)
    return result


def known_at_5x(cohort: FeatureCohort, tiles: EmbeddingSet, slides: Sequence[str]) -> np.ndarray:
    """The mean over a slide's regions of what 5x says of the state at best: no reader of 5x can know more."""
    half = cohort.settings.model.separation_h / 2
    scores = []
    for slide in slides:
        coarse = tiles.read(slide).features[COARSE].astype(np.float64)
        signs = [np.tanh(half * cohort.space.component(coarse, COARSE, name)) for name in ("h1", "h2")]
        scores.append(float(np.mean(signs[0] * signs[1])))
    return np.array(scores)


def draw_state_cohort(n_slides: int, n_regions: int, shift: float, *, seed: int) -> FeatureCohort:
    """A cohort whose label shifts how often the two signs h1 and h2 of a region agree, and nothing else.

    5x shows both signs, 20x their product. Every pair of neighbours has one slide of each class, so that every part of
    the cohort is balanced.
    """
    model = FeatureModel(separation_a=0.0, shift_c=0.0, seed=seed)
    drawn = draw_cohort(IidSettings(n_slides=n_slides, n_regions=n_regions, kappa=0.0, model=model, seed=seed))
    rng = np.random.default_rng([seed, 21])
    is_positive = np.concatenate([balanced_labels(2, 1, rng)[:, 0] for _ in range(-(-n_slides // 2))])[:n_slides]
    factors = []
    for one, positive in zip(drawn.factors, is_positive, strict=True):
        h1 = rng.choice([-1.0, 1.0], n_regions)
        agree = rng.random(n_regions) < 0.5 + (shift if positive else -shift)
        factors.append(replace(one, h1=h1, h2=np.where(agree, h1, -h1)))
    return replace(drawn, factors=tuple(factors), labels={"state": is_positive})


def _pretraining(steps: int, seed: int, masks: str) -> PretrainSettings:
    return PretrainSettings(
        size="T",
        decoder_bias="none",
        bottleneck=0.5,
        batch=128,
        steps=steps,
        optimizer="muon",
        lr=3e-3,
        seed=seed,
        monitor_every=max(steps, 1),
        log_every=max(steps // 5, 1),
        cache_mib=2048,
        device="cpu",
        **(COARSE_ONLY if masks == "coarse-only" else {}),
    )


if __name__ == "__main__":
    main()
