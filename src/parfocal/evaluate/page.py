"""The page of an evaluation: what was compared, the table of each target, and what it can and cannot show.

Its first table has the form in which papers report a gain: a row for each target, and the mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.evaluate.arm import ARM_METHODS
from parfocal.evaluate.page_answer import answer_blocks, missing_sentences
from parfocal.evaluate.page_split import split_section
from parfocal.evaluate.page_target import choices_table, target_blocks
from parfocal.evaluate.result import AcrossTargets, ArmRun, TargetComparison, TargetResult
from parfocal.report import (
    Field,
    ReportPage,
    Section,
    Table,
    Text,
    page_table,
    show,
    show_difference,
    show_number,
    show_p,
)
from parfocal.report.page import Block
from parfocal.stats import FEWEST_TARGETS, Interval

_MOST_NAMED = 3
_WORDS = (
    "An arm is one way to read a slide: which magnifications go in, and how their tiles become one prediction. A "
    "single arm sees the tiles of one magnification; a late arm sees several, each as a bag that does not say which "
    "tiles show the same place; a mixed arm knows which tiles lie in the same region."
)
_READING = (
    "A row is one target, a label to be predicted of every slide. The number is 0.5 for a reader that knows nothing "
    "and 1 for one that is never wrong. The difference is measured on the same patients in the same folds; its "
    "interval is made to hold the true difference in 95 of 100 such studies, and an interval on both sides of 0 leaves "
    "it open which is better. That it does so was measured with two classes and linear models, and for two arms that "
    "were named before; not with other targets, not with networks, and not where one is the best of several. "
    "Detectable: a true difference of this size would have been seen four times in five."
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
_MEAN = (
    "The mean's p-value is Wilcoxon's. Its intervals take the targets as drawn from many (t with one value for each "
    "target); labels of the same patients are not independent, so they are too narrow where targets share patients."
)


def summary_section(
    results: Mapping[str, TargetResult], primary: AcrossTargets | None, picked: AcrossTargets | None
) -> Section | None:
    """Both comparisons as tables; None where there is nothing to compare."""
    blocks: list[Block] = []
    if primary is not None:
        found = {target: one for target in primary.targets if (one := results[target].primary) is not None}
        mixed = dict.fromkeys(results[target].label(one.mixed) for target, one in found.items())
        title = f"{'; '.join(mixed)}, against the best single magnification"
        blocks += [
            Text((_PRIMARY, *across_sentences(results, primary))),
            _table(title, results, primary, found, picked=False),
        ]
    if picked is not None and (primary is None or _differ(results, primary)):
        found = {target: one for target in picked.targets if (one := results[target].picked) is not None}
        behind = [target for target, one in found.items() if one.test.difference.estimate < 0]
        said = (f"Even the best arm that mixes is behind the best single magnification in {', '.join(behind)}.",)
        blocks += [
            Text((_PICKED, *(said if behind else ()))),
            _table("The best of each kind", results, picked, found, picked=True),
        ]
    missing = missing_sentences(results)
    if missing:
        blocks.append(Text(missing))
    reading = next(iter(results.values())).cohort.worded(_READING)
    return (
        Section("Single magnifications and mixtures", (Text((_QUESTION, _WORDS, reading)), *blocks)) if blocks else None
    )


def across_sentences(results: Mapping[str, TargetResult], across: AcrossTargets) -> tuple[str, ...]:
    """What the primary comparison says: of one target its difference, of several the mean and each of them."""
    if across.single is None or across.mixed is None or across.difference is None:
        target = across.targets[0]
        result, only = results[target], results[target].primary
        assert only is not None, f"{target!r} has no primary comparison"
        pair = f"\u201c{result.label(only.mixed)}\u201d against \u201c{result.label(only.single)}\u201d"
        return (
            f"Primary comparison for {target}: {pair}, a difference of {show_difference(only.test.difference)}: "
            f"{across.shown[target]} (p {show_p(only.test.p_value)}).",
        )
    n, test = len(across.targets), across.signed_rank
    said = [
        f"Over {n} targets the mixture has {across.mixed.estimate:.2f} on average and the best single magnification "
        f"{across.single.estimate:.2f}: {show_difference(across.difference)}, ahead in {across.ahead} of {n} targets."
    ]
    if across.difference.has_ends:
        said.append(
            f"On average: {across.shown_on_average}. Wilcoxon's signed-rank test over targets gives p "
            f"{show_p(test.p_value)}; with {test.n_nonzero} targets that differ it cannot come below "
            f"{test.smallest_p:.2g}, whatever the differences are."
        )
    else:
        said.append(
            f"So few targets say nothing of others like them; from {FEWEST_TARGETS} on the mean has an interval."
        )
    listed = [f"{target} ({one})" for target, one in across.shown.items() if one != "open"]
    said.append(
        f"After Holm's correction for {n} targets the mixture is shown to differ in {len(listed)}: {', '.join(listed)}."
        if listed
        else f"After Holm's correction for {n} targets no single target shows a difference."
    )
    return tuple(said)


def _differ(results: Mapping[str, TargetResult], primary: AcrossTargets) -> bool:
    """Whether picking gives another pair of arms than the primary comparison somewhere."""

    def pair(one: TargetComparison | None) -> tuple[int, int] | None:
        return None if one is None else (one.mixed, one.single)

    return any(pair(results[target].primary) != pair(results[target].picked) for target in primary.targets)


def _table(
    title: str,
    results: Mapping[str, TargetResult],
    across: AcrossTargets,
    compared: Mapping[str, TargetComparison],
    *,
    picked: bool,
) -> Table:
    """A row for each target and one for their mean; where arms were picked, each names its mixed arm."""
    help_ = "The mean over folds and its 95 % interval."
    columns = (
        Field("Target", "target"),
        Field("Measured by", "measure", missing=""),
        Field("Single magnification (interval)", "single", help=help_),
        Field("Mixed (interval)", "mixed", help=help_, align="left" if picked else "right"),
        Field(
            "Difference (interval)",
            "difference",
            "",
            show_difference,
            "Mixed minus single, paired over the same folds.",
        ),
        Field("p (Holm)", "p", "", show_p, "Of no difference, two-sided, corrected for the number of targets."),
        Field(
            "Detectable",
            "detectable",
            help="A true difference of this size would have been seen with 80 % power; none: no possible one.",
            align="right",
            missing="",
            is_optional=True,
        ),
    )
    rows: list[dict[str, Any]] = []
    for target, pair in compared.items():
        result = results[target]
        single, mixed = (_with_interval(result.runs[place].interval) for place in (pair.single, pair.mixed))
        rows.append(
            {
                "target": target,
                "measure": f"{result.metric.name}, {result.cohort.n_groups:,} {result.cohort.worded('patients')}",
                "single": f"{result.label(pair.single)} {single}",
                "mixed": f"{result.label(pair.mixed)} {mixed}" if picked else mixed,
                "difference": pair.test.difference,
                "p": across.p_holm[target],
                "detectable": None if picked else _show_detectable(pair.detectable),
            }
        )
    notes = ["Intervals of rows are those of repeated cross-validation, for one target each."]
    if across.single is not None and across.mixed is not None and across.difference is not None:
        rows.append(
            {
                "target": f"Mean of {len(compared)} targets",
                "single": _with_interval(across.single),
                "mixed": _with_interval(across.mixed),
                "difference": across.difference,
                "p": across.signed_rank.p_value,
                "is_mean": True,
            }
        )
        if across.difference.has_ends:
            notes.append(next(iter(results.values())).cohort.worded(_MEAN))
    return page_table(
        title, columns, rows, kind=lambda row: "highlight" if "is_mean" in row else "plain", footnotes=notes
    )


def _with_interval(interval: Interval) -> str:
    """The number and its ends, in one piece that no line breaks."""
    return show(interval).replace(" ", "\u00a0")


def _show_detectable(difference: float) -> str:
    """The difference, or "none" where only one that cannot be would have been seen."""
    return "none" if difference >= 1 else show_number(difference)


_QUESTION = "Is a label predicted better from a slide's magnifications together than from the best of them alone?"
_METHOD = (
    "Every arm is fitted on the same folds and offered choices inside each training fold: the vectors as they are, or "
    "centred and whitened to a few components, times four strengths of what keeps its pooling simple (penalty, "
    "training steps, rank). Nothing from a test fold has a say in any of them. Cross-scale contrast, and the second "
    "moment, are offered more: directions sharpened by how the regions group, and a bend fitted with six numbers. A "
    "region encoder that is trained on is offered fewer: two poolings and four numbers of steps.",
    "Gated attention pools as Ilse, Tomczak and Welling (2018) do, in a small network that is trained shortly; theirs, "
    "at its published width and training, is the arm ABMIL. Cross-scale contrast is what the products of two "
    "magnifications within regions have to do with the label: its leading directions, stacked with the slide means; "
    "with one kind of vector it is the second moment of that.",
    "Scores of different folds come from different fits and are never ranked together. Only the calibration puts the "
    "folds of a repeat together, because probabilities claim a common scale.",
    "The number of an arm is the mean over folds. Its interval is about what such fits, each on the training patients "
    "of one fold of another cohort like this one, reach on a large new population on average. It adds what the "
    "patients vary, with the fits as they are, to what the fits vary, which the repeats show; the p-values are those "
    "of the same sum. Of an AUC it is never narrower than the number of patients allows (Newcombe 2006).",
)
_FOREIGN = (
    "An arm of a whole-slide encoder reads the one vector that another model made of each slide, alone and beside "
    "slide means of ours, by the same heads; it is no magnification of ours and no mixture of them, so the comparisons "
    "of these leave it out."
)
_BY_PATIENT = (
    "A patient counts once in every number: the scores of a patient's slides that have the same label are averaged "
    "inside a fold."
)
_BY_SLIDE = (
    "Every slide counts in every number, so that a patient with many slides weighs more; folds still keep patients "
    "whole, and intervals are those of the number of patients."
)
_BY_NOTHING = (
    "Nothing says which slides come from one patient: every slide counts once and is taken as independent of the "
    "others. Where several come from one patient, results look better than they are and intervals are too narrow."
)
_SEEDS = (
    "The sd over seeds is how far an arm moves when its fits start from other random numbers, with the same patients "
    "in the same folds. It is no part of the intervals, which are about other patients: a small sd over seeds says "
    "that a result repeats, not that it holds elsewhere."
)
_BALANCED = (
    "The two classes weigh alike in every fit, so a probability is that of a cohort with as many positive as negative "
    "patients; where one class is rarer, the calibration shows it as an intercept."
)


def evaluation_page(
    results: Mapping[str, TargetResult],
    *,
    answer: str,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    split: Sequence[str] = (),
    primary: AcrossTargets | None = None,
    picked: AcrossTargets | None = None,
    sections: Sequence[Section] = (),
) -> ReportPage:
    """The page; `sections` follow the targets, then costs, and what every arm chose comes last.

    Args:
        results: by target.
        answer: what was asked, in one sentence.
        settings: everything that made them.
        seed: of splits, inner folds, networks and draws.
        inputs: the digests of what went in.
        split: how the gain is split into context and magnification, in sentences.
        primary: the comparison named before looking, over the targets.
        picked: the best against the best, over the targets.
        sections: further parts.
    """
    summary, gains = summary_section(results, primary, picked), split_section(results, split)
    cohort = next(iter(results.values())).cohort  # all were read by the same columns
    counted = _BY_SLIDE if cohort.count == "slide" else _BY_PATIENT
    method: tuple[str, ...] = (*map(cohort.worded, _METHOD), counted if cohort.is_grouped else _BY_NOTHING)
    if any(run.arm.kind == "slide" for result in results.values() for run in result.runs):
        method += (_FOREIGN,)
    if any(run.seed_sd is not None for result in results.values() for run in result.runs):
        method += (cohort.worded(_SEEDS),)
    if settings.get("probes", {}).get("balanced"):
        method += (cohort.worded(_BALANCED),)
    asked = ", ".join(results) if len(results) <= _MOST_NAMED else f"{len(results)} targets"
    return ReportPage(
        title=f"Magnifications compared: {asked}",
        lead=(answer,),
        first=answer_blocks(results, primary),
        sections=(
            *([] if summary is None else [summary]),
            *([] if gains is None else [gains]),
            *(Section(target, target_blocks(target, result)) for target, result in results.items()),
            *sections,
            Section("What each arm costs", (_costs(results),)),
            Section(
                "How it was measured",
                (Text(method), *_methods(results), *(choices_table(*item) for item in results.items())),
            ),
        ),
        settings=settings,
        seeds={"splits, inner folds and networks": seed},
        inputs=inputs,
    )


def _methods(results: Mapping[str, TargetResult]) -> tuple[Block, ...]:
    """What each way of pooling in the tables does."""
    arms = [run.arm for result in results.values() for run in result.runs]
    said = {arm.pooling: ARM_METHODS[arm.method].meaning for arm in arms if arm.method in ARM_METHODS}
    if not said:
        return ()
    columns = (Field("Pooling", "0"), Field("What it is", "1"))
    return (page_table("What each way of pooling does", columns, list(said.items())),)


def _costs(results: Mapping[str, TargetResult]) -> Table:
    """Encodings, instances and seconds of every arm; the first two are the means over targets."""
    # An arm may have failed on one target and not on another.
    of_arm: dict[str, list[ArmRun]] = {}
    for result in results.values():
        for run in result.runs:
            of_arm.setdefault(run.arm.id, []).append(run)

    def encodings(same: Sequence[ArmRun]) -> float | None:
        known = [run.encodings_per_slide for run in same if run.encodings_per_slide is not None]
        return sum(known) / len(known) if known else None

    columns = (
        Field("Arm", "0.arm.name"),
        Field("Pooling", "0.arm.pooling"),
        Field(
            "Tiles encoded per slide",
            encodings,
            show=",.0f",
            help="Passes through a tile encoder that the arm needs.",
            is_optional=True,
        ),
        Field(
            "Vectors pooled per slide",
            lambda same: sum(run.instances_per_slide for run in same) / len(same),
            show=",.0f",
            help="What the pooling sees.",
        ),
        Field(
            "Seconds of fitting",
            lambda same: sum(run.seconds for run in same),
            show=".1f",
            help="Wall-clock time of all folds and choices on this machine.",
        ),
    )
    notes = (
        "Encoding tiles is nearly all of the cost of a new slide; fitting is paid once. An arm that averages the "
        "predictions of others has no fit of its own, and its seconds are theirs.",
    )
    return page_table(
        "Cost of every arm, all targets together",
        columns,
        list(of_arm.values()),
        by="0.arm.family",
        footnotes=notes,
    )
