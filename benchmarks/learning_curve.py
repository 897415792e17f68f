"""How many labelled slides each arm needs to find what only the pairing of magnifications knows.

    python benchmarks/learning_curve.py --sizes 100 200 400 1600 4800 --worlds 0 1 2
    python benchmarks/learning_curve.py --sizes 100 200 400 1600 --worlds 0 --arms networks

Draws XScale-strat (tile embeddings of 128 numbers, 8 strata of 8 regions, omega 2, separations 3 and 3) and fits the
arms on the first slides of each world, always the same 2,000 test slides. Prints AUC, the share of the way from 0.5 to
the exact ceiling (the likelihood ratio by enumeration, on the same test slides), the test that arms of one
magnification and late fusion stay at their proven 0.5 (Mann-Whitney, Holm over all of them), and whether the bars hold.
Every choice is made inside the training slides.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm
from threadpoolctl import threadpool_limits
from xscale_bags import NAMES, best_scores, draw_bags, one_fold

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome
from parfocal.heads import ProbeSettings, fit_attention, fit_bilinear, fit_contrast, fit_mean, fit_mlp, fit_region_mlp
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort
from parfocal.stats import auc, delong_interval, holm

N_TEST = 2000
BARS = {200: 0.65, 400: 0.85, 1600: 0.92, 4800: 0.95}
# Closed forms get a wider grid than the default, which is meant for dozens of slides.
CLOSED = ProbeSettings(components=(16, 32, 64, 128))
# Four times the default steps: at the default the networks on regions still gained at their last one.
# A grid that ends, as docs/evidence.md has it: the networks of 4,800 slides take hours otherwise.
NETWORKS = ProbeSettings(components=(32, 64), attention_steps=160, mlp_steps=320, bilinear_steps=160, growth=1)


@dataclass(frozen=True, eq=False)
class World:
    """Training slides first, then the test slides; and what the best observer says about the latter."""

    bags: dict[str, Bag]
    outcome: Outcome
    best: np.ndarray

    @property
    def n_train(self) -> int:
        """Slides that may be trained on."""
        return len(self.outcome) - N_TEST

    def fold(self, size: int) -> Fold:
        """The first `size` slides to train on, all test slides to test."""
        test = np.arange(self.n_train, self.n_train + N_TEST)
        return one_fold(self.outcome.value > 0, np.arange(size), test)


def draw_world(n_train: int, seed: int, *, directions: str, instances: bool) -> World:
    """Draw the slides of one world and what the best observer says about its test slides."""
    n = n_train + N_TEST
    cohort = draw_cohort(StratSettings(n_slides=n, model=FeatureModel(directions=directions, seed=seed), seed=seed))
    best = best_scores(cohort, np.arange(n_train, n))
    bags = draw_bags(cohort, instances=instances, seed=seed)
    return World(bags, Outcome.binary(cohort.labels["pairing"], target="pairing"), best)


Fit = Callable[..., list]
ALL = tuple(NAMES.values())
# name, what it can know, bags, probe
CLOSED_ARMS: tuple[tuple[str, str, tuple[str, ...], Fit], ...] = (
    *((f"mean {one}", "single", (one,), fit_mean) for one in ALL),
    *((f"second moment of regions {one}", "single", (one,), fit_contrast) for one in ALL),
    ("means side by side", "late", ALL, fit_mean),
    ("cross-scale contrast", "mixed", ALL, fit_contrast),
)
NETWORK_ARMS: tuple[tuple[str, str, tuple[str, ...], Fit], ...] = (
    *((f"gated attention {one}", "single", (one,), fit_attention) for one in ALL),
    ("gated attention over all tiles", "late", ALL, fit_attention),
    ("mean + MLP", "late", ALL, fit_mlp),
    ("region MLP, mean", "mixed", ALL, fit_region_mlp),
    ("low-rank bilinear", "mixed", ALL, fit_bilinear),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 400, 1600])
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--directions",
        choices=("leading", "anywhere"),
        default="anywhere",
        help="whether the factors lie among the leading components or anywhere in the spectrum",
    )
    parser.add_argument("--arms", choices=("closed", "networks"), default="closed")
    parser.add_argument("--ranks-only", action="store_true", help="contrast without sharpening and without six numbers")
    parser.add_argument("--only", nargs="+", default=None, help="arms whose name contains one of these")
    parser.add_argument("--csv", type=Path, default=None, help="write every number here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arms, settings = (CLOSED_ARMS, CLOSED) if arguments.arms == "closed" else (NETWORK_ARMS, NETWORKS)
    if arguments.ranks_only:
        settings = settings.model_copy(update={"sharpen": False})
    if arguments.only:
        arms = tuple(arm for arm in arms if any(part in arm[0] for part in arguments.only))
    found = []
    with threadpool_limits(1):
        for seed in arguments.worlds:
            world = draw_world(
                max(arguments.sizes), seed, directions=arguments.directions, instances=arguments.arms == "networks"
            )
            found += _run(world, seed, arms, settings, arguments.sizes)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            table = csv.DictWriter(file, list(found[0]))
            table.writeheader()
            table.writerows(found)
    held = _nothing_where_nothing_is(found)
    return 0 if _bars(found) and held else 1


def _run(world: World, seed: int, arms, settings: ProbeSettings, sizes: Sequence[int]) -> list[dict]:
    test = world.outcome.value[world.n_train :] > 0
    ceiling = auc(test, world.best)
    print(f"world {seed}: ceiling {ceiling:.4f} on {N_TEST:,} test slides", flush=True)
    found = []
    for size in sizes:
        fold = world.fold(size)
        for name, kind, of, fit in arms:
            started = time.monotonic()
            bags = [world.bags[one] for one in of]
            (fitted,) = fit(bags, world.outcome, [fold], settings)
            score = fitted.score(bags, fold.test)[:, 0]
            interval = delong_interval(test, score)
            share = (interval.estimate - 0.5) / (ceiling - 0.5)
            p_value = _p_of_nothing(interval.estimate, int(test.sum()), int((~test).sum()))
            found.append(
                {
                    "world": seed, "slides": size, "arm": name, "kind": kind, "auc": interval.estimate,
                    "low": interval.low, "high": interval.high, "ceiling": ceiling, "share": share, "p": p_value,
                    "seconds": round(time.monotonic() - started, 1), "chosen": fitted.chosen,
                }
            )  # fmt: skip
            print(
                f"world {seed}  {size:>5} slides  {name:<32} AUC {interval.estimate:.3f} "
                f"({interval.low:.3f} to {interval.high:.3f})  {share:>4.0%} of the way  "
                f"{found[-1]['seconds']:6.1f} s  {fitted.chosen}",
                flush=True,
            )
    return found


def _p_of_nothing(value: float, n_positive: int, n_negative: int) -> float:
    """Mann-Whitney's test of an AUC of one half."""
    se = np.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))
    return float(2 * norm.sf(abs(value - 0.5) / se))


