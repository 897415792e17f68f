"""The parts of `explore`: from a design file to cells, runs, scores and a page.

`design` says what is run, `regroup` makes larger regions, `scoring` runs one cell,
`linear_r2` is the common measure, `run` places runs on devices, `summary`, `files` and `page` say what came out.
"""

from parfocal.lab.explore.design import (
    Cell,
    CellPlan,
    Design,
    plan_cells,
    read_design,
)
from parfocal.lab.explore.regroup import regroup_set, regroup_tokens
from parfocal.lab.explore.run import ExploreResult, ExploreSettings, explore_designs
from parfocal.lab.explore.scoring import Failure
from parfocal.lab.explore.summary import (
    CellSummary,
    Effect,
    Exploration,
    Gain,
    Spread,
)

__all__ = [
    "Cell",
    "CellPlan",
    "CellSummary",
    "Design",
    "Effect",
    "Exploration",
    "ExploreResult",
    "ExploreSettings",
    "Failure",
    "Gain",
    "Spread",
    "explore_designs",
    "plan_cells",
    "read_design",
    "regroup_set",
    "regroup_tokens",
]
