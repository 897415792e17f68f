"""Arms that were fitted on the same folds become results: metrics, intervals, and the paired comparisons."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from parfocal.cohort import Cohort, Fold, Splits
from parfocal.errors import ParfocalWarning
from parfocal.evaluate.arm import Arm, arm_label
from parfocal.evaluate.external import compare_externally
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.metric import METRICS
from parfocal.evaluate.primary import choose_primary
from parfocal.evaluate.result import ArmFits, ArmRun, FailedArm, TargetComparison, TargetResult
from parfocal.stats import detectable_difference, paired_test


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
    held_out, notes = HeldOut.of(cohort, folds), list(cohort.notes)
    if held_out.note:
        notes.append(held_out.note)
        warnings.warn(held_out.note, ParfocalWarning, stacklevel=3)
    named, rivals = choose_primary(arms, primary)
    failed = tuple(one for one in fits if isinstance(one, FailedArm))
    missing = _missing_primary(arms, fits, named, rivals)
    said = _failure_notes(arms, failed)
    if said:
        notes += said
        warnings.warn(" ".join([f"{cohort.target}: {said[0]}", missing]).strip(), ParfocalWarning, stacklevel=3)
    arms, fits, place_of = _with_numbers(arms, fits)
    named, rivals = place_of.get(named), tuple(place_of[one] for one in rivals if one in place_of)
    tested = [held_out.over_folds(one.predictions) for one in fits]
    intervals = [held_out.interval(one) for one in tested]
    fewest = held_out.fewest_patients()

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
    outside = compare_externally(fits, external, best, baseline=float(cohort.outcome.value.mean()), seed=seed)
    runs = tuple(
        ArmRun(
            arm=arm,
            predictions=one.predictions,
            fold_value=held_out.fold_values(tested[place]),
            interval=intervals[place],
            beside=held_out.beside(one.predictions),
            against_best_single=None if best is None or place == best else against(place, best).test,
            instances_per_slide=one.instances_per_slide,
            seconds=one.seconds,
            encodings_per_slide=one.encodings_per_slide,
            seed_sd=_seed_sd(held_out, one),
            calibration=held_out.calibration(one.predictions),
            external=outside[place],
            by_class=held_out.classes(one.predictions),
            confusion=held_out.confusion(one.predictions),
        )
        for place, (arm, one) in enumerate(zip(arms, fits, strict=True))
    )
    return TargetResult(
        cohort=cohort,
        splits=splits,
        folds=tuple(folds),
        metric=METRICS[cohort.outcome.kind],
        runs=runs,
        best_single=best,
        primary=None if named is None or rival is None else against(named, rival),
        picked=None if best_mixed is None or best is None else against(best_mixed, best),
        detectable=float("nan") if best is None or best_other is None else against(best_other, best).detectable,
        test_over_train=held_out.test_over_train,
        subgroups=held_out.subgroups([one.predictions for one in fits]),
        external_cohort=external,
        notes=tuple(notes),
        failed=failed,
        missing_primary=missing,
    )


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


def _seed_sd(held_out: HeldOut, fits: ArmFits) -> float | None:
    """How far the metric moves with the seed of the fit alone: the same patients in the same folds."""
    if len(fits.by_seed) < 2:
        return None
    return float(np.std([held_out.over_folds(one).mean for one in fits.by_seed], ddof=1))
