"""Nadeau and Bengio's interval for repeated cross-validation, where nothing is known but a value of each fold.

A plain t test over folds takes each fold for a new experiment and finds differences everywhere. Nadeau and Bengio
(2003) correct the variance for the overlap of the training sets: with J values (folds x repeats),

    se^2 = (1/J + n_test/n_train) * variance of the J values,    J - 1 degrees of freedom.

It is a correction, not a proof, and where features say little it is too small: its 95 % interval holds the true AUC in
88 to 92 % of cohorts, and two equal arms differ at .05 in 8 to 13 % (docs/evaluate.md). With the scores of the held-out
patients at hand use `cross_validated`, which is what every report does.
"""

import numpy as np
from scipy import stats

from parfocal.stats.interval import Interval, Number, Numbers, finite_numbers

__all__ = ["nadeau_bengio_interval", "nadeau_bengio_se"]


def nadeau_bengio_se(values: Numbers, test_over_train: Number) -> float:
    """The standard error of the mean of `values`, one value for each fold of a repeated cross-validation.

    Args:
        values: one number for each fold and repeat, such as an AUC or a difference of two.
        test_over_train: number of test cases over number of training cases of a fold; .25 for five folds.

    Raises:
        ValueError: fewer than two values, one that is not finite, or a ratio that is not positive.
    """
    array = finite_numbers(values, "the corrected variance", at_least=2)
    if not test_over_train > 0:
        raise ValueError(f"test_over_train is the size of a test fold over its training set, got {test_over_train}")
    # Equal values leave 1e-17 of rounding, which would look like a very small but honest variance.
    variance = 0.0 if np.ptp(array) < 1e-12 else float(array.var(ddof=1))
    return float(np.sqrt((1 / len(array) + test_over_train) * variance))


def nadeau_bengio_interval(values: Numbers, test_over_train: Number, level: float = 0.95) -> Interval:
    """The mean of the folds with the corrected t interval.

    It is not clipped, and folds that all agree make it a point.

    Args:
        values: one number for each fold and repeat.
        test_over_train: number of test cases over number of training cases of a fold.
        level: the share of such intervals that hold the true value.
    """
    array = finite_numbers(values, "the corrected interval", at_least=2)
    reach = nadeau_bengio_se(array, test_over_train) * float(stats.t.ppf(0.5 + level / 2, len(array) - 1))
    mean = float(array.mean())
    return Interval(mean, mean - reach, mean + reach, level, "Nadeau-Bengio")
