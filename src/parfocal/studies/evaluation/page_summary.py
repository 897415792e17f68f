"""The first table of the page, in the form in which papers report a gain: a row for each target, and the mean."""

from collections.abc import Mapping

from parfocal.report import Column, Row, Section, Table, Text, show_difference, show_interval, show_number, show_p
from parfocal.report.page import Block
from parfocal.report.statistics import Interval
from parfocal.studies.evaluation.primary import arm_label
from parfocal.studies.evaluation.result import AcrossTargets, TargetComparison, TargetResult

__all__ = ["across_sentences", "missing_sentences", "summary_section"]

_WORDS = (
    "An arm is one way to read a slide: which magnifications go in, and how their tiles become one prediction. A "
    "single arm sees the tiles of one magnification; a late arm sees several, each as a bag that does not say which "
    "tiles show the same place; a mixed arm knows which tiles lie in the same region."
)
_READING = (
    "A row is one target, a label to be predicted of every slide. The number is 0.5 for a reader that knows nothing "
    "and 1 for one that is never wrong. The difference is measured on the same patients in the same folds; its "
    "interval holds the true difference in about 95 of 100 such studies, and an interval on both sides of 0 leaves it "
    "open which is better. Detectable: a true difference of this size would have been seen four times in five."
)
_PRIMARY = (
    "Primary comparison. The arm that mixes magnifications was named before anything was measured. It stands against "
    "the best single magnification with the same pooling where there is one; which magnification is the best was "
    "picked by its result here, which favours it."
)
_PICKED = (
    "Picked after looking: the best arm that mixes against the best single magnification, each the highest of its kind "
    "in this target. The highest of many is high partly by luck, and more arms mix than not, so these differences are "
    "too large and these p-values too small. They say where to look next; a gain here is no evidence of one."
)


def summary_section(
    results: Mapping[str, TargetResult], primary: AcrossTargets | None, picked: AcrossTargets | None
) -> Section | None:
    """Both comparisons as tables; None where there is nothing to compare."""
    blocks: list[Block] = []
    if primary is not None:
        found = {target: one for target in primary.targets if (one := results[target].primary) is not None}
        mixed = dict.fromkeys(_label(results[target], one.mixed) for target, one in found.items())
        title = f"{'; '.join(mixed)}, against the best single magnification"
        blocks += [
            Text((_PRIMARY, *across_sentences(results, primary)[1:])),
            _table(title, results, primary, found, picked=False),
        ]
    if picked is not None and (primary is None or _differ(results, primary)):
        found = {target: one for target in picked.targets if (one := results[target].picked) is not None}
        worse = [target for target, one in found.items() if one.test.difference.high < 0]
        said = (f"Even the best arm that mixes is worse than the best single magnification in {', '.join(worse)}.",)
        blocks += [
            Text((_PICKED, *(said if worse else ()))),
            _table("The best of each kind", results, picked, found, picked=True),
        ]
    missing = missing_sentences(results)
    if missing:
        blocks.append(Text(missing))
    reading = next(iter(results.values())).cohort.worded(_READING)
    return Section("Single magnifications and mixtures", (Text((_WORDS, reading)), *blocks)) if blocks else None


def missing_sentences(results: Mapping[str, TargetResult]) -> tuple[str, ...]:
    """The targets that have no primary comparison because an arm of it failed, each with the reason."""
    return tuple(f"{name}: {one.missing_primary}" for name, one in results.items() if one.missing_primary)


