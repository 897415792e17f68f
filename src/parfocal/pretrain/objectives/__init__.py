"""What pretraining minimises: an `Objective` in a file of this folder is found by its name.

Another package's is found by its entry point in the group `parfocal.objectives`; `parfocal.testing.ObjectiveContract`
says what it must do.
"""

from parfocal.plugins import Registry
from parfocal.pretrain.objectives.objective import Objective

__all__ = ["OBJECTIVES", "Objective"]

OBJECTIVES: Registry[Objective] = Registry(Objective, "objective", "parfocal.pretrain.objectives")
