"""Fit the arm that a study has settled on, keep it as a calibrated head, and predict slides that nobody has labelled.

python examples/predict_new_slides.py out
"""

import csv
import sys
from pathlib import Path

from cohort import draw
from parfocal.heads import ProbeSettings
from parfocal.predict import FitSettings, fit_head, predict_slides


def main(out: Path) -> None:
    """Fit contrast on a drawn cohort, with few candidates to be quick, and apply it to another one."""
    store, new = draw(out / "tiles"), draw(out / "new", n_slides=8)
    settings = FitSettings(folds=2, repeats=1, probes=ProbeSettings(components=(8,), inner_folds=2, lifted=()))
    fit_head([store], out / "tiles" / "labels.csv", "pairing", "contrast", out / "head", settings)

    summary = predict_slides([new], out / "head", out / "predictions.csv")
    print(f"{len(summary.slides)} slides in {summary.out}")
    with (out / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            print(
                row["slide"], {name: value for name, value in row.items() if name.startswith("p_") or name == "outside"}
            )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
