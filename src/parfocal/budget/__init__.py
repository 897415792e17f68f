"""How few fine tiles are enough: the curve of AUC against the share that is read, on slides that were read whole.

In: a set of tile embeddings and labels. Out: for every policy and head a curve with intervals, the least budget that is
shown to lose nothing of note, and what each budget costs. No slide is read but those whose seconds are asked for.
"""

from parfocal.budget.result import BudgetResult, Curve, Point, Seconds, WholeReader
from parfocal.budget.run import measure_budgets
from parfocal.budget.settings import BudgetChoices, BudgetSettings

__all__ = [
    "BudgetChoices",
    "BudgetResult",
    "BudgetSettings",
    "Curve",
    "Point",
    "Seconds",
    "WholeReader",
    "measure_budgets",
]
