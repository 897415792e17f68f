"""How few fine tiles are enough on the demo's rendered slides, where only pairing knows the label.

    python benchmarks/zoom_demo.py OUT
    python benchmarks/zoom_demo.py OUT --encoder efficientnet-lite0+grid2 --slides 96

Renders the cohort into OUT, embeds it whole at 5x and 20x from the slides' own levels, says whether the encoder can
read A (5x) and C (20x) at all, and compares budgets by `parfocal budget`: OUT/ENCODER/budget/report.html. What is done
already is kept.
"""

import argparse
from pathlib import Path

from parfocal.budget import BudgetSettings, measure_budgets
from parfocal.cohort import CohortColumns
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.lab.synthetic.readability import attribute_readability
from parfocal.lab.synthetic.rendered import RenderSettings, render_cohort
from parfocal.store import open_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", default="filterbank")
    parser.add_argument("--slides", type=int, default=96)
    parser.add_argument("--regions-per-side", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--policies", nargs="*", default=[], help="of the curves; all that are possible where none")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    how = RenderSettings(n_slides=arguments.slides, regions_per_side=arguments.regions_per_side)
    cohort = render_cohort(arguments.out / "cohort", how)
    out = arguments.out / arguments.encoder.replace(":", "-")
    settings = EmbedSettings(
        grid=GridConfig(mpps=(2.0, 0.5)),
        encoder=arguments.encoder,
        coarse="native",
        workers=arguments.workers,
        qc=False,
    )
    summary = embed_slides(cohort.slides, out / "store", settings)
    assert not summary.failed, summary.failed
    tiles = open_set(summary.set_path)
    for one in attribute_readability([tiles.read(slide) for slide in tiles.slides], cohort.design):
        print(one)
    found = measure_budgets(
        tiles,
        cohort.labels_csv,
        "pairing",
        out / "budget",
        BudgetSettings(policies=tuple(arguments.policies), repeats=arguments.repeats),
        columns=CohortColumns(group="patient"),
    )
    print("\n".join(found.sentences))
    print("| head | policy | budget | AUC | against the same head | lower bound |\n|---|---|---|---|---|---|")
    for curve in found.curves:
        for point in curve.points:
            against = point.against_whole
            cells = ("", "") if against is None else (f"{against.difference.estimate:+.3f}", f"{against.bound:+.3f}")
            print(
                f"| {curve.head.method} | {curve.policy} | {point.budget:.3f} | {point.auc.estimate:.3f} | "
                f"{' | '.join(cells)} |"
            )


if __name__ == "__main__":
    main()
