"""What carries a label, by the explanation of a fitted head, where it is known from how the cohort was made.

    python benchmarks/explain_xscale.py
    python benchmarks/explain_xscale.py --arms union --labels coarse fine

Draws two XScale panels of one law, whose label `pairing` is in which regions have A (2 mpp) and C (0.5 mpp) together,
`coarse` in how many have A and `fine` in how many have C. A head of each label and arm is fitted on the first panel and
explained on the second. Prints for each magnification and pair its share of the differences between scores, and the AUC
that this part alone has for the label, with DeLong's 95 % intervals; then that of the score.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from parfocal.cohort import LabelColumns, Target
from parfocal.explain import explain_slides
from parfocal.explain.settings import ExplainSettings
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, fit_head
from parfocal.stats import delong_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=int, default=400, help="slides of the first panel")
    parser.add_argument("--test", type=int, default=400, help="slides of the second")
    parser.add_argument("--arms", nargs="+", default=["contrast"])
    parser.add_argument("--labels", nargs="+", default=["pairing", "coarse", "fine"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    law = PanelSettings(omega=3.0, product=False, model=FeatureModel(dim=32))
    draw = [(arguments.labelled, 2 * arguments.seed), (arguments.test, 2 * arguments.seed + 1)]
    cohorts = [draw_cohort(law.model_copy(update={"n_slides": n, "seed": seed})) for n, seed in draw]
    with TemporaryDirectory() as name:
        folder = Path(name)
        stores = [write_cohort(cohort, folder / f"{number}") for number, cohort in enumerate(cohorts)]
        print("| label | head | part | share of the differences | AUC of it alone |\n|---|---|---|---|---|")
        for label in arguments.labels:
            for arm in arguments.arms:
                head = folder / f"{label}-{arm}"
                how, columns = FitSettings(folds=3, repeats=1), LabelColumns(group="patient")
                fit_head([stores[0]], folder / "0" / "labels.csv", Target(name=label), arm, head, how, columns=columns)
                began = time.perf_counter()
                found = explain_slides(stores[1], head, folder / "why", ExplainSettings(maps=0, pictures=False))
                seconds = time.perf_counter() - began
                truth = cohorts[1].labels[label]
                rows = np.array([[*one.own[:, 0], *one.interaction[:, 0]] for one in found.explained])
                score = np.array([one.score[0] for one in found.explained])
                for part, values in zip(found.parts, rows.T, strict=True):
                    print(f"| {label} | {arm} | {part.name} | {part.share:.1%} | {shown(truth, values)} |")
                print(f"| {label} | {arm} | the score | | {shown(truth, score)} |", flush=True)
                print(f"({1000 * seconds / len(score):.0f} ms per slide)")


def shown(truth: np.ndarray, values: np.ndarray) -> str:
    found = delong_interval(truth, values)
    return f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"


if __name__ == "__main__":
    main()
