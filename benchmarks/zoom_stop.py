"""How far slides must be read until their class is settled, where some are easy and some are hard.

    python benchmarks/zoom_stop.py
    python benchmarks/zoom_stop.py --draws 3 --policies contrast-tiles stride

Each draw is a cohort of its own. Half of its slides are easy: the share of regions with A differs between classes, and
5x shows it. The others are hard: only the pairing of A with C within regions differs, and 20x has to be read. No slide
says which it is. A contrast head is fitted on the labelled slides, the limit of early stopping on scores that a cross-
validation of the same slides gives, and test slides are read by the head until they are settled.

Prints for each draw the share of test slides that are called otherwise than when they are read whole, the mean share of
fine tiles that was read, and AUC; then the means over draws, with the one-sided upper bound at 95 % of the share that
is called otherwise, and the least fixed budgets of the same policy that are no worse. About a minute for a draw.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits
from zoom_xscale import BAGS, N_REGIONS, bag_of, generator

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.heads import ProbeSettings, fit_contrast
from parfocal.lab.synthetic import FeatureCohort, FeatureModel, IidSettings, draw_cohort
from parfocal.lab.synthetic.feature_model import COARSE, FINE
from parfocal.predict.calibration import Calibration, fit_calibration
from parfocal.predict.stopping import calls_of, fit_stopping
from parfocal.stats import auc
from parfocal.store import SlideTokens
from parfocal.zoom import POLICIES, HeadOfBags, Policy, scores_by_share

RUNGS = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Where the class is looked at."""

FIXED = tuple(sorted({*RUNGS, 0.1, 0.15, 0.2, 0.3, 0.35, 0.4, 0.45, 0.6, 0.7, 0.8}))
"""Budgets that stopping is compared with."""


COLUMNS = (
    "policy",
    "called otherwise",
    "its upper bound",
    "read",
    "of easy slides",
    "of hard slides",
    "called right",
    "when read whole",
    "AUC",
    "when read whole",
    "least fixed budget that calls no more otherwise",
    "that calls as many right",
    "of the same AUC",
)


