"""Intervals and tests for repeated cross-validation: what the patients vary, and what the fits add to it.

What is estimated is the mean, over cohorts of this size, of the metric that fits on a fold's training patients reach on
a large new population. The mean over folds varies around it for two reasons.

- *Other patients to be scored.* Every patient pulls the mean by the pairs that it wins and loses (its influence); the
  pulls of a patient in all repeats are added, and the sum of their squares is the variance that the same fits would
  have on other patients (DeLong's, where the metric is an AUC).
- *Other patients to be fitted on.* Two patients in different folds act on one another twice, each as a training case of
  the other, and fixed scores show one of the two. Repeats show how much that is: whether two patients are in different
  folds is drawn anew in each, with probability (k - 1)/k, so that to second order this half is (k - 1)/2 times the
  variance between repeats. What is beyond the second order, and the repeats' own mean, are put at half a variance
  between repeats and at one over their number: k/2 + 1/repeats together.

Few repeats have no variance to speak of: below four the variance over patients is taken 2.5 times. It doubles where
features say nothing, since both halves are then equal, and rarely more. docs/evaluate.md has the measured coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64
from scipy import optimize, special, stats

from parfocal.stats.auc import newcombe_interval
from parfocal.stats.concordance import PairTally
from parfocal.stats.interval import Interval, Number, rule_of_three

_ENOUGH_REPEATS = 4
_FEW_REPEATS = 2.5  # times the variance over patients
_LONG_STEP = 2.5  # logits: from .5 to .92, which forty patients hardly ever need below an AUC of .8
# Midpoints of equal slices of probability: the power is exact to four digits, one degree of freedom included.
_CHI_POINTS = 4096
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class TestedFold:
    """What one fold says.

    Attributes:
        repeat: which deal of the folds it belongs to.
        patient: the number of each case's patient.
        tallies: the pairs that each case wins; several where the metric is a mean, such as one for each class.
    """

    __test__ = False  # not a test of pytest

    repeat: int
    patient: Int64[np.ndarray, " case"]
    tallies: tuple[PairTally, ...]


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """A metric over the folds of a repeated cross-validation, and how far each patient moves its mean.

    Attributes:
        value: of each fold.
        repeat: which deal of the folds each belongs to.
        pull: what the mean would change, in proportion, if a patient counted a little more; of each that was tested.
        test_over_train: number of test cases over number of training cases of a fold.
        site: of each patient, where whole sites are kept apart: patients of a site may rise and fall together.
    """

    value: Float64[np.ndarray, " fold"]
    repeat: Int64[np.ndarray, " fold"]
    pull: Float64[np.ndarray, " patient"]
    test_over_train: float
    site: Int64[np.ndarray, " patient"] | None = None

    @property
    def mean(self) -> float:
        """The mean over folds."""
        return float(self.value.mean())

    def minus(self, other: "CrossValidated") -> "CrossValidated":
        """The difference of two arms that were tested on the same folds.

        Raises:
            ValueError: the folds or the patients are not the same ones.
        """
        if len(self.value) != len(other.value) or len(self.pull) != len(other.pull):
            raise ValueError(
                f"a paired test needs the same folds and patients in both arms, got {len(self.value)} and "
                f"{len(other.value)} folds of {len(self.pull)} and {len(other.pull)} patients"
            )
        return CrossValidated(
            self.value - other.value, self.repeat, self.pull - other.pull, self.test_over_train, self.site
        )


def cross_validated(
    folds: Sequence[TestedFold], test_over_train: Number, site: Int64[np.ndarray, " patient"] | None = None
) -> CrossValidated:
    """Put folds together.

    A case pulls by its wins less those that the mean over all folds would expect, not those of its own fold: a fold of
    two cases would have no variance otherwise.

    Args:
        folds: each with some pair; patients whom none of them tests are left out.
        test_over_train: number of test cases over number of training cases of a fold.
        site: of every patient by its number, where whole sites are kept apart.

    Raises:
        ValueError: fewer than two folds, one without a pair, or a ratio that is not positive.
    """
    if len(folds) < 2:
        raise ValueError(f"an interval over folds needs at least two, got {len(folds)}")
    if not test_over_train > 0:
        raise ValueError(f"test_over_train is the size of a test fold over its training set, got {test_over_train}")
    shares = np.array([[one.share for one in fold.tallies] for fold in folds])  # (fold, tally), NaN without a pair
    if np.isnan(shares).all(axis=1).any():
        raise ValueError("a fold without a pair has no value; leave it out, and count it")
    known = ~np.isnan(shares)
    centre = np.where(known, shares, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    tested = np.unique(np.concatenate([fold.patient for fold in folds]))
    pull = np.zeros(len(tested))
    for fold, there in zip(folds, known, strict=True):
        own = [one.excess(middle) for one, middle, ok in zip(fold.tallies, centre, there, strict=True) if ok]
        np.add.at(pull, np.searchsorted(tested, fold.patient), np.mean(own, axis=0) / len(folds))
    repeat = np.array([fold.repeat for fold in folds])
    of_tested = None if site is None else np.unique(site[tested], return_inverse=True)[1].reshape(-1)
    return CrossValidated(np.nanmean(shares, axis=1), repeat, pull, float(test_over_train), of_tested)


def standard_error(found: CrossValidated, n_patients: int) -> tuple[float, float]:
    """The standard error of the mean over folds, and its degrees of freedom (Satterthwaite).

    Args:
        found: the folds.
        n_patients: how many patients carry the evidence: of the smaller class, or with an event.
    """
    variance, degrees = _of_blocks(found.pull, n_patients)
    if found.site is not None and found.site.max() > 0:
        of_site = np.bincount(found.site, found.pull)
        variance, degrees = max((variance, degrees), _of_blocks(of_site, len(of_site)))
    repeats = np.unique(found.repeat)
    if len(repeats) < _ENOUGH_REPEATS:
        return float(np.sqrt(_FEW_REPEATS * variance)), degrees
    folds = 1 + 1 / found.test_over_train
    means = np.array([found.value[found.repeat == one].mean() for one in repeats])
    of_fits = (folds / 2 + 1 / len(repeats)) * float(means.var(ddof=1))
    total = variance + of_fits
    if total <= _ROUNDING**2:
        return 0.0, degrees
    return float(np.sqrt(total)), total**2 / (variance**2 / degrees + of_fits**2 / (len(repeats) - 1))


def _of_blocks(pull: Float64[np.ndarray, " block"], n: int) -> tuple[float, float]:
    """The variance that blocks make by their pulls, and its degrees of freedom: few where a few have most of it."""
    squares = pull**2
    total = float(squares.sum())
    if total <= _ROUNDING**2:
        return 0.0, 1.0
    # The variance of a sum of squares from the squares themselves; n - 1 for pulls as even as normal ones or more.
    uneven = float((squares**2).sum()) / total**2 - 1 / len(pull)
    most = max(len(pull) - 1.0, 1.0)
    degrees = most if uneven <= 2 / most else max(2 / uneven, 1.0)
    return total * (n / (n - 1) if n > 1 else 2.0), degrees


def auc_interval(found: CrossValidated, *, n_positive: int, n_negative: int, level: float = 0.95) -> Interval:
    """The mean AUC over folds with its interval, on the logit scale so that it stays inside 0 to 1.

    Where every fold reads 1.00 nothing varies, as if 24 patients had shown that no patient can ever be ranked wrongly.
    So on each side the interval reaches at least as far as Newcombe's for the same AUC on all patients, each tested
    once.

    Args:
        found: the AUC of each fold; folds with one class are left out by the caller, and counted.
        n_positive: number of distinct positive patients.
        n_negative: number of distinct negative patients.
        level: the share of such intervals that hold the true value.
    """
    own = _logit_interval(found, min(n_positive, n_negative), (n_positive, n_negative), level)
    floor = newcombe_interval(own.estimate, n_positive, n_negative, level)
    widened = floor.low < own.low - 1e-9 or floor.high > own.high + 1e-9
    method = f"{own.method}, widened to Newcombe" if widened else own.method
    return Interval(own.estimate, min(own.low, floor.low), max(own.high, floor.high), level, method)


def concordance_interval(found: CrossValidated, *, n_patients: int, level: float = 0.95) -> Interval:
    """The mean over folds of a concordance between 0 and 1 with its interval, on the logit scale.

    There is no Newcombe interval for labels of more than two values, so nothing widens it but one case: where nothing
    varies it reaches as far as the rule of three lets it.

    Args:
        found: the concordance of each fold.
        n_patients: number of distinct patients; with censored times, of those whose event was seen.
        level: the share of such intervals that hold the true value.
    """
    own = _logit_interval(found, n_patients, (n_patients / 2, n_patients / 2), level)
    if own.half_width > 0:
        return own
    room = rule_of_three(n_patients, level)
    mean = float(own.estimate)
    return Interval(mean, max(mean - room, 0.0), min(mean + room, 1.0), level, "rule of three")


def _logit_interval(found: CrossValidated, fewest: int, counted: tuple[Number, Number], level: float) -> Interval:
    """The interval on the logit scale, where that says something.

    Near 1 one patient may have nearly all of the variance, with the quantile of one degree of freedom, and on the logit
    scale it then reaches from 0 to 1. So a very long step reaches no further than Newcombe's interval does for patients
    of whom 2.5 times as many would be needed; where whole sites are kept apart patients count for less, and it may.

    Args:
        found: the metric of each fold.
        fewest: how many patients carry the evidence.
        counted: the patients of the two sides of a pair; half of them each where there are not two classes.
        level: the share of such intervals that hold the true value.
    """
    mean = min(max(found.mean, 0.0), 1.0)
    se, degrees = standard_error(found, fewest)
    method = f"{_method(found)}, logit scale"
    if se == 0 or not _ROUNDING < mean < 1 - _ROUNDING:
        return Interval(mean, mean, mean, level, method)
    step = float(stats.t.ppf(0.5 + level / 2, degrees)) * se / (mean * (1 - mean))
    low, high = special.expit(special.logit(mean) - step), special.expit(special.logit(mean) + step)
    if step > _LONG_STEP and (found.site is None or found.site.max() == 0):
        n_positive, n_negative = counted
        most = newcombe_interval(mean, n_positive / _FEW_REPEATS, n_negative / _FEW_REPEATS, level)
        low, high = max(low, most.low), min(high, most.high)
    return Interval(mean, min(float(low), mean), max(float(high), mean), level, method)


def _method(found: CrossValidated) -> str:
    enough = len(np.unique(found.repeat)) >= _ENOUGH_REPEATS
    return "patients and fits" if enough else f"patients, {_FEW_REPEATS:g} times their variance"


@dataclass(frozen=True)
class FoldTest:
    """The mean difference of two arms over the same folds, and the t test of no difference."""

    difference: Interval
    t: float
    degrees_of_freedom: float
    p_value: float


def paired_test(first: CrossValidated, second: CrossValidated, *, n_patients: int, level: float = 0.95) -> FoldTest:
    """The paired two-sided test of two arms over the same folds.

    Where nothing varies the p-value is 1 for no difference. For a difference that is not zero there is no fair p-value
    (a variance of nothing was measured): it is NaN. The interval is then the rule of three's: m patients none of whom
    was ranked differently leave room for a share 1 - ((1 - level)/2)^(1/m) who would be.

    Args:
        first: an arm.
        second: another one on the same folds.
        n_patients: how many patients carry the evidence: of the smaller class, or with an event.
        level: the share of such intervals that hold the true difference.
    """
    found = first.minus(second)
    se, degrees = standard_error(found, n_patients)
    mean = found.mean
    if se > 0:
        reach = float(stats.t.ppf(0.5 + level / 2, degrees)) * se
        interval = Interval(mean, max(mean - reach, -1.0), min(mean + reach, 1.0), level, _method(found))
        return FoldTest(interval, mean / se, degrees, float(2 * stats.t.sf(abs(mean / se), degrees)))
    room = rule_of_three(n_patients, level)
    interval = Interval(mean, max(mean - room, -1.0), min(mean + room, 1.0), level, "rule of three")
    same = abs(mean) < _ROUNDING
    return FoldTest(interval, 0.0 if same else float("nan"), degrees, 1.0 if same else float("nan"))


def detectable_difference(
    differences: CrossValidated, *, n_patients: int, power: float = 0.8, level: float = 0.95
) -> float:
    """The true difference that this cohort would have shown with the given power, whatever it did show.

    "Shown" means that `paired_test` rejects at 1 - level. The power at a difference is that of a noncentral t whose
    standard error is the one measured here. NaN where nothing varies: then nothing is known about the spread.

    Args:
        differences: arm minus arm.
        n_patients: how many patients carry the evidence.
        power: the wanted chance to see it, between 1 - level and 1.
        level: one minus the size of the test.
    """
    if not 1 - level < power < 1:
        raise ValueError(f"power lies between the size of the test, {1 - level:g}, and 1, got {power}")
    se, degrees = standard_error(differences, n_patients)
    if se == 0:
        return float("nan")
    critical = float(stats.t.ppf(0.5 + level / 2, degrees))

    # The noncentral t as a normal over an independent chi, averaged over the chi's quantiles: scipy's own gives NaN for
    # one degree of freedom.
    threshold = critical * _chi_over_its_degrees(degrees)

    def missing(noncentrality: float) -> float:
        shown = special.ndtr(noncentrality - threshold) + special.ndtr(-threshold - noncentrality)
        return float(shown.mean() - power)

    reach = critical + float(stats.norm.ppf(power)) + 1
    while missing(reach) < 0:
        reach *= 1.5
    return se * float(optimize.brentq(missing, 1e-6, reach, xtol=1e-6))


@lru_cache(maxsize=16)  # the arms of one comparison mostly have as many
def _chi_over_its_degrees(degrees: float) -> Float64[np.ndarray, " slice"]:
    """The quantiles of a chi in the middle of equal slices of probability, over the root of its degrees of freedom."""
    quantiles = (np.arange(_CHI_POINTS) + 0.5) / _CHI_POINTS
    return np.asarray(np.sqrt(stats.chi2.ppf(quantiles, degrees) / degrees))
