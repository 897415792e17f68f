"""The whole chain from one file: what the file says, what it would cost, how its stages run, and what the page says."""

from parfocal.study.budgets import StudyBudgets, budget_study
from parfocal.study.plan import StudyPlan, plan_study
from parfocal.study.plan_tiles import TilesPlan
from parfocal.study.run import StudyResult, run_study
from parfocal.study.settings import Study, read_study

__all__ = [
    "Study",
    "StudyBudgets",
    "StudyPlan",
    "StudyResult",
    "TilesPlan",
    "budget_study",
    "plan_study",
    "read_study",
    "run_study",
]
