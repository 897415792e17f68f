"""Which magnification, mixture or pooling predicts a label best? All on the same patient-grouped folds.

    python examples/compare_arms.py out

Writes tables and one page, `report/report.html`.
"""

import sys
from pathlib import Path

from cohort import draw
from parfocal.cohort import CohortColumns
from parfocal.evaluate import EvaluateSettings, evaluate_arms
from parfocal.heads import ProbeSettings


def main(out: Path) -> None:
    """Few folds and short networks, to be quick; leave the settings out for a real cohort."""
    store = draw(out / "tiles")
    quick = EvaluateSettings(
        folds=2,
        repeats=1,
        probes=ProbeSettings(
            components=(8,), inner_folds=2, lifted=(), attention_steps=10, mlp_steps=10, bilinear_steps=10, growth=1
        ),
    )
    patients = CohortColumns(group="patient")
    result = evaluate_arms([store], out / "tiles" / "labels.csv", ["pairing"], out / "report", quick, columns=patients)

    for run in result.targets["pairing"].runs:
        print(f"AUC {run.interval.estimate:.2f} ({run.interval.low:.2f} to {run.interval.high:.2f})  {run.arm.id}")
    print(f"open {result.report}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
