"""Before any training: does the pairing of magnifications within regions know anything about a label?

    python examples/does_pairing_help.py out

Two tests, the effect, what this cohort could have shown, and a page.
"""

import sys
from pathlib import Path

from cohort import draw
from parfocal.cohort import LabelColumns
from parfocal.lab.synergy.run import SynergySettings, measure_synergy


def main(out: Path) -> None:
    """Ask it of the drawn cohort, where the answer is yes."""
    store = draw(out / "tiles", n_slides=40)
    labels = out / "tiles" / "labels.csv"
    quick = SynergySettings(permutations=99)
    patients = LabelColumns(group="patient")
    result = measure_synergy(store, labels, "pairing", out / "synergy", quick, columns=patients)

    for line in result.answer:
        print(line)
    print(f"open {result.report}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
