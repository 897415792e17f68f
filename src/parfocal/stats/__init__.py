"""Metrics, intervals and tests (part of step 10): numbers of folds, cases and targets in, small frozen results out.

Which one is right depends on the design, and using the wrong one is the usual mistake:

- one fixed test set: `delong_interval`, `delong_test`, `patient_bootstrap` (`patient_draws` for many arms);
- repeated cross-validation: `cross_validated`, and of that `auc_interval` or `concordance_interval`, `paired_test`,
  `detectable_difference`;
- several targets: `wilcoxon_signed_rank` over their means, `holm` over their p-values, `mean_over_targets`.

Whether a difference is shown is said by one rule, `verdict`, wherever it is said.
"""

from parfocal.stats.agreement import (
    CalibrationLine,
    ReliabilityBin,
    balanced_accuracy,
    brier_score,
    calibration_line,
    expected_calibration_error,
    explained_variance,
    quadratic_kappa,
    reliability_bins,
    spearman,
    wilson_interval,
)
from parfocal.stats.auc import (
    AucTest,
    RocCurve,
    auc,
    delong_covariance,
    delong_interval,
    delong_test,
    mean_roc,
    newcombe_interval,
    roc_curve,
    weighted_auc,
)
from parfocal.stats.bootstrap import PatientDraws, patient_bootstrap, patient_draws
from parfocal.stats.concordance import (
    PairTally,
    RankedPairs,
    concordance,
    ordered_pairs,
    tally_classes,
    tally_order,
    tally_times,
    time_pairs,
)
from parfocal.stats.cross_validated import (
    CrossValidated,
    FoldTest,
    TestedFold,
    auc_interval,
    concordance_interval,
    cross_validated,
    detectable_difference,
    paired_test,
    standard_error,
)
from parfocal.stats.interval import Interval, rule_of_three
from parfocal.stats.tasks import FEWEST_TARGETS, SignedRankTest, holm, mean_over_targets, wilcoxon_signed_rank
from parfocal.stats.verdict import Verdict, verdict

__all__ = [
    "FEWEST_TARGETS",
    "AucTest",
    "CalibrationLine",
    "CrossValidated",
    "FoldTest",
    "Interval",
    "PairTally",
    "PatientDraws",
    "RankedPairs",
    "ReliabilityBin",
    "RocCurve",
    "SignedRankTest",
    "TestedFold",
    "Verdict",
    "auc",
    "auc_interval",
    "balanced_accuracy",
    "brier_score",
    "calibration_line",
    "concordance",
    "concordance_interval",
    "cross_validated",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "detectable_difference",
    "expected_calibration_error",
    "explained_variance",
    "holm",
    "mean_over_targets",
    "mean_roc",
    "newcombe_interval",
    "ordered_pairs",
    "paired_test",
    "patient_bootstrap",
    "patient_draws",
    "quadratic_kappa",
    "reliability_bins",
    "roc_curve",
    "rule_of_three",
    "spearman",
    "standard_error",
    "tally_classes",
    "tally_order",
    "tally_times",
    "time_pairs",
    "verdict",
    "weighted_auc",
    "wilcoxon_signed_rank",
    "wilson_interval",
]
