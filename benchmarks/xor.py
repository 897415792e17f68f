"""What masked embedding modelling adds where a factor is not linear in the embedding: contrast before and after.

    python benchmarks/xor.py [--slides 1200] [--steps 1000] [--keep FOLDER]
    python benchmarks/xor.py --slides 600 --tiles-only --seed 1

XScale-strat whose 20x factor C is an XOR: a tile shows two signs along two directions, C is whether they agree. No mean
and no linear direction of an embedding knows C, so cross-scale contrast of the components alone (`--no-products`) is at
one half; by default it is offered the products of a few leading ones. Asked is what that finds, and whether the tokens
of a pretrained region encoder show C linearly; beside it the same network with random weights, and a region MLP on the
tile embeddings, which can learn an XOR from labels.
Half of the slides is trained on (by the probes and by the pretraining), the other half is tested.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from xscale_bags import best_scores, one_fold

from parfocal.bags import RepresentSettings, read_bags, represent_regions
from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, fit_contrast, fit_mean, fit_region_mlp
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort, write_cohort
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.stats import auc, delong_interval
from parfocal.store import EmbeddingSet, open_set

SETTINGS = ProbeSettings(components=(16, 32, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--separation", type=float, default=3.0, help="of the two states of each sign, in a region")
    parser.add_argument("--no-products", action="store_true", help="contrast of the components alone")
    parser.add_argument("--tiles-only", action="store_true", help="closed forms on tile embeddings, nothing is trained")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="keep store, models and regions here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = FeatureModel(c_shown_as="xor", shift_c=arguments.separation / 4, seed=arguments.seed)
    cohort = draw_cohort(StratSettings(n_slides=arguments.slides, model=model, seed=arguments.seed))
    label = cohort.labels["pairing"]
    train, test = np.arange(0, len(label), 2), np.arange(1, len(label), 2)
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.keep or Path(temporary)
        if not (out / "store" / "labels.csv").is_file():
            write_cohort(cohort, out / "store")
        tiles = open_set(out / "store")
        tell(f"{len(label)} slides are drawn")
        held_out = tuple(cohort.slides[number] for number in test)
        made: dict[str, EmbeddingSet] = {"tile embeddings": tiles}
        encoders = () if arguments.tiles_only else (("random weights", 0), ("MEM", arguments.steps))
        for name, steps in encoders:
            folder = out / name.split()[0].lower()
            pretrain_encoder(tiles, folder / "model", _pretraining(steps, held_out, arguments.seed))
            summary = represent_regions(
                tiles, folder / "model", folder / "regions", RepresentSettings(readouts=("cls", "tokens"))
            )
            made[f"{name}, CLS"], made[f"{name}, tokens"] = summary.sets
            tell(f"{name}: {steps} steps, represented")
        ceiling = auc(label[test], best_scores(cohort, test))
        print(f"ceiling {ceiling:.3f} on {len(test)} test slides, {len(train)} to train on")
        fold = one_fold(label, train, test)
        settings = SETTINGS.model_copy(update={"lifted": ()}) if arguments.no_products else SETTINGS
        for name, one in made.items():
            bags = read_bags(one, cohort.slides, most_instances=8)
            contrast = "contrast" if len(bags) > 1 else "second moment of regions"
            fits = [("mean, linear model", fit_mean), (contrast, fit_contrast)]
            if one is tiles and not arguments.tiles_only:
                fits.append(("region MLP, mean", fit_region_mlp))
            for pooling, fit in fits:
                (fitted,) = fit(bags, Outcome.binary(label, target="pairing"), [fold], settings)
                found = delong_interval(label[test], fitted.score(bags, test)[:, 0])
                print(
                    f"{name:<24} {pooling:<26} AUC {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})  "
                    f"{fitted.chosen}",
                    flush=True,
                )


def _pretraining(steps: int, held_out: tuple[str, ...], seed: int) -> PretrainSettings:
    every = max(steps, 1)
    return PretrainSettings(
        size="T",
        decoder_bias="none",
        bottleneck=0.5,
        batch=128,
        steps=steps,
        lr=1e-3,
        seed=seed,
        holdout_slides=held_out,
        monitor_every=every,
        log_every=max(1, every // 10),
        cache_mib=2048,
        device="cpu",
    )


if __name__ == "__main__":
    main()
