"""Metrics, intervals and tests (part of step 10): numbers of folds, cases and targets in, small frozen results out.

Which one is right depends on the design, and using the wrong one is the usual mistake:

- one fixed test set: `delong_interval`, `delong_test`, `patient_bootstrap`;
- repeated cross-validation: `auc_interval`, `nadeau_bengio_test`, `detectable_difference`;
- several targets: `wilcoxon_signed_rank` over their means, `holm` over their p-values.
"""

from parfocal.report.statistics.auc import (
    AucTest,
    RocCurve,
    auc,
    delong_covariance,
    delong_interval,
    delong_test,
    hanley_mcneil_se,
    mean_roc,
    newcombe_interval,
    roc_curve,
)
from parfocal.report.statistics.bootstrap import bootstrap_auc_difference, patient_bootstrap
from parfocal.report.statistics.calibration import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    reliability_bins,
    wilson_interval,
)
from parfocal.report.statistics.interval import Interval
from parfocal.report.statistics.repeated import (
    FoldTest,
    auc_interval,
    detectable_difference,
    nadeau_bengio_interval,
    nadeau_bengio_se,
    nadeau_bengio_test,
    rule_of_three,
)
from parfocal.report.statistics.survival import Concordance, harrell_concordance
from parfocal.report.statistics.tasks import SignedRankTest, holm, wilcoxon_signed_rank

__all__ = [
    "AucTest",
    "Concordance",
    "FoldTest",
    "Interval",
    "ReliabilityBin",
    "RocCurve",
    "SignedRankTest",
    "auc",
    "auc_interval",
    "bootstrap_auc_difference",
    "brier_score",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "detectable_difference",
    "expected_calibration_error",
    "hanley_mcneil_se",
    "harrell_concordance",
    "holm",
    "mean_roc",
    "nadeau_bengio_interval",
    "nadeau_bengio_se",
    "nadeau_bengio_test",
    "newcombe_interval",
    "patient_bootstrap",
    "reliability_bins",
    "roc_curve",
    "rule_of_three",
    "wilcoxon_signed_rank",
    "wilson_interval",
]