def _nothing_where_nothing_is(found: Sequence[dict]) -> bool:
    """Print whether arms that can know nothing are at one half."""
    null = [one for one in found if one["kind"] != "mixed"]
    if not null:
        return True
    adjusted = holm(np.array([one["p"] for one in null]))
    values = np.array([one["auc"] for one in null])
    away = [one for one, p_value in zip(null, adjusted, strict=True) if p_value < 0.05]
    print(
        f"{len(null)} fits of one magnification or late fusion: AUC {values.min():.3f} to {values.max():.3f}, mean "
        f"{values.mean():.4f}; smallest p after Holm {adjusted.min():.3f}, {len(away)} away from 0.5"
    )
    return not away


def _bars(found: Sequence[dict]) -> bool:
    """Print the best mixed arm at each size over the worlds, beside the bar."""
    held = True
    mixed = [one for one in found if one["kind"] == "mixed"]
    for size in sorted({one["slides"] for one in mixed}):
        names = {one["arm"] for one in mixed}
        shares = {
            name: [one["share"] for one in mixed if one["arm"] == name and one["slides"] == size] for name in names
        }
        best = max(shares, key=lambda name: float(np.mean(shares[name])))
        mean, bar = float(np.mean(shares[best])), BARS.get(size)
        listed = ", ".join(f"{share:.0%}" for share in shares[best])
        verdict = "" if bar is None else f"; bar {bar:.0%} {'holds' if mean >= bar else 'FAILS'}"
        print(f"{size:>5} slides: {best} reaches {mean:.0%} of the way to the ceiling (worlds: {listed}){verdict}")
        held &= bar is None or mean >= bar
    return held


if __name__ == "__main__":
    sys.exit(main())
