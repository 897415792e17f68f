"""The parts of `explore`: from a design file to cells, runs, scores and a page.

`axes` and `design` say what is run, `cells` what a cell is, `regroup` makes larger regions, `scoring` runs one cell,
`linear_r2` is the common measure, `running` places runs on devices, `summary`, `files` and `page` say what came out.
"""

from parfocal.studies.exploration.cells import Cell
from parfocal.studies.exploration.design import CellPlan, Design, plan_cells, read_design
from parfocal.studies.exploration.regroup import regroup_set, regroup_tokens
from parfocal.studies.exploration.scoring import Failure
from parfocal.studies.exploration.summary import CellSummary, Effect, Exploration, Gain, Spread

__all__ = [
    "Cell",
    "CellPlan",
    "CellSummary",
    "Design",
    "Effect",
    "Exploration",
    "Failure",
    "Gain",
    "Spread",
    "plan_cells",
    "read_design",
    "regroup_set",
    "regroup_tokens",
]
