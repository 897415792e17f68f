"""Slides of 8 to 128 regions: is evidence added up, are probabilities of small slides right, and are they outside?

    python benchmarks/slide_sizes.py [--worlds 0 1 2] [--slides 300] [--new 600]

XScale-iid whose slides have 8 to 128 regions, as many of 8 to 16 as of 64 to 128, in both classes alike; the label is
in the pairing of A (5x) and C (20x) alone. Contrast is fitted, calibrated and taught what is usual as `parfocal fit`
does it, and new slides of the same kind are scored. Prints the AUC beside that of the exact likelihood ratio, the slope
of the line that would recalibrate the probabilities (1 is right, below 1 they are too bold) and the share called
outside: of all new slides, of those up to 16 regions, and of those of 64 and more. Beside it the share called outside
by what is usual among the slides of 64 and more alone.
"""

import argparse

import numpy as np
from scipy import special
from threadpoolctl import threadpool_limits
from xscale_bags import NAMES

from parfocal.bags import Bag
from parfocal.cohort import Cohort, Outcome, make_splits, whole_fold
from parfocal.heads import ProbeSettings, fit_contrast, predict
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import IidSettings, draw_cohort
from parfocal.predict.calibration import fit_calibration
from parfocal.predict.outside import fit_habits
from parfocal.stats import auc, calibration_line

FEWEST, SMALL, LARGE, MOST = 8, 16, 64, 128


def draw(n: int, seed: int) -> tuple[list[Bag], np.ndarray, np.ndarray, np.ndarray]:
    """Bags of `n` slides, their labels, how many regions each has, and the exact log likelihood ratio."""
    cohort = draw_cohort(IidSettings(n_slides=n, n_regions=MOST, model=FeatureModel(dim=64, seed=seed), seed=seed))
    rng = np.random.default_rng([seed, 8])
    counts = np.exp2(rng.uniform(np.log2(FEWEST), np.log2(MOST), n)).round().astype(int)
    regions: dict[float, list[np.ndarray]] = {mpp: [] for mpp in NAMES}
    best = np.zeros(n)
    for number, (tokens, count) in enumerate(zip(cohort, counts, strict=True)):
        # Regions are independent, so the first ones are a smaller slide of the same kind.
        for mpp, slides in regions.items():
            flat = tokens.features[mpp]
            slides.append(flat.reshape(MOST, -1, flat.shape[1])[:count].mean(axis=1, dtype=np.float64))
        sign_a = np.tanh(cohort.space.log_odds_a(tokens)[:count] / 2)
        sign_c = np.tanh(cohort.space.log_odds_c(tokens)[:count] / 2)
        agree = cohort.settings.rho * sign_a * sign_c
        best[number] = (np.log1p(agree) - np.log1p(-agree)).sum()
    bags = [_bag(NAMES[mpp], cohort.slides, slides) for mpp, slides in regions.items()]
    return bags, cohort.labels["label"], counts, best


def _bag(name: str, slides: tuple[str, ...], regions: list[np.ndarray]) -> Bag:
    start = np.cumsum([0, *map(len, regions)]).astype(np.int64)
    rows = np.concatenate(regions).astype(np.float32)
    return Bag(
        name=name,
        slides=tuple(slides),
        rows=rows,
        start=start,
        n_instances=np.diff(start),
        mean=np.stack([one.mean(axis=0) for one in regions]).astype(np.float32),
        region_mean=rows,
        region_start=start,
        region_present=np.ones(len(rows), dtype=bool),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--slides", type=int, default=300, help="slides to fit on")
    parser.add_argument("--new", type=int, default=600, help="new slides")
    arguments = parser.parse_args()
    n = arguments.slides
    with threadpool_limits(1):
        for world in arguments.worlds:
            bags, label, counts, best = draw(n + arguments.new, world)
            labelled = [bag.of_slides(range(n)) for bag in bags]
            outcome = Outcome.binary(label[:n])
            cohort = Cohort(labelled[0].slides, labelled[0].slides, outcome)
            folds = make_splits(cohort, folds=5, repeats=1).folds(cohort, inner=5, seed=0)
            whole = whole_fold(cohort, inner=5, seed=0)
            *held_out, head = fit_contrast(labelled, outcome, [*folds, whole], ProbeSettings())
            score = np.zeros((1, n, 1))
            for fold, found in zip(folds, predict(held_out, labelled, folds), strict=True):
                score[0, fold.test] = found.score
            calibration, habits = fit_calibration(outcome, score, cohort.groups), fit_habits(labelled, cohort.groups)
            large = np.flatnonzero(counts[:n] >= LARGE)
            names = [cohort.slides[number] for number in large]
            large_habits = fit_habits([bag.of_slides(large.tolist()) for bag in labelled], names)
            new = np.arange(n, len(label))
            probability = calibration.probability(head.score(bags, new))[:, 1]
            outside, strange = (
                np.array([one.distance(bags, int(slide)).value > one.limit.cut for slide in new])
                for one in (habits, large_habits)
            )
            print(f"world {world}: {head.chosen}")
            sizes = counts[new]
            groups = (("all", sizes > 0), ("up to 16 regions", sizes <= SMALL), ("64 and more", sizes >= LARGE))
            for name, own in groups:
                truth, said = label[new][own], probability[own]
                line = calibration_line(truth, special.logit(np.clip(said, 1e-9, 1 - 1e-9)))
                ceiling = auc(truth, best[new][own])
                print(
                    f"  {name:<17} {own.sum():>4} slides  AUC {auc(truth, said):.3f} of {ceiling:.3f}"
                    f"  slope {line.slope:5.2f}  outside {outside[own].mean():.3f}"
                    f"  of the large {strange[own].mean():.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
