"""Step 8, the labels' half: which slide belongs to whom and has which label, and how slides are dealt to folds.

In: a CSV or a workbook with a slide column, target columns and a group column. Out: a `Cohort` for one target, of two
classes, several, ordered ones, a number or a time; and `Splits` that keep a group (a patient) together, can be saved,
and can be read back.
"""

from parfocal.cohort.classes import MOST_CLASSES, outcome_of
from parfocal.cohort.labels import (
    Cohort,
    cohort_of,
    read_cohort,
    read_test_cohort,
)
from parfocal.cohort.matching import ids_of_slides
from parfocal.cohort.outcome import Column, Outcome, OutcomeKind, strata
from parfocal.cohort.reading import LabelledSlides, one_site_each, read_groups, read_labels
from parfocal.cohort.settings import AskedKind, CohortColumns, CountedBy, LabelColumns, Target, TargetSettings
from parfocal.cohort.splits import (
    Fold,
    Scheme,
    Splits,
    deal_folds,
    make_splits,
    read_splits,
    whole_fold,
    write_splits,
)
from parfocal.cohort.units import Units, units
from parfocal.cohort.words import (
    MISSING,
    class_name,
    number_of,
    number_then_name,
    show_words,
)

__all__ = [
    "MISSING",
    "MOST_CLASSES",
    "AskedKind",
    "Cohort",
    "CohortColumns",
    "Column",
    "CountedBy",
    "Fold",
    "LabelColumns",
    "LabelledSlides",
    "Outcome",
    "OutcomeKind",
    "Scheme",
    "Splits",
    "Target",
    "TargetSettings",
    "Units",
    "class_name",
    "cohort_of",
    "deal_folds",
    "ids_of_slides",
    "make_splits",
    "number_of",
    "number_then_name",
    "one_site_each",
    "outcome_of",
    "read_cohort",
    "read_groups",
    "read_labels",
    "read_splits",
    "read_test_cohort",
    "show_words",
    "strata",
    "units",
    "whole_fold",
    "write_splits",
]
