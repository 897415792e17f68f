"""Step 8, the labels' half: which slide belongs to whom and has which label, and how slides are dealt to folds.

In: a CSV with a slide column, target columns and a group column. Out: a `Cohort` for one target, and `Splits` that
keep a group (a patient) together, can be saved, and can be read back.
"""

from parfocal.cohort.labels import Cohort, read_cohort
from parfocal.cohort.outcome import Column, Outcome, OutcomeKind
from parfocal.cohort.splits import Fold, Splits, deal_folds, make_splits, read_splits, write_splits
from parfocal.cohort.table import MISSING, read_table, some_of

__all__ = [
    "MISSING",
    "Cohort",
    "Column",
    "Fold",
    "Outcome",
    "OutcomeKind",
    "Splits",
    "deal_folds",
    "make_splits",
    "read_cohort",
    "read_splits",
    "read_table",
    "some_of",
    "write_splits",
]
