"""Heads in use: are probabilities of new slides calibrated, and is another encoder refused?

    python benchmarks/predict_demo.py OUT [--slides 48] [--worlds 3] [--others SLIDE ...]

Rendered: a cohort of the demo's kind is rendered and embedded with the filter bank; a head of cross-scale contrast for
`pairing` and one of gated attention at 20x for `gland_type` are fitted; another cohort, of another seed, is predicted.
Graded: the same in feature space (XScale-strat), where the label cannot be read without errors, with 200 slides for the
fit and 400 new ones, in several worlds. `--others` are slides of another origin, to see whether they are told apart.
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from scipy import special
from threadpoolctl import threadpool_limits

from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import MismatchError
from parfocal.lab.synthetic.rendered import RenderSettings, render_cohort
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort, write_cohort
from parfocal.predict import Head, PredictSummary, fit_head, predict_slides
from parfocal.stats import brier_score, calibration_line, delong_interval, expected_calibration_error

PATIENTS = LabelColumns(group="patient")
OTHER_ENCODER = '''
def colours(tiles):
    """Mean colour of a tile."""
    return tiles.astype("float32").mean((1, 2))
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slides", type=int, default=48, help="rendered slides of each cohort")
    parser.add_argument("--worlds", type=int, default=3, help="graded cohorts in feature space")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    out: Path = arguments.out
    with threadpool_limits(1):
        rendered(out, arguments.slides, arguments.workers, arguments.others)
        for world in range(arguments.worlds):
            graded(out, world)
    return 0


def rendered(out: Path, n_slides: int, workers: int, others: list[Path]) -> None:
    for name, seed in (("train", 0), ("new", 1)):
        settings = RenderSettings(n_slides=n_slides, seed=seed)
        render_cohort(out / name, settings, workers=workers)
    embedding = EmbedSettings(encoder="filterbank", workers=workers)
    embed_slides([out / "train" / "slides"], out / "train" / "store", embedding)
    for arm, target in (("contrast", "pairing"), ("0.5/gated-attention", "gland_type")):
        labels, folder = out / "train" / "labels.csv", out / f"head-{target}"
        head = fit_head([out / "train" / "store"], labels, target, arm, folder, columns=PATIENTS)
        summary = predict_slides([out / "new" / "slides"], folder, out / f"{target}.csv", store=out / "new" / "store")
        show(head, summary, out / "new" / "labels.csv", target)
        if others:
            strange = predict_slides(others, folder, out / f"{target}-others.csv", store=out / "others")
            for one in strange.predicted:
                print(
                    f"  {one.slide}: probability {one.probability[1]:.2f}, outside {one.is_outside}, distance "
                    f"{one.distance.value:.1f} (cut {head.habits.limit.cut:.1f}, {one.distance.furthest}), "
                    f"absent {one.absent_overall:.2f}"
                )
    (out / "other.py").write_text(OTHER_ENCODER)
    other = EmbedSettings(encoder=f"python:{out / 'other.py'}:colours")
    embed_slides([out / "new" / "slides" / "slide-001.tif"], out / "other", other)
    try:
        predict_slides([out / "other"], out / "head-pairing", out / "refused.csv")
    except MismatchError as error:
        print(f"refused: {error}")


def graded(out: Path, world: int) -> None:
    folder = out / f"world-{world}"
    for name, n_slides, seed in (("train", 200, 2 * world), ("new", 400, 2 * world + 1)):
        write_cohort(draw_cohort(StratSettings(n_slides=n_slides, seed=seed)), folder / name)
    labels = folder / "train" / "labels.csv"
    head = fit_head([folder / "train"], labels, "pairing", "contrast", folder / "head", columns=PATIENTS)
    summary = predict_slides([folder / "new"], folder / "head", folder / "new.csv")
    show(head, summary, folder / "new" / "labels.csv", "pairing")
    for name in ("train", "new"):
        shutil.rmtree(folder / name)  # half a gigabyte each world


def show(head: Head, summary: PredictSummary, labels: Path, target: str) -> None:
    """What was promised, and what came of it on new slides."""
    with labels.open(newline="") as file:
        truth = {row["slide"]: row[target] == head.facts.classes[1] for row in csv.DictReader(file)}
    probability = np.array([one.probability[1] for one in summary.predicted])
    is_positive = np.array([truth[one.slide] for one in summary.predicted])
    metric, line = head.facts.metric, calibration_line(is_positive, special.logit(probability))
    auc = delong_interval(is_positive, probability)
    outside = sum(one.is_outside for one in summary.predicted)
    print(f"{target}, {head.facts.arm_label}, {head.facts.trained_on.slides} slides; {len(probability)} new ones")
    print(f"  out of fold: {metric.name} {metric.estimate:.3f} ({metric.low:.3f} to {metric.high:.3f})")
    print(f"  new slides:  AUC {auc.estimate:.3f} ({auc.low:.3f} to {auc.high:.3f})")
    print(
        f"  positive: expected {probability.sum():.1f}, observed {is_positive.sum()}; "
        f"Brier {brier_score(is_positive, probability):.4f}, slope {line.slope:.2f}, intercept {line.intercept:+.2f}, "
        f"expected calibration error {expected_calibration_error(is_positive, probability):.3f}"
    )
    print(
        f"  least probability of a positive {probability[is_positive].min():.2f}, "
        f"greatest of a negative {probability[~is_positive].max():.2f}; outside: {outside} of {len(probability)}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
