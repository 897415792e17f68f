"""How few fine tiles are enough: the curve of AUC against the share that is read, on slides that were read whole.

In: a set of tile embeddings and labels. Out: for every policy and head a curve with intervals, the least budget that is
shown to lose nothing of note, and what each budget costs. Nothing here reads a slide.
"""

from parfocal.budget.result import BudgetResult, Curve, Point, WholeReader
from parfocal.budget.run import BudgetSettings, measure_budgets

__all__ = ["BudgetResult", "BudgetSettings", "Curve", "Point", "WholeReader", "measure_budgets"]
