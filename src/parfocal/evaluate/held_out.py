"""What the folds of a cohort test, and everything that is measured of an arm there: by fits that had not seen it.

What counts are units, mostly patients: their slides' scores are averaged before (`parfocal.cohort.units`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special

from parfocal.cohort import Cohort, Fold, Outcome, OutcomeKind, Units, units
from parfocal.errors import ConfigError
from parfocal.evaluate.metric import METRICS, called_classes, can_be_measured, measure_beside, tally
from parfocal.evaluate.result import Calibration, ClassResult, Subgroup
from parfocal.heads import FoldPrediction
from parfocal.stats import (
    CrossValidated,
    Interval,
    PairTally,
    TestedFold,
    auc_interval,
    brier_score,
    calibration_line,
    concordance_interval,
    cross_validated,
    expected_calibration_error,
    reliability_bins,
    tally_classes,
)

Predictions = Sequence[FoldPrediction]
"""Of one arm, one for each fold."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The test sides of all folds.

    Attributes:
        cohort: labels, groups, and sites where these are kept apart.
        folds: all of them.
        units: what each of them tests.
        measured: the places of the folds whose labels can be put in order.
        test_over_train: size of a test fold over its training set.
    """

    cohort: Cohort
    folds: Sequence[Fold]
    units: tuple[Units, ...]
    measured: tuple[int, ...]
    test_over_train: float

    @classmethod
    def of(cls, cohort: Cohort, folds: Sequence[Fold]) -> "HeldOut":
        """Those of a cohort.

        Raises:
            ConfigError: fewer than two folds can be measured.
        """
        joined = tuple(units(cohort, fold.test) for fold in folds)
        measured = tuple(n for n, one in enumerate(joined) if can_be_measured(cohort.outcome.of(one.slides)))
        if len(measured) < 2:
            both = "of both classes" if cohort.outcome.kind == "binary" else "whose labels differ"
            raise ConfigError(
                f"only {len(measured)} of {len(folds)} folds of {cohort.target!r} test slides {both}; an interval "
                "needs two folds that do. Use fewer folds."
            )
        ratio = float(np.mean([len(fold.test) / len(fold.train) for fold in folds]))
        return cls(cohort, folds, joined, measured, ratio)

    @property
    def note(self) -> str:
        """How many folds have no number, in a sentence; empty where all have one."""
        n, of, target, kind = len(self.folds) - len(self.measured), len(self.folds), self.cohort.target, self._kind
        if not n:
            return ""
        why = {
            "survival": "no two slides of which one is known to come first, and are left out",
            "continuous": "one value only and are left out",
        }
        return (
            f"{n} of {of} folds of {target!r} test {why.get(kind, f'one class only and have no {METRICS[kind].name}')}."
        )

    def over_folds(
        self,
        predictions: Predictions,
        places: Sequence[int] | None = None,
        inside: Bool[np.ndarray, " slide"] | None = None,
        tally_fold: Callable[[Outcome, Float64[np.ndarray, "unit column"]], tuple[PairTally, ...]] = tally,
    ) -> CrossValidated:
        """One arm over the folds that can be measured.

        Args:
            predictions: of the arm.
            places: other folds than those.
            inside: whether a slide counts; all where None.
            tally_fold: what is counted; the metric of the outcome's kind where nothing else is named.
        """
        patient, tested = self.cohort.group_numbers(), []
        for place in self.measured if places is None else places:
            slides, score = self.units[place].slides, self._score(predictions, place)
            if inside is not None:
                slides, score = slides[inside[slides]], score[inside[slides]]
            tallies = tally_fold(self.cohort.outcome.of(slides), score)
            tested.append(TestedFold(self.folds[place].repeat, patient[slides], tallies))
        return cross_validated(tested, self.test_over_train, self._sites(patient))

    def interval(self, found: CrossValidated, inside: Bool[np.ndarray, " slide"] | None = None) -> Interval:
        """The interval for the cohort's kind of outcome, by the patients of some slides (all where None)."""
        if self._kind != "binary":
            return concordance_interval(found, n_patients=self.fewest_patients(inside))
        n_positive, n_negative = self._patients_of_classes(inside)
        return auc_interval(found, n_positive=n_positive, n_negative=n_negative)

    def fewest_patients(self, inside: Bool[np.ndarray, " slide"] | None = None) -> int:
        """How many patients carry the evidence: of the smaller class, with an event, or all of them."""
        if self._kind == "binary":
            return min(self._patients_of_classes(inside))
        if self._kind == "survival":
            return max(self._patients(self.cohort.outcome.event, inside), 1)
        return self._patients(np.ones(len(self.cohort.slides), dtype=bool), inside)

    def fold_values(self, found: CrossValidated) -> Float64[np.ndarray, " fold"]:
        """The metric of each fold, NaN where it has none."""
        value = np.full(len(self.folds), np.nan)
        value[list(self.measured)] = found.value
        return value

    def beside(self, predictions: Predictions) -> dict[str, float]:
        """The second numbers, each averaged over the folds where it has a value."""
        outcome = self.cohort.outcome
        of_folds = [
            measure_beside(
                outcome.of(self.units[place].slides),
                self._score(predictions, place),
                baseline=float(outcome.value[self.folds[place].train].mean()),
            )
            for place in self.measured
        ]
        result = {}
        for name in METRICS[outcome.kind].second:
            values = np.array([one[name] for one in of_folds])
            result[name] = float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
        return result

    def calibration(self, predictions: Predictions) -> Calibration | None:
        """The calibration over the folds; None where there are not two classes.

        Probabilities, unlike scores, claim a common scale, so the folds of one repeat are put together: there every
        patient is tested once. The numbers are means over repeats; the curve is that of the first repeat, because in
        all repeats together a patient would count several times and the intervals of its points would be too short.
        """
        if self._kind != "binary":
            return None
        of_repeats = []
        for repeat in sorted({fold.repeat for fold in self.folds}):
            places = [place for place, fold in enumerate(self.folds) if fold.repeat == repeat]
            slides = np.concatenate([self.units[place].slides for place in places])
            log_odds = np.concatenate([self._score(predictions, place)[:, 0] for place in places])
            of_repeats.append(calibrate(self.cohort.is_positive[slides], log_odds))
        known = [one for one in of_repeats if one is not None]
        if not known:
            return None

        def mean(name: str) -> float:
            return float(np.mean([getattr(one, name) for one in known]))

        # The slope is NaN where one repeat has none: a mean over the others would be of easier folds.
        return Calibration(mean("slope"), mean("intercept"), mean("expected_error"), mean("brier"), known[0].bins)

    def classes(self, predictions: Predictions) -> tuple[ClassResult, ...]:
        """The AUC of each class's own score against all others, fold by fold; none where classes are not several.

        Ordered classes have no score of their own: theirs say whether a patient lies above a class.
        """
        if self._kind != "multiclass":
            return ()
        results = []
        for number, name in enumerate(self.cohort.outcome.classes):
            has_it = self.cohort.outcome.value == number
            places = [n for n, one in enumerate(self.units) if 0 < int(has_it[one.slides].sum()) < len(one.slides)]
            n_class, n_rest = self._patients(has_it), self._patients(~has_it)
            interval = None
            if len(places) > 1:
                found = self.over_folds(predictions, places, tally_fold=partial(_one_class, number))
                interval = auc_interval(found, n_positive=n_class, n_negative=n_rest)
            results.append(ClassResult(name, n_class, len(places), interval))
        return tuple(results)

    def confusion(self, predictions: Predictions) -> Float64[np.ndarray, "label called"] | None:
        """How many patients of each class are called which; None where there are not several classes.

        In every repeat each patient is tested once (twice where its slides have two labels); the counts are means over
        the repeats, so that a row adds up to the patients of its class.
        """
        outcome = self.cohort.outcome
        if outcome.kind not in ("multiclass", "ordinal"):
            return None
        counts = np.zeros((len(outcome.classes), len(outcome.classes)))
        for place, one in enumerate(self.units):
            called = called_classes(outcome, self._score(predictions, place))
            np.add.at(counts, (outcome.value[one.slides].astype(np.int64), called), 1)
        return counts / len({fold.repeat for fold in self.folds})

    def subgroups(self, arms: Sequence[Predictions]) -> tuple[Subgroup, ...]:
        """Every arm inside each value of each column, fold by fold; the fits are the same as for all patients."""
        return tuple(
            self._subgroup(arms, column, value)
            for column, texts in self.cohort.by.items()
            for value in sorted(set(texts))
        )

    def _subgroup(self, arms: Sequence[Predictions], column: str, value: str) -> Subgroup:
        inside = np.array([text == value for text in self.cohort.by[column]], dtype=bool)
        places = [
            n for n, one in enumerate(self.units)
            if can_be_measured(self.cohort.outcome.of(one.slides[inside[one.slides]]))
        ]  # fmt: skip
        intervals: list[Interval | None] = [None] * len(arms)
        note = ""
        if len(places) < 2:
            what = self.cohort.worded("no two patients whose labels can be put in order")
            note = f"too small: {len(places)} of {len(self.units)} folds could be measured, the others test {what}"
        else:
            intervals = [self.interval(self.over_folds(one, places, inside), inside) for one in arms]
        n_slides, shown = int(inside.sum()), value or "(missing)"
        return Subgroup(column, shown, n_slides, self._patients(inside), len(places), tuple(intervals), note)

    @property
    def _kind(self) -> OutcomeKind:
        return self.cohort.outcome.kind

    def _score(self, predictions: Predictions, place: int) -> Float64[np.ndarray, "unit column"]:
        return self.units[place].mean(predictions[place].score)

    def _patients(self, picked: Bool[np.ndarray, " slide"], inside: Bool[np.ndarray, " slide"] | None = None) -> int:
        """How many patients have one of the picked slides."""
        return len(np.unique(self.cohort.group_numbers()[picked if inside is None else picked & inside]))

    def _patients_of_classes(self, inside: Bool[np.ndarray, " slide"] | None) -> tuple[int, int]:
        is_positive = self.cohort.is_positive
        return self._patients(is_positive, inside), self._patients(~is_positive, inside)

    def _sites(self, patient: Int64[np.ndarray, " slide"]) -> Int64[np.ndarray, " patient"] | None:
        """The site of each patient, all of whose slides come from one."""
        if self.cohort.sites is None:
            return None
        site = np.zeros(int(patient.max()) + 1, dtype=np.int64)
        site[patient] = np.unique(np.array(self.cohort.sites), return_inverse=True)[1].reshape(-1)
        return site


def calibrate(is_positive: Bool[np.ndarray, " unit"], log_odds: Float64[np.ndarray, " unit"]) -> Calibration | None:
    """Whether probabilities mean what they say, on units each of which is there once; None where a class is missing."""
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


def _one_class(number: int, outcome: Outcome, score: Float64[np.ndarray, "unit column"]) -> tuple[PairTally, ...]:
    return (tally_classes(outcome.value == number, score[:, number]),)