class Mixed:
    """Easy and hard slides in turns, of one observation model."""

    def __init__(self, slides: int, seed: int) -> None:
        model = FeatureModel(separation_a=4.0, shift_c=1.0)
        easy = IidSettings(n_slides=slides // 2, a=0.3, tau_a=0.15, kappa=0.0, model=model, seed=2 * seed)
        hard = IidSettings(n_slides=slides // 2, a=0.3, kappa=0.07, model=model, seed=2 * seed + 1)
        self.parts: tuple[FeatureCohort, FeatureCohort] = draw_cohort(easy), draw_cohort(hard)
        self.label = np.stack([part.labels["label"] for part in self.parts], axis=1).reshape(-1)

    def tokens(self, number: int) -> SlideTokens:
        """The tile embeddings of a slide."""
        return self.parts[number % 2].tokens(number // 2)


def bags_of(cohort: Mixed, slides: int, seed: int) -> tuple[Bag, ...]:
    means: dict[float, list[np.ndarray]] = {COARSE: [], FINE: []}
    some: dict[float, list[np.ndarray]] = {COARSE: [], FINE: []}
    rng = generator(seed)
    for number in range(slides):
        tokens = cohort.tokens(number)
        for mpp in means:
            rows = tokens.features[mpp]
            means[mpp].append(rows.reshape(N_REGIONS, -1, rows.shape[1]).mean(axis=1))
            some[mpp].append(rows[np.sort(rng.choice(len(rows), N_REGIONS, replace=False))])
    names = [f"slide-{number}" for number in range(slides)]
    return tuple(
        bag_of(name, names, np.stack(some[mpp]), np.stack(means[mpp]), tiles)
        for name, mpp, tiles in zip(BAGS, means, (1, 16), strict=True)
    )


def probabilities(calibration: Calibration, score: np.ndarray) -> np.ndarray:
    """Of every score of an array, whatever its shape."""
    flat = calibration.probability(score.reshape(-1, score.shape[-1]))
    return flat.reshape(*score.shape[:-1], flat.shape[-1])


def one_draw(arguments: argparse.Namespace, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """For each policy what came of the test slides."""
    n, began = arguments.slides, time.monotonic()
    cohort = Mixed(n + arguments.test, seed)
    label = cohort.label.astype(int)
    bags = bags_of(cohort, n, seed)
    outcome = Outcome.binary(label[:n] == 1)
    every = np.arange(n)
    of_fold = deal_folds(every, label[:n], 5, generator(seed))
    folds = [_fold(fold, every[of_fold != fold], every[of_fold == fold], label, seed) for fold in range(5)]
    whole = _fold(5, every, every, label, seed)
    settings = ProbeSettings(seed=seed)
    probes = fit_contrast(bags, outcome, [*folds, whole], settings)
    print(f"<!-- fitted in {time.monotonic() - began:.0f} s: {probes[-1].chosen} -->", flush=True)
    held_out = np.empty((1, n, 1))
    for fold, probe in zip(folds, probes, strict=False):
        held_out[0, fold.test] = probe.score(bags, fold.test)
    groups = [str(number) for number in every]
    calibration = fit_calibration(outcome, held_out, groups)
    heads = [HeadOfBags(probe, BAGS) for probe in probes]
    orders = [[_order(name, head) for name in arguments.policies] for head in heads]
    parts, seen_parts = (np.empty((len(arguments.policies), n, len(RUNGS), 1)) for _ in range(2))
    for fold, head, own in zip(folds, heads, orders, strict=False):
        for number in fold.test:
            tokens = cohort.tokens(int(number))
            parts[:, number] = [scores_by_share(head, order, tokens, RUNGS, seed) for order in own]
            seen_parts[:, number] = [scores_by_share(heads[-1], order, tokens, RUNGS, seed) for order in orders[-1]]
    shares = (*FIXED, 1.0)
    tested = np.empty((len(arguments.policies), arguments.test, len(shares), 1))
    for number in range(arguments.test):
        tokens = cohort.tokens(n + number)
        tested[:, number] = [scores_by_share(heads[-1], order, tokens, shares, seed) for order in orders[-1]]
    found = {}
    for name, part, seen, scores in zip(arguments.policies, parts, seen_parts, tested, strict=True):
        own = probes[-1].score(bags, every)
        rule = fit_stopping(
            [
                (probabilities(calibration, part[None]), probabilities(calibration, held_out)),
                (probabilities(calibration, seen[None]), probabilities(calibration, own[None])),
            ],
            groups,
            policy=name,
            rungs=RUNGS,
            rate=arguments.rate,
        )
        says = probabilities(calibration, scores)
        at = [shares.index(rung) for rung in (*RUNGS, 1.0)]
        ends = rule.stops(says[:, at[:-1]])
        rows = np.arange(len(says))
        stopped = scores[rows, np.array(at)[ends], 0]
        called, _ = calls_of(says, 0.5)
        truth = label[n:]
        found[name] = {
            "limit": rule.limit,
            "read": np.array((*RUNGS, 1.0))[ends].mean(),
            "read easy": np.array((*RUNGS, 1.0))[ends][0::2].mean(),
            "read hard": np.array((*RUNGS, 1.0))[ends][1::2].mean(),
            "other": (called[rows, np.array(at)[ends]] != called[:, -1]).mean(),
            "auc": auc(truth, stopped),
            "auc whole": auc(truth, scores[:, -1, 0]),
            "right": (called[rows, np.array(at)[ends]] == truth).mean(),
            "right whole": (called[:, -1] == truth).mean(),
            "fixed other": (called != called[:, -1:]).mean(axis=0),
            "fixed auc": np.array([auc(truth, scores[:, k, 0]) for k in range(len(shares))]),
            "fixed right": (called == truth[:, None]).mean(axis=0),
        }
        line = ", ".join(f"{key} {value:.3f}" for key, value in found[name].items() if np.ndim(value) == 0)
        print(f"<!-- {seed} {name}: {line} ({time.monotonic() - began:.0f} s) -->", flush=True)
    return found


def _fold(number: int, train: np.ndarray, test: np.ndarray, label: np.ndarray, seed: int) -> Fold:
    return Fold(0, number, train, test, deal_folds(train, label[train], 5, generator(seed)))


def _order(name: str, head: HeadOfBags) -> Policy:
    policy = POLICIES.get(name)
    return policy.with_head(head)


def least(shares: Sequence[float], values: np.ndarray, enough: float, *, falling: bool) -> float:
    """The least share from which on all are good enough."""
    good = values <= enough if falling else values >= enough
    return shares[int(len(good) - np.logical_and.accumulate(good[::-1]).sum())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--slides", type=int, default=400, help="labelled slides of a draw")
    parser.add_argument("--test", type=int, default=400, help="test slides of a draw")
    parser.add_argument("--rate", type=float, default=0.05, help="share of slides that may be called otherwise")
    parser.add_argument("--policies", nargs="+", default=["contrast-tiles", "stride"])
    arguments = parser.parse_args()
    with threadpool_limits(1):
        draws = [one_draw(arguments, seed) for seed in range(arguments.first, arguments.first + arguments.draws)]
    shares = (*FIXED, 1.0)
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in arguments.policies:
        own = [draw[name] for draw in draws]
        mean = {key: np.mean([one[key] for one in own], axis=0) for key in own[0]}
        other = np.array([one["other"] for one in own])
        error = other.std(ddof=1) / np.sqrt(len(other)) if len(other) > 1 else np.nan
        values = [
            mean["other"],
            mean["other"] + stats.t.ppf(0.95, len(other) - 1) * error,
            *(mean[key] for key in ("read", "read easy", "read hard", "right", "right whole", "auc", "auc whole")),
            least(shares, mean["fixed other"], mean["other"], falling=True),
            least(shares, mean["fixed right"], mean["right"], falling=False),
            least(shares, mean["fixed auc"], mean["auc"], falling=False),
        ]
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |")
    print("\n| policy | share read | called otherwise | called right | AUC |\n|---|---|---|---|---|")
    for name in arguments.policies:
        fixed = [np.mean([draw[name][f"fixed {key}"] for draw in draws], axis=0) for key in ("other", "right", "auc")]
        for share, *values in zip(shares, *fixed, strict=True):
            print(f"| {name} | {share:.3f} | {' | '.join(f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    main()
