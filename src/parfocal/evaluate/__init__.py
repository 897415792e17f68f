"""Which arm predicts a label best: every arm on the same folds, its metrics, comparisons, files and page.

In: sets of embeddings and labels. `table_of_arms` says what is compared, `cross_validate` fits, `compare_arms`
measures, `write_evaluation` keeps the tables and one page.
"""

from parfocal.evaluate.arm import Arm
from parfocal.evaluate.arms import table_of_arms
from parfocal.evaluate.compare import across_targets, choose_primary, compare_arms
from parfocal.evaluate.files import write_evaluation
from parfocal.evaluate.fitting import cross_validate
from parfocal.evaluate.metric import METRICS, Metric, measure
from parfocal.evaluate.page import evaluation_page
from parfocal.evaluate.page_target import arm_results
from parfocal.evaluate.result import (
    AcrossTargets,
    ArmFits,
    ArmRun,
    Calibration,
    Comparison,
    EvaluateResult,
    ExternalRun,
    FailedArm,
    Subgroup,
    TargetComparison,
    TargetResult,
)
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.former import call_as

__all__ = [
    "METRICS",
    "AcrossTargets",
    "Arm",
    "ArmFits",
    "ArmRun",
    "Calibration",
    "Comparison",
    "EvaluateResult",
    "EvaluateSettings",
    "ExternalRun",
    "FailedArm",
    "Metric",
    "Subgroup",
    "TargetComparison",
    "TargetResult",
    "across_targets",
    "arm_results",
    "choose_primary",
    "compare_arms",
    "cross_validate",
    "evaluate_arms",
    "evaluation_page",
    "measure",
    "table_of_arms",
    "write_evaluation",
]

call_as(__name__, "evaluate")
