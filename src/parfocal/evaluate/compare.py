"""Arms that were fitted on the same folds become results: metrics, intervals, and the paired comparisons.

Among these is the one that is named before anyone looks, and what it says over several targets.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from parfocal.cohort import Cohort, Fold, Splits
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.arm import ATTENTIVE, SPLIT, Arm, arm_label, places_of
from parfocal.evaluate.external import compare_externally
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.metric import METRICS
from parfocal.evaluate.result import AcrossTargets, ArmFits, ArmRun, FailedArm, TargetComparison, TargetResult
from parfocal.evaluate.split import SplitGain
from parfocal.stats import (
    FEWEST_TARGETS,
    Interval,
    detectable_difference,
    holm,
    mean_over_targets,
    paired_test,
    verdict,
    wilcoxon_signed_rank,
)


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

    def split_by(part: Mapping[str, int]) -> SplitGain:
        alone, context, everything = (part[method] for method in _SPLIT_BY)
        pairs = ((everything, alone), (context, alone), (everything, context))
        return SplitGain(
            intervals[alone].estimate,
            intervals[everything].estimate,
            *(against(first, second).test.difference for first, second in pairs),
        )

    by_kind = {kind: [place for place, arm in enumerate(arms) if arm.kind == kind] for kind in ("single", "mixed")}
    best, best_mixed = best_of(by_kind["single"]), best_of(by_kind["mixed"])
    # Another tool's vectors have no say in what this cohort would have shown of ours.
    best_other = best_of([place for place, arm in enumerate(arms) if arm.kind in ("late", "mixed")])
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
        gains={name: split_by(part) for name, part in _split_arms(arms).items()},
    )


_SPLIT_BY = ("finest", "context", "everything")


def _split_arms(arms: Sequence[Arm]) -> dict[str, dict[str, int]]:
    """The places of the arms that split a gain, by method, for each set of tiles that has all of them."""
    parts: dict[str, dict[str, int]] = {}
    for place, arm in enumerate(arms):
        *of_set, source = arm.source.split("/")
        if source == SPLIT:
            parts.setdefault("/".join(of_set), {})[arm.method] = place
    return {name: part for name, part in parts.items() if set(_SPLIT_BY) <= set(part)}


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


def choose_primary(arms: Sequence[Arm], named: str | None) -> tuple[int | None, tuple[int, ...]]:
    """The mixed arm of the primary comparison, and the single magnifications that it has to beat.

    Nothing that was measured has a say in the mixed arm. Where the user names none it is gated attention over the
    contextual tokens of the first region encoder that has learnt, else gated attention over what else one reads out,
    else the first mixed arm of the table. It is set against the best single magnification with gated attention (all
    singles where none has attention): that one is picked by its results, which favours it.

    Args:
        arms: in the order of the table.
        named: an arm's id or label, or how one of them begins.

    Raises:
        ConfigError: no mixed arm, or several, are called so.
    """
    mixed = [place for place, arm in enumerate(arms) if arm.kind == "mixed"]
    singles = [place for place, arm in enumerate(arms) if arm.kind == "single"]
    attentive = tuple(place for place in singles if arms[place].method == ATTENTIVE)
    rivals = attentive or tuple(singles)
    if named is not None:
        exact = [place for place in places_of(arms, named) if place in mixed]
        asked_for = exact or [place for place in mixed if _begins(arms[place], named)]
        if len(asked_for) != 1:
            listed = "; ".join(arms[place].id for place in mixed) or "none"
            raise ConfigError(
                f"the primary comparison is about {named!r}, and {len(asked_for)} mixed arms are called so. "
                f"Name one of: {listed}."
            )
        return asked_for[0], rivals
    # A model of random weights is a control: it would make a comparison that nobody asks for.
    preferred = [place for place in mixed if arms[place].method == ATTENTIVE and not arms[place].is_control]
    tokens = [place for place in preferred if arms[place].readout == "tokens"]
    return next(iter([*tokens, *preferred, *mixed]), None), rivals


def _begins(arm: Arm, text: str) -> bool:
    return arm.label.startswith(text) or arm.id.startswith(text)


def across_targets(
    results: Mapping[str, TargetResult], which: Callable[[TargetResult], TargetComparison | None]
) -> AcrossTargets | None:
    """One comparison over all targets that have it; None where none has.

    With fewer targets than `FEWEST_TARGETS` the means have no interval, and the signed-rank test has no p-value.

    Args:
        results: by target.
        which: takes the comparison out of a result, such as `lambda result: result.primary`.
    """
    found = {target: one for target, result in results.items() if (one := which(result)) is not None}
    if not found:
        return None
    adjusted = holm(np.array([one.test.p_value for one in found.values()]))
    differences = [one.test.difference.estimate for one in found.values()]
    runs = {target: results[target].runs for target in found}

    def mean(values: Sequence[float | int], lowest: float = 0.0) -> Interval | None:
        return mean_over_targets(values, fewest=FEWEST_TARGETS).clipped(lowest, 1.0) if len(values) > 1 else None

    by_target = {target: float(value) for target, value in zip(found, adjusted, strict=True)}
    test = wilcoxon_signed_rank(differences)

    return AcrossTargets(
        targets=tuple(found),
        p_holm=by_target,
        shown={target: verdict(one.test.difference, by_target[target]) for target, one in found.items()},
        ahead=sum(difference > 0 for difference in differences),
        single=mean([runs[target][one.single].interval.estimate for target, one in found.items()]),
        mixed=mean([runs[target][one.mixed].interval.estimate for target, one in found.items()]),
        difference=mean(differences, -1.0),
        signed_rank=test if len(found) >= FEWEST_TARGETS else replace(test, p_value=float("nan")),
    )
