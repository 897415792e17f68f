"""A cohort of tile embeddings whose answer is known, as features stand in a store; other examples start from it.

    python examples/cohort.py out

In `pairing` the label is known only to whoever sees which coarse tile lies over which fine tiles.
"""

import sys
from pathlib import Path

from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort


def draw(out: Path, n_slides: int = 16) -> Path:
    """Write the embeddings and `labels.csv` (slide, patient, pairing) below `out`, and return the folder of the set."""
    return write_cohort(draw_cohort(StratSettings(n_slides=n_slides, model=FeatureModel(dim=32))), out)


if __name__ == "__main__":
    print(draw(Path(sys.argv[1] if len(sys.argv) > 1 else "out")))
