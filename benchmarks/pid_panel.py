"""What each kind of information is worth: one cohort, six labels, the predicted AUC beside the measured one.

    python benchmarks/pid_panel.py [--slides 2400] [--seed 0]

XScale panel: `redundant` is shown by both magnifications, `coarse` by 5x alone, `fine` by 20x alone, `pairing` by
neither and by both together, `permuted` by nothing, and `confounded` follows the stain in the slides that are trained
on and nothing in those that are tested. Half of the slides are trained on. Two predictions where one magnification
knows the label: of the best observer, which takes the posterior mean of each region, and of any function of the slide
mean, which adds up the noise as well.
"""

import argparse
import math

import numpy as np
import torch
from scipy.special import ndtr
from threadpoolctl import threadpool_limits
from xscale_bags import draw_bags, one_fold

from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, fit_contrast, fit_mean
from parfocal.lab.synthetic.ceilings import iid_mixed_auc, iid_single_auc, redundancy_reliability, reliability
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import PanelSettings, draw_cohort
from parfocal.stats import delong_interval

SETTINGS = ProbeSettings(components=(16, 32, 64))
ARMS = (
    ("5x mean", ("5x",), fit_mean),
    ("20x mean", ("20x",), fit_mean),
    ("late fusion of means", ("5x", "20x"), fit_mean),
    ("cross-scale contrast", ("5x", "20x"), fit_contrast),
)


def predictions(settings: PanelSettings) -> dict[str, dict[str, tuple[float, float]]]:
    """Per label and arm the AUC of the best observer, and of the slide mean."""
    model, n, tau = settings.model, settings.n_regions, settings.tau
    # A region's mean over sixteen tiles has a quarter of the noise.
    separation = {
        "type 5x": model.size_type,
        "type 20x": 4 * model.size_type,
        "a": model.separation_a,
        "c": 4 * model.shift_c,
    }
    linear = {name: (d / 2) ** 2 / ((d / 2) ** 2 + 1) for name, d in separation.items()}
    best = {name: reliability(d) for name, d in separation.items()}

    def both(one: float, other: float) -> tuple[float, float]:
        return iid_single_auc(tau, 0.5, n, one), iid_single_auc(tau, 0.5, n, other)

    late, mixed = redundancy_reliability(separation["type 5x"], separation["type 20x"])
    rho = (math.sqrt(settings.omega) - 1) / (math.sqrt(settings.omega) + 1)
    paired = iid_mixed_auc(rho, n, best["a"], best["c"])
    raw = float(ndtr(rho * math.sqrt(2 * n * linear["a"] * linear["c"])))
    nothing = (0.5, 0.5)
    linear_late = linear["type 5x"] + linear["type 20x"] - 2 * linear["type 5x"] * linear["type 20x"]
    linear_late /= 1 - linear["type 5x"] * linear["type 20x"]
    a, c = both(best["a"], linear["a"]), both(best["c"], linear["c"])
    return {
        "redundant": {
            "5x mean": both(best["type 5x"], linear["type 5x"]),
            "20x mean": both(best["type 20x"], linear["type 20x"]),
            "late fusion of means": both(late, linear_late),
            "cross-scale contrast": both(mixed, linear_late),
        },
        "coarse": {"5x mean": a, "20x mean": nothing, "late fusion of means": a, "cross-scale contrast": a},
        "fine": {"5x mean": nothing, "20x mean": c, "late fusion of means": c, "cross-scale contrast": c},
        "pairing": {arm: nothing for arm, _, _ in ARMS[:3]} | {"cross-scale contrast": (paired, raw)},
        "permuted": {arm: nothing for arm, _, _ in ARMS},
        "confounded": {arm: nothing for arm, _, _ in ARMS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = PanelSettings(n_slides=arguments.slides, model=FeatureModel(seed=arguments.seed), seed=arguments.seed)
    cohort = draw_cohort(settings)
    bags = draw_bags(cohort, instances=False, seed=arguments.seed)
    training = np.array(cohort.split) == "train"
    predicted = predictions(settings)
    print(
        f"{training.sum():,} training and {(~training).sum():,} test slides of {settings.n_regions} regions, "
        f"seed {settings.seed}"
    )
    print(f"{'label':<12} {'arm':<22} {'best':>5} {'mean':>6}   measured (95 % interval)")
    with threadpool_limits(1):
        for label, of_arm in predicted.items():
            outcome = Outcome.binary(cohort.labels[label], target=label)
            for arm, of, fit in ARMS:
                interval = _measure(
                    fit, [bags[one] for one in of], outcome, np.flatnonzero(training), np.flatnonzero(~training)
                )
                best, mean = of_arm[arm]
                print(f"{label:<12} {arm:<22} {best:5.3f} {mean:6.3f}   {_show(interval)}", flush=True)
        half = np.flatnonzero(training)
        outcome = Outcome.binary(cohort.labels["confounded"], target="confounded")
        seen = _measure(fit_mean, [bags["20x"]], outcome, half[::2], half[1::2])
        print(f"confounded, 20x mean, tested on slides with the same confounding: {_show(seen)}")


def _measure(fit, bags, outcome: Outcome, train: np.ndarray, test: np.ndarray):
    label = outcome.value > 0
    (fitted,) = fit(bags, outcome, [one_fold(label, train, test)], SETTINGS)
    return delong_interval(label[test], fitted.score(bags, test)[:, 0])


def _show(interval) -> str:
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"


if __name__ == "__main__":
    main()
