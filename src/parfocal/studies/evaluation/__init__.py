"""What an evaluation found, its comparisons, its files and its page."""

from parfocal.studies.evaluation.files import write_evaluation
from parfocal.studies.evaluation.page import arm_results, evaluation_page
from parfocal.studies.evaluation.result import ArmRun, EvaluateResult, TargetResult, compare_arms

__all__ = [
    "ArmRun",
    "EvaluateResult",
    "TargetResult",
    "arm_results",
    "compare_arms",
    "evaluation_page",
    "write_evaluation",
]