def across_sentences(results: Mapping[str, TargetResult], across: AcrossTargets) -> tuple[str, ...]:
    """What the primary comparison says: over one target its difference, over several the mean and the signed-rank test.

    The first sentence is the answer; the others say how far it can be trusted.
    """
    found = {target: one for target in across.targets if (one := results[target].primary) is not None}
    if across.single is None or across.mixed is None or across.difference is None:
        target, only = next(iter(found.items()))
        result, difference = results[target], only.test.difference
        side = "better" if difference.estimate > 0 else "worse"
        verdict = f"{side} by more than chance gives"
        if 0.0 in difference:
            verdict = "which leaves it open which is better"
        pair = f"\u201c{_label(result, only.mixed)}\u201d against \u201c{_label(result, only.single)}\u201d"
        text = (
            f"Primary comparison for {target}: {pair}, a difference of {show_difference(difference)}, {verdict} "
            f"(p {show_p(only.test.p_value)})."
        )
        return (text,)
    n, test = len(across.targets), across.signed_rank
    better = sum(one.test.difference.estimate > 0 for one in found.values())
    shown = [
        f"{target} ({'better' if found[target].test.difference.estimate > 0 else 'worse'})"
        for target, p_value in across.p_holm.items()
        if p_value < 0.05
    ]
    average = across.difference.estimate
    verdict = "better" if average > 0 else "worse" if average < 0 else "neither better nor worse"
    doubt = "; the interval leaves it open which is better" if 0.0 in across.difference else ""
    answer = (
        f"Over {n} targets the mixture has {across.mixed.estimate:.2f} on average and the best single magnification "
        f"{across.single.estimate:.2f}: {show_difference(across.difference)}. The mixture is {verdict} on average, and "
        f"better in {better} of {n} targets{doubt}."
    )
    floor = f"{test.smallest_p:.2g}"
    wilcoxon = (
        f"Wilcoxon's signed-rank test over targets gives p {show_p(test.p_value)}; with {test.n_nonzero} targets that "
        f"differ it cannot come below {floor}, whatever the differences are."
    )
    holm = (
        f"After Holm's correction for {n} targets the mixture is shown to differ in {len(shown)}: {', '.join(shown)}."
        if shown
        else f"After Holm's correction for {n} targets no single target shows a difference."
    )
    return answer, wilcoxon, holm


def _differ(results: Mapping[str, TargetResult], primary: AcrossTargets) -> bool:
    """Whether picking gives another pair of arms than the primary comparison somewhere."""

    def pair(one: TargetComparison | None) -> tuple[int, int] | None:
        return None if one is None else (one.mixed, one.single)

    return any(pair(results[target].primary) != pair(results[target].picked) for target in primary.targets)


def _table(
    title: str,
    results: Mapping[str, TargetResult],
    across: AcrossTargets,
    found: Mapping[str, TargetComparison],
    *,
    picked: bool,
) -> Table:
    """A row for each target and one for their mean; where arms were picked, each names its mixed arm."""
    interval = "The mean over folds and its 95 % interval."
    columns = [
        Column("Target"),
        Column("Measured by"),
        Column("Single magnification (interval)", "left", interval),
        Column("Mixed (interval)", "left" if picked else "right", interval),
        Column("Difference (interval)", "right", "Mixed minus single, paired over the same folds."),
        Column("p (Holm)", "right", "Of no difference, two-sided, corrected for the number of targets."),
    ]
    if not picked:
        help_ = "A true difference of this size would have been seen with 80 % power; none: no possible one."
        columns.append(Column("Detectable", "right", help_))
    rows = []
    for target, one in found.items():
        result = results[target]
        single, mixed = result.runs[one.single], result.runs[one.mixed]
        cells = [
            target,
            f"{result.metric.name}, {result.cohort.n_groups:,} {result.cohort.worded('patients')}",
            f"{_label(result, one.single)} {_with_interval(single.interval)}",
            f"{_label(result, one.mixed)} {_with_interval(mixed.interval)}"
            if picked
            else _with_interval(mixed.interval),
            show_difference(one.test.difference),
            show_p(across.p_holm[target]),
        ]
        rows.append(Row((*cells, *([] if picked else [_show_detectable(one.detectable)]))))
    notes = ["Intervals of rows are those of repeated cross-validation, for one target each."]
    if across.single is not None and across.mixed is not None and across.difference is not None:
        cells = [
            f"Mean of {len(found)} targets",
            "",
            _with_interval(across.single),
            _with_interval(across.mixed),
            show_difference(across.difference),
            show_p(across.signed_rank.p_value),
        ]
        rows.append(Row((*cells, *([] if picked else [""])), "highlight"))
        notes.append(
            next(iter(results.values())).cohort.worded(
                "The mean's p-value is Wilcoxon's. Its intervals take the targets as drawn from many (t with one value "
                "for each target); labels of the same patients are not independent, so they are too narrow where "
                "targets share patients."
            )
        )
    return Table(title, tuple(columns), tuple(rows), tuple(notes))


def _label(result: TargetResult, place: int) -> str:
    return arm_label([run.arm for run in result.runs], place)


def _with_interval(interval: Interval) -> str:
    """The number and its ends, in one piece that no line breaks."""
    return f"{interval.estimate:.2f} ({show_interval(interval)})".replace(" ", "\u00a0")


def _show_detectable(difference: float) -> str:
    """The difference, or "none" where only one that cannot be would have been seen."""
    return "none" if difference >= 1 else show_number(difference)
