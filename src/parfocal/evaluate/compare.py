"""Arms that were fitted on the same folds become results: metrics, intervals, and the paired comparisons."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.cohort import Cohort, Fold, Splits, Units, units
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.arm import Arm, arm_label
from parfocal.evaluate.by_class import confusion_matrix, measure_classes
from parfocal.evaluate.calibrated import calibrate_folds
from parfocal.evaluate.external import compare_externally
from parfocal.evaluate.metric import (
    METRICS,
    SECOND,
    can_be_measured,
    fewest_patients,
    interval_of,
    join_folds,
    measure,
    measure_beside,
)
from parfocal.evaluate.primary import choose_primary
from parfocal.evaluate.result import ArmFits, ArmRun, FailedArm, TargetComparison, TargetResult
from parfocal.evaluate.subgroups import measure_subgroups
from parfocal.heads import FoldPrediction
from parfocal.stats import detectable_difference, paired_test

__all__ = ["compare_arms", "measurable_folds"]


def compare_arms(
    arms: Sequence[Arm],
    fits: Sequence[ArmFits | FailedArm],
    cohort: Cohort,
    splits: Splits,
    folds: Sequence[Fold],
    *,
    primary: str | None = None,
    external: Cohort | None = None,
    seed: int = 0,
) -> TargetResult:
    """Everything that is measured on one target.

    Args:
        arms: in the order of the table.
        fits: what the fits of each said and cost, or why there is nothing.
        cohort: labels, groups, and the columns to report by.
        splits: who is tested when.
        folds: the same with the inner folds.
        primary: label of the mixed arm that the primary comparison is about, or its beginning; named before looking.
        external: the cohort of the external scores.
        seed: decides the bootstrap's draws.

    Raises:
        ConfigError: fewer than two folds can be measured, or no mixed arm has the primary label.
    """
    outcome = cohort.outcome
    joined, usable = measurable_folds(cohort, folds)
    notes = list(cohort.notes)
    if not usable.all():
        notes.append(_left_out(cohort, int((~usable).sum()), len(folds)))
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=3)
    named, rivals = choose_primary(arms, primary)
    failed = tuple(one for one in fits if isinstance(one, FailedArm))
    missing = _missing_primary(arms, fits, named, rivals)
    said = _failure_notes(arms, failed)
    if said:
        notes += said
        warnings.warn(" ".join([f"{cohort.target}: {said[0]}", missing]).strip(), ParfocalWarning, stacklevel=3)
    arms, fits, place_of = _with_numbers(arms, fits)
    named, rivals = place_of.get(named), tuple(place_of[one] for one in rivals if one in place_of)
    ratio = float(np.mean([len(fold.test) / len(fold.train) for fold in folds]))
    measured = np.flatnonzero(usable).tolist()
    tested = [join_folds(cohort, folds, joined, one.predictions, measured, ratio) for one in fits]
    intervals = [interval_of(cohort, one) for one in tested]
    fewest = fewest_patients(cohort, np.arange(len(cohort.slides)))

    def against(place: int, other: int) -> TargetComparison:
        first, second = tested[place], tested[other]
        test = paired_test(first, second, n_patients=fewest)
        detectable = detectable_difference(first.minus(second), n_patients=fewest)
        return TargetComparison(place, other, test, detectable)

    def best_of(places: Sequence[int]) -> int | None:
        return max(places, key=lambda place: intervals[place].estimate) if places else None

    by_kind = {kind: [place for place, arm in enumerate(arms) if arm.kind == kind] for kind in ("single", "mixed")}
    best, best_mixed = best_of(by_kind["single"]), best_of(by_kind["mixed"])
    best_other = best_of([place for place, arm in enumerate(arms) if arm.kind != "single"])
    rival = best_of(rivals)
    outside = compare_externally(fits, external, best, baseline=float(outcome.value.mean()), seed=seed)
    runs = tuple(
        ArmRun(
            arm=arm,
            predictions=one.predictions,
            fold_value=_fold_values(cohort, joined, usable, one.predictions),
            interval=intervals[place],
            beside=_beside(cohort, joined, usable, folds, one.predictions),
            against_best_single=None if best is None or place == best else against(place, best).test,
            instances_per_slide=one.instances_per_slide,
            seconds=one.seconds,
            encodings_per_slide=one.encodings_per_slide,
            seed_sd=_seed_sd(cohort, joined, usable, one),
            calibration=calibrate_folds(cohort, folds, joined, one.predictions),
            external=outside[place],
            by_class=measure_classes(cohort, folds, joined, one.predictions, ratio),
            confusion=confusion_matrix(cohort, folds, joined, one.predictions),
        )
        for place, (arm, one) in enumerate(zip(arms, fits, strict=True))
    )
    return TargetResult(
        cohort=cohort,
        splits=splits,
        folds=tuple(folds),
        metric=METRICS[outcome.kind],
        runs=runs,
        best_single=best,
        primary=None if named is None or rival is None else against(named, rival),
        picked=None if best_mixed is None or best is None else against(best_mixed, best),
        detectable=float("nan") if best is None or best_other is None else against(best_other, best).detectable,
        test_over_train=ratio,
        subgroups=measure_subgroups(cohort, folds, joined, [one.predictions for one in fits], ratio),
        external_cohort=external,
        notes=tuple(notes),
        failed=failed,
        missing_primary=missing,
    )


def measurable_folds(cohort: Cohort, folds: Sequence[Fold]) -> tuple[list[Units], Bool[np.ndarray, " fold"]]:
    """The units that each fold tests, and whether its labels can be put in order.

    Raises:
        ConfigError: fewer than two folds can be measured.
    """
    joined = [units(cohort, fold.test) for fold in folds]
    usable = np.array([can_be_measured(cohort.outcome.of(one.slides)) for one in joined])
    if usable.sum() < 2:
        raise ConfigError(
            f"{_cannot(cohort, int(usable.sum()), len(folds))}; an interval needs two folds that do. Use fewer folds."
        )
    return joined, usable


def _with_numbers(
    arms: Sequence[Arm], fits: Sequence[ArmFits | FailedArm]
) -> tuple[list[Arm], list[ArmFits], dict[int | None, int]]:
    """The arms that did not fail with their fits, and the place that each has among them."""
    done = {place: one for place, one in enumerate(fits) if isinstance(one, ArmFits)}
    place_of: dict[int | None, int] = {before: now for now, before in enumerate(done)}
    # A head's arm stands alone here; those that it averages are not among the compared ones.
    kept = [
        replace(arms[place], average_of=tuple(place_of[one] for one in arms[place].average_of if one in place_of))
        for place in done
    ]
    return kept, list(done.values()), place_of


def _failure_notes(arms: Sequence[Arm], failed: Sequence[FailedArm]) -> list[str]:
    """What failed, and what the comparisons are without it."""
    if not failed:
        return []
    listed = "; ".join(f"{arm_label(arms, list(arms).index(one.arm))} ({one.reason})" for one in failed)
    notes = [f"{len(failed)} of {len(arms)} arms failed, have no number and stand in no comparison: {listed}."]
    if any(one.arm.kind == "single" for one in failed):
        notes.append("The best single magnification is the best of those that did not fail.")
    return notes


def _missing_primary(
    arms: Sequence[Arm], fits: Sequence[ArmFits | FailedArm], named: int | None, rivals: Sequence[int]
) -> str:
    """Why there is no primary comparison, where its arm or all that it should beat have failed; else empty."""
    if named is None or not rivals:
        return ""
    head = f"The primary comparison is about \u201c{arm_label(arms, named)}\u201d"
    own = fits[named]
    if isinstance(own, FailedArm):
        return f"{head}, which failed ({own.reason}); no other arm takes its place, so there is no primary comparison."
    if all(isinstance(fits[place], FailedArm) for place in rivals):
        return f"{head}, and every single magnification that it should beat failed, so there is none."
    return ""


def _fold_values(
    cohort: Cohort, joined: Sequence[Units], usable: Bool[np.ndarray, " fold"], predictions: Sequence[FoldPrediction]
) -> Float64[np.ndarray, " fold"]:
    """The metric of each fold, NaN where it has none."""
    return np.array(
        [
            measure(cohort.outcome.of(one.slides), one.mean(prediction.score)) if ok else np.nan
            for one, prediction, ok in zip(joined, predictions, usable, strict=True)
        ]
    )


def _beside(
    cohort: Cohort,
    joined: Sequence[Units],
    usable: Bool[np.ndarray, " fold"],
    folds: Sequence[Fold],
    predictions: Sequence[FoldPrediction],
) -> dict[str, float]:
    """The second numbers, each averaged over the folds where it has a value."""
    outcome = cohort.outcome
    found = [
        measure_beside(
            outcome.of(one.slides), one.mean(prediction.score), baseline=float(outcome.value[fold.train].mean())
        )
        for one, prediction, fold, ok in zip(joined, predictions, folds, usable, strict=True)
        if ok
    ]
    result = {}
    for name in SECOND[outcome.kind]:
        own = np.array([one[name] for one in found])
        result[name] = float(own[np.isfinite(own)].mean()) if np.isfinite(own).any() else float("nan")
    return result


def _seed_sd(cohort: Cohort, joined: Sequence[Units], usable: Bool[np.ndarray, " fold"], fits: ArmFits) -> float | None:
    """How far the metric moves with the seed of the fit alone: the same patients in the same folds."""
    if len(fits.by_seed) < 2:
        return None
    means = [float(_fold_values(cohort, joined, usable, one)[usable].mean()) for one in fits.by_seed]
    return float(np.std(means, ddof=1))


def _left_out(cohort: Cohort, n: int, of: int) -> str:
    target = cohort.target
    if cohort.outcome.kind == "survival":
        return (
            f"{n} of {of} folds of {target!r} test no two slides of which one is known to come first, and are left out."
        )
    if cohort.outcome.kind == "continuous":
        return f"{n} of {of} folds of {target!r} test one value only and are left out."
    return f"{n} of {of} folds of {target!r} test one class only and have no {METRICS[cohort.outcome.kind].name}."


def _cannot(cohort: Cohort, n: int, of: int) -> str:
    if cohort.outcome.kind == "binary":
        return f"only {n} of {of} folds of {cohort.target!r} test slides of both classes"
    return f"only {n} of {of} folds of {cohort.target!r} test slides whose labels differ"
