"""The page of an evaluation: what was compared, the table of each target, and what it can and cannot show."""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.report import Column, ReportPage, Row, Section, Table, Text
from parfocal.report.page import Block
from parfocal.studies.arm import ARM_METHODS
from parfocal.studies.evaluation.page_summary import across_sentences, missing_sentences, summary_section
from parfocal.studies.evaluation.page_target import choices_table, target_blocks, target_sentences
from parfocal.studies.evaluation.result import AcrossTargets, ArmRun, TargetResult

__all__ = ["evaluation_page"]

# More sentences than those of two targets would bury the answer.
_MOST_IN_LEAD = 2

_QUESTION = "Is a label predicted better from a slide's magnifications together than from the best of them alone?"
_METHOD = (
    "Every arm is fitted on the same folds and offered choices inside each training fold: the vectors as they are, or "
    "centred and whitened to a few components, times four strengths of what keeps its pooling simple (penalty, "
    "training steps, rank). Nothing from a test fold has a say in any of them. Cross-scale contrast, and the second "
    "moment, are offered more: directions sharpened by how the regions group, and a bend fitted with six numbers. A "
    "region encoder that is trained on is offered fewer: two poolings and four numbers of steps.",
    "Gated attention is that of Ilse, Tomczak and Welling (2018). Cross-scale contrast is what the products of two "
    "magnifications within regions have to do with the label: its leading directions, stacked with the slide means; "
    "with one kind of vector it is the second moment of that.",
    "Scores of different folds come from different fits and are never ranked together. Only the calibration puts the "
    "folds of a repeat together, because probabilities claim a common scale.",
    "The number of an arm is the mean over folds. Its interval is about what such fits, each on the training patients "
    "of one fold of another cohort like this one, reach on a large new population on average. It adds what the "
    "patients vary, with the fits as they are, to what the fits vary, which the repeats show; the p-values are those "
    "of the same sum. Of an AUC it is never narrower than the number of patients allows (Newcombe 2006).",
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
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    primary: AcrossTargets | None = None,
    picked: AcrossTargets | None = None,
    sections: Sequence[Section] = (),
) -> ReportPage:
    """The page; `sections` follow the targets, then costs, and what every arm chose comes last.

    Args:
        results: by target.
        settings: everything that made them.
        seed: of splits, inner folds, networks and draws.
        inputs: the digests of what went in.
        primary: the comparison named before looking, over the targets.
        picked: the best against the best, over the targets.
        sections: further parts.
    """
    in_lead = len(results) <= _MOST_IN_LEAD
    lead = missing_sentences(results) + (across_sentences(results, primary)[:1] if primary is not None else ())
    if in_lead:
        lead += tuple(sentence for target, result in results.items() for sentence in target_sentences(target, result))
    summary = summary_section(results, primary, picked)
    cohort = next(iter(results.values())).cohort  # all were read by the same columns
    counted = _BY_SLIDE if cohort.count == "slide" else _BY_PATIENT
    method: tuple[str, ...] = (*map(cohort.worded, _METHOD), counted if cohort.is_grouped else _BY_NOTHING)
    if any(run.seed_sd is not None for result in results.values() for run in result.runs):
        method += (cohort.worded(_SEEDS),)
    if settings.get("probes", {}).get("balanced"):
        method += (cohort.worded(_BALANCED),)
    return ReportPage(
        title="Magnifications compared: " + ", ".join(results),
        lead=(_QUESTION, *lead),
        sections=(
            *([] if summary is None else [summary]),
            *(
                Section(target, target_blocks(target, result, with_sentences=not in_lead))
                for target, result in results.items()
            ),
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
    said = {arm.pooling: ARM_METHODS[arm.method] for arm in arms if arm.method in ARM_METHODS}
    if not said:
        return ()
    rows = tuple(Row((pooling, what)) for pooling, what in said.items())
    return (Table("What each way of pooling does", (Column("Pooling"), Column("What it is")), rows),)


def _costs(results: Mapping[str, TargetResult]) -> Table:
    """Encodings, instances and seconds of every arm; the first two are the means over targets."""
    # An arm may have failed on one target and not on another.
    of_arm: dict[tuple[str, str], list[ArmRun]] = {}
    for result in results.values():
        for run in result.runs:
            of_arm.setdefault((run.arm.family, run.arm.label), []).append(run)
    with_encodings = any(run.encodings_per_slide is not None for same in of_arm.values() for run in same)
    columns = [Column("Arm"), Column("Pooling")]
    if with_encodings:
        columns.append(Column("Tiles encoded per slide", "right", "Passes through a tile encoder that the arm needs."))
    columns += [
        Column("Vectors pooled per slide", "right", "What the pooling sees."),
        Column("Seconds of fitting", "right", "Wall-clock time of all folds and choices on this machine."),
    ]
    rows, family = [], ""
    for same in of_arm.values():
        arm = same[0].arm
        if arm.family != family:
            family = arm.family
            rows.append(Row((family,), "group"))
        cells = [arm.name, arm.pooling]
        if with_encodings:
            known = [one.encodings_per_slide for one in same if one.encodings_per_slide is not None]
            cells.append(f"{sum(known) / len(known):,.0f}" if known else "–")
        cells.append(f"{sum(one.instances_per_slide for one in same) / len(same):,.0f}")
        cells.append(f"{sum(one.seconds for one in same):.1f}")
        rows.append(Row(tuple(cells)))
    notes = (
        "Encoding tiles is nearly all of the cost of a new slide; fitting is paid once. An arm that averages the "
        "predictions of others has no fit of its own, and its seconds are theirs.",
    )
    return Table("Cost of every arm, all targets together", tuple(columns), tuple(rows), notes)
