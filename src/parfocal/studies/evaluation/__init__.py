"""What an evaluation found: metrics of every kind of outcome, comparisons of arms, their files and their page.

In: what the fits of every arm said about slides they had not seen (`ArmFits`). Out: `TargetResult` for each target,
and with `write_evaluation` the tables and one page.
"""

from parfocal.studies.evaluation.compare import compare_arms
from parfocal.studies.evaluation.files import write_evaluation
from parfocal.studies.evaluation.metric import METRICS, Metric, measure
from parfocal.studies.evaluation.page import evaluation_page
from parfocal.studies.evaluation.page_target import arm_results
from parfocal.studies.evaluation.primary import across_targets, choose_primary
from parfocal.studies.evaluation.result import (
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

__all__ = [
    "METRICS",
    "AcrossTargets",
    "ArmFits",
    "ArmRun",
    "Calibration",
    "Comparison",
    "EvaluateResult",
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
    "evaluation_page",
    "measure",
    "write_evaluation",
]
