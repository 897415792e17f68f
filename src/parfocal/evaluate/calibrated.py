"""Whether the probabilities of an arm mean what they say, on slides that the fit has not seen."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special

from parfocal.cohort import Cohort, Fold, Units
from parfocal.evaluate.result import Calibration
from parfocal.heads import FoldPrediction
from parfocal.stats import brier_score, calibration_line, expected_calibration_error, reliability_bins

__all__ = ["calibrate", "calibrate_folds"]


def calibrate(is_positive: Bool[np.ndarray, " unit"], log_odds: Float64[np.ndarray, " unit"]) -> Calibration | None:
    """The calibration on one set of units, each of which is there once; None where a class is missing."""
    if is_positive.all() or not is_positive.any():
        return None
    line, probability = calibration_line(is_positive, log_odds), special.expit(log_odds)
    return Calibration(
        slope=line.slope,
        intercept=line.intercept,
        expected_error=expected_calibration_error(is_positive, probability),
        brier=brier_score(is_positive, probability),
        bins=reliability_bins(is_positive, probability),
    )


def calibrate_folds(
    cohort: Cohort, folds: Sequence[Fold], joined: Sequence[Units], predictions: Sequence[FoldPrediction]
) -> Calibration | None:
    """The calibration over the folds of a cross-validation; None where there are not two classes.

    Probabilities, unlike scores, claim a common scale, so the folds of one repeat are put together: there every
    patient is tested once. The numbers are means over repeats; the curve is that of the first repeat, because in all
    repeats together a patient would count several times and the intervals of its points would be too short.
    """
    if cohort.outcome.kind != "binary":
        return None
    found = []
    for repeat in sorted({fold.repeat for fold in folds}):
        own = [place for place, fold in enumerate(folds) if fold.repeat == repeat]
        slides = np.concatenate([joined[place].slides for place in own])
        log_odds = np.concatenate([joined[place].mean(predictions[place].score)[:, 0] for place in own])
        found.append(calibrate(cohort.is_positive[slides], log_odds))
    measured = [one for one in found if one is not None]
    if not measured:
        return None
    slopes = np.array([one.slope for one in measured])
    return Calibration(
        slope=float(slopes.mean()),  # NaN where one repeat has none: a mean over the others would be of easier folds
        intercept=float(np.mean([one.intercept for one in measured])),
        expected_error=float(np.mean([one.expected_error for one in measured])),
        brier=float(np.mean([one.brier for one in measured])),
        bins=measured[0].bins,
    )
