"""The page of an exploration: which cell is best, what each axis does, what training earns, and what it costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.lab.explore.scoring import Failure
from parfocal.lab.explore.summary import AUC, R2, CellSummary, Effect, Exploration, Gain, Spread
from parfocal.report import Column, Figure, Note, ReportPage, Row, Section, Table, Text
from parfocal.report.drawing import Plot, nice_ticks, shorten
from parfocal.report.page import Block

__all__ = ["exploration_page"]

_METHOD = (
    "Every cell is pretrained on the same slides with the same seeds, then frozen. Held-out R2: a ridge regression "
    "predicts the standardised embedding of each hidden tile from CLS and from means of the contextual tokens of the "
    "visible ones, fitted on training slides and scored on held-out slides, with masks and regions that are the same "
    "for all cells; 0 is the training mean of a magnification. One such readout for each mask pattern and "
    "magnification, and their plain mean is what cells are ranked by. It is a common measure because a cell's own "
    "decoder is none: contrastive cells train no decoder, those with latent targets predict something else, and random "
    "weights predict nothing. The own decoder's R2 stands beside it where there is one.",
    "Slide classifiers: CLS and contextual tokens of all slides, each pooled by mean and logistic regression, by gated "
    "attention and by cross-scale contrast (for CLS its second moment), cross-validated on the same folds for all "
    "cells. Pretraining sees no label, but it sees slides that a fold tests on; only the held-out slides are unseen.",
    "Spread is the standard deviation over seeds: of weights, of the order of the data and of masks. It says nothing "
    "about other slides or other folds, which are the same for all cells. Differences of cells are taken seed by seed.",
    "Random weights: the same architecture, its standardisation taken from the training slides, and no training.",
)


def exploration_page(
    found: Exploration,
    failures: Sequence[Failure],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    seed: int,
    holdout: str,
) -> ReportPage:
    """The page of what was found."""
    sections = [
        Section("The cells", _cell_blocks(found)),
        Section("What each axis changes", _effect_blocks(found, failures)),
    ]
    sections.append(Section("What pretraining brings over random weights", (_gain_text(), *_gain_tables(found))))
    sections.append(Section("Where the R2 comes from", (_parts_table(found),)))
    if found.has_auc:
        sections.append(Section("What slide classifiers get", tuple(_arm_tables(found))))
    sections.append(Section("Cost, and signs of collapse", (_cost_table(found), *_warning_notes(found))))
    left_out = _left_out(found, failures)
    if left_out:
        sections.append(Section("Left out", left_out))
    sections.append(Section("How it was measured", (Text((*_METHOD, f"Split: {holdout}.")),)))
    return ReportPage(
        title="The design space of pretraining explored",
        lead=_lead(found, failures),
        sections=tuple(sections),
        settings=settings,
        seeds={"of cells": min(found.seeds), "held-out slides, masks, folds and classifiers": seed},
        inputs=inputs,
    )


def show(spread: Spread, *, signed: bool = False) -> str:
    """Mean and spread over seeds; a dash where there is nothing."""
    if not spread.by_seed:
        return "–"
    sign = "+" if signed else ""
    text = f"{spread.mean:{sign}.3f}"
    return text if math.isnan(spread.sd) else f"{text} ± {spread.sd:.3f}"


def _lead(found: Exploration, failures: Sequence[Failure]) -> tuple[str, ...]:
    best, n = found.best, len(found.cells)
    metric = found.ranked_by
    sentences = [
        f"{n} cells with {len(found.seeds)} seeds, ranked by {metric}. The best is {best.cell.name}: "
        f"{show(best.score(metric))} (mean and spread over seeds)."
    ]
    close = [one for one in found.cells[1:] if _is_close(best.score(metric), one.score(metric))]
    if close:
        names = ", ".join(one.cell.name for one in close[:4]) + (" and others" if len(close) > 4 else "")
        count = "1 cell" if len(close) == 1 else f"{len(close)} cells"
        sentences.append(f"{count} cannot be told from it by these seeds: {names}.")
    other = AUC if metric == R2 else R2
    if found.has_auc:
        second = min(found.cells, key=lambda one: one.rank.get(other, (n + 1,))[0])
        sentences.append(f"By {other} the best is {second.cell.name}: {show(second.score(other))}.")
    strong = [one for one in found.effects if _is_clear(one.r2)]
    if strong:
        largest = max(strong, key=lambda one: abs(one.r2.mean))
        sentences.append(
            f"The axis value that changes held-out R2 most is {largest.axis}={largest.level}: "
            f"{show(largest.r2, signed=True)} against {largest.against}."
        )
    if not found.one_question:
        sentences.append(
            "Cells with another set or other regions predict other targets: their R2 cannot be compared with the rest; "
            "what slide classifiers get from them can."
        )
    if failures:
        failed = list(dict.fromkeys(one.cell for one in failures))
        listed = ", ".join(failed[:4]) + (" and others" if len(failed) > 4 else "")
        sentences.append(f"{len(failures)} runs failed ({listed}) and have no place in this; run again to try again.")
    return tuple(sentences)


def _is_close(best: Spread, other: Spread) -> bool:
    """Whether the paired difference is less than twice its standard error over seeds."""
    difference = best.minus(other)
    n = len(difference.by_seed)
    return n < 2 or not difference.mean > 2 * difference.sd / math.sqrt(n)


def _is_clear(spread: Spread) -> bool:
    """Whether all seeds agree on the sign, and the mean is above twice its standard error."""
    values = list(spread.by_seed.values())
    if len(values) < 2 or len({value > 0 for value in values}) > 1:
        return False
    return abs(spread.mean) > 2 * spread.sd / math.sqrt(len(values))


def _cell_blocks(found: Exploration) -> tuple[Block, ...]:
    columns = [
        Column("Cell"),
        Column("Held-out R2", "right", "Linear readout, mean over mask patterns and magnifications; ± over seeds."),
        Column("Rank (seeds)", "right", "By the mean over seeds, and the best and the worst place in single seeds."),
        Column("Own decoder's R2", "right", "Where the cell's decoder predicts embeddings."),
    ]
    if found.has_auc:
        columns += [Column("AUC, mean", "right", "Over readouts and poolings."), Column("Rank (seeds)", "right")]
    columns.append(Column("Seeds", "right"))
    rows = [Row(_cell_cells(one, found), "highlight" if one is found.best else "plain") for one in found.cells]
    rows.append(Row(("Without pretraining",), "group"))
    rows += [Row(_cell_cells(one, found), "muted") for one in found.controls]
    blocks: list[Block] = [
        Table("Every cell, the best first", tuple(columns), tuple(rows)),
        _dots(found, R2, _of_one_question(found)),
    ]
    if found.has_auc:
        blocks.append(_dots(found, AUC, [*found.cells, *(c for c in found.controls if c.cell.kind == "random")]))
    return tuple(blocks)


def _of_one_question(found: Exploration) -> list[CellSummary]:
    """Cells and controls whose R2 can stand on one axis."""
    question = next((one.cell.data for one in found.cells if R2 in one.rank), None)
    return [one for one in (*found.cells, *found.controls) if one.cell.data == question]


def _cell_cells(one: CellSummary, found: Exploration) -> tuple[str, ...]:
    cells = [one.cell.name, show(one.r2), _rank(one, R2), show(one.r2_decoder)]
    if found.has_auc:
        # Tile embeddings have other arms: their mean is no number to compare.
        cells += [show(one.auc) if one.cell.kind != "tiles" else "–", _rank(one, AUC)]
    return (*cells, str(one.n_seeds))


def _rank(one: CellSummary, metric: str) -> str:
    if metric not in one.rank:
        return "–"
    place, best, worst = one.rank[metric]
    return f"{place} ({best} to {worst})" if best != worst else str(place)


def _dots(found: Exploration, metric: str, cells: Sequence[CellSummary]) -> Figure:
    """Every seed of every cell as a dot, and a tick at the mean."""
    ordered = sorted((one for one in cells if one.score(metric).by_seed), key=lambda one: -one.score(metric).mean)
    values = [value for one in ordered for value in one.score(metric).by_seed.values()]
    low, high = min(values), max(values)
    room = max((high - low) * 0.05, 0.005)
    height = 22
    plot = Plot(1000, len(ordered) * height + 60, x=(low - room, high + room), y=(0, 1), left=330, right=120, bottom=50)
    bottom = 12 + len(ordered) * height
    for tick in nice_ticks(low - room, high + room):
        plot.segment(plot.px(tick), 8, plot.px(tick), bottom, "grid")
        plot.text(plot.px(tick), bottom + 18, f"{tick:g}", "soft", anchor="middle")
    for number, one in enumerate(ordered):
        middle = 12 + (number + 0.5) * height
        spread = one.score(metric)
        if one is found.best:
            plot.stripe(middle - height / 2, height)
        plot.text(8, middle + 4, shorten(one.cell.name, 50), "strong" if one is found.best else "")
        plot.segment(plot.px(spread.mean), middle - 8, plot.px(spread.mean), middle + 8, "axis", 2)
        for value in spread.by_seed.values():
            plot.dot(plot.px(value), middle, 0 if one.cell.kind == "trained" else 1, 3.5)
        plot.text(1000 - 112, middle + 4, show(spread), "soft")
    plot.text((plot.px(low) + plot.px(high)) / 2, bottom + 38, metric, "soft", anchor="middle")
    alt = f"{metric} of every cell. " + "; ".join(f"{one.cell.name}: {show(one.score(metric))}" for one in ordered)
    return Figure.of(plot.svg(), f"{metric}: a dot for each seed, a tick at their mean; controls in orange.", alt)


def _effect_blocks(found: Exploration, failures: Sequence[Failure]) -> tuple[Block, ...]:
    measured = {(one.axis, one.level) for one in found.effects}
    absent = [
        f"{axis}={own}" for axis, labels in found.axes.items() for own in labels[1:] if (axis, own) not in measured
    ]
    notes: tuple[Block, ...] = ()
    if failures and absent:
        notes = (Note(f"No comparison is possible for {', '.join(absent)}.", "A cell of it failed"),)
    if not found.effects:
        return (*notes, Text(("No two cells differ in one axis alone.",)))
    columns = [Column("Value"), Column("Against"), Column("Held-out R2", "right", "Change, ± over seeds.")]
    columns.append(Column("Clear", "center", "All seeds agree, and the mean is above twice its standard error."))
    if found.has_auc:
        columns += [Column("AUC, mean", "right", "Change, ± over seeds."), Column("Clear", "center")]
    columns.append(Column("Pairs", "right", "Pairs of cells that differ in this axis alone."))
    rows, axis = [], None
    for one in found.effects:
        if one.axis != axis:
            rows.append(Row((one.axis,), "group"))
            axis = one.axis
        cells = [one.level, one.against, show(one.r2, signed=True), "yes" if _is_clear(one.r2) else "no"]
        if found.has_auc:
            cells += [show(one.auc, signed=True), "yes" if _is_clear(one.auc) else "no"]
        rows.append(Row((*cells, str(one.n_pairs))))
    note = (
        "A change against the axis's first value, seed by seed, all else equal. With few seeds 'clear' is a weak word: "
        "of 20 values without any effect, a handful can look clear by chance."
    )
    return (
        Table("Every value against the first of its axis", tuple(columns), tuple(rows), (note,)),
        _effect_figure(found.effects),
        *notes,
    )


def _effect_figure(effects: Sequence[Effect]) -> Figure:
    effects = [one for one in effects if one.r2.by_seed]
    values = [value for one in effects for value in one.r2.by_seed.values()] + [0.0]
    low, high = min(values), max(values)
    room = max((high - low) * 0.05, 0.002)
    height = 22
    plot = Plot(1000, len(effects) * height + 60, x=(low - room, high + room), y=(0, 1), left=330, right=120, bottom=50)
    bottom = 12 + len(effects) * height
    for tick in nice_ticks(low - room, high + room):
        plot.segment(plot.px(tick), 8, plot.px(tick), bottom, "grid")
        plot.text(plot.px(tick), bottom + 18, f"{tick:+g}", "soft", anchor="middle")
    plot.segment(plot.px(0), 8, plot.px(0), bottom, "chance", 1.6)
    axes = list(dict.fromkeys(one.axis for one in effects))
    for number, one in enumerate(effects):
        middle = 12 + (number + 0.5) * height
        plot.text(8, middle + 4, shorten(f"{one.axis}={one.level}", 50))
        for value in one.r2.by_seed.values():
            plot.dot(plot.px(value), middle, axes.index(one.axis) % 6, 3.5)
        plot.text(1000 - 112, middle + 4, show(one.r2, signed=True), "soft")
    plot.text((plot.px(low) + plot.px(high)) / 2, bottom + 38, "change of held-out R2", "soft", anchor="middle")
    alt = "Change of held-out R2. " + "; ".join(
        f"{one.axis}={one.level}: {show(one.r2, signed=True)}" for one in effects
    )
    return Figure.of(
        plot.svg(), "Change of held-out R2 against the first value of each axis, a dot for each seed.", alt
    )


def _gain_text() -> Text:
    return Text(
        (
            "A region encoder with random weights mixes tokens too, and a readout can use that. The share of training "
            "is (trained - random weights) / (trained - reference): 1 when random weights bring nothing over the "
            "reference, 0 when they bring all, above 1 when they are worse than the reference. There is no share where "
            "the total gain stays within its spread over seeds or, for an AUC, within its interval over folds.",
        )
    )


def _gain_tables(found: Exploration) -> list[Table]:
    columns = (
        Column("Measure"),
        Column("Reference"),
        Column("Its value", "right"),
        Column("Random weights", "right"),
        Column("Trained", "right"),
        Column("Share of training", "right"),
    )
    tables = []
    for name in dict.fromkeys(one.cell for one in found.gains):
        rows = tuple(_gain_row(one) for one in found.gains if one.cell == name)
        tables.append(Table(f"What training brings: {name}", columns, rows))
    return tables


def _gain_row(one: Gain) -> Row:
    # Adding 0 turns a rounded -0 into 0.
    share = f"{round(100 * one.share) + 0} %" if one.share == one.share else "worse" if one.is_worse else "no gain"
    return Row((one.metric, one.reference, f"{one.reference_value:.3f}", show(one.random), show(one.trained), share))


def _parts_table(found: Exploration) -> Table:
    keys = list(dict.fromkeys(key for one in (*found.cells, *found.controls) for key in one.r2_parts))
    columns = (Column("Cell"), *(Column(f"{pattern}, {mpp} mpp", "right") for pattern, mpp in keys))
    rows = [Row(_parts_cells(one, keys)) for one in found.cells]
    rows += [Row(_parts_cells(one, keys), "muted") for one in found.controls]
    return Table("Held-out R2 of the linear readout by what is hidden, mean over seeds", columns, tuple(rows))


def _parts_cells(one: CellSummary, keys: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return (one.cell.name, *(f"{one.r2_parts[key].mean:.3f}" if key in one.r2_parts else "–" for key in keys))


def _arm_tables(found: Exploration) -> list[Block]:
    labels = list(dict.fromkeys(label for one in found.cells for label in one.arms))
    columns = (Column("Cell"), *(Column(label, "right") for label in labels))
    ordered = sorted(found.cells, key=lambda one: -one.auc.mean)
    controls = [one for one in found.controls if one.cell.kind == "random"]
    rows = [Row((one.cell.name, *(show(one.arms.get(label, Spread())) for label in labels))) for one in ordered]
    rows += [
        Row((one.cell.name, *(show(one.arms.get(label, Spread())) for label in labels)), "muted") for one in controls
    ]
    blocks: list[Block] = [Table("AUC of slide classifiers, mean and spread over seeds", columns, tuple(rows))]
    for one in found.controls:
        if one.cell.kind == "tiles" and one.arms:
            own = tuple(Row((label, show(spread))) for label, spread in one.arms.items())
            blocks.append(Table(f"AUC with {one.cell.name}", (Column("Arm"), Column("AUC", "right")), own))
    return blocks


def _cost_table(found: Exploration) -> Table:
    columns = (
        Column("Cell"),
        Column("Training, s", "right", "Of the steps alone, wall-clock time, mean over seeds."),
        Column("Encoder parameters", "right"),
        Column("Rank of CLS", "right", "RankMe on held-out regions."),
        Column("Token cosine", "right", "Of two tokens of a region; near 1 is over-smoothed."),
        Column("Retention R2", "right", "What of a tile's own embedding its contextual token keeps."),
        Column("Slide probe", "right", "How often a linear probe names the slide of a region."),
    )
    rows = []
    for one in (*found.cells, *(c for c in found.controls if c.cell.kind == "random")):
        numbers = [one.monitors.get(name, Spread()).mean for name in ("rank_me_cls", "token_cosine", "retention_r2")]
        probe = one.monitors.get("slide_probe", Spread()).mean
        formats = zip((*numbers, probe), (".1f", ".2f", ".2f", ".2f"), strict=True)
        rows.append(
            Row(
                (
                    one.cell.name,
                    f"{one.training_seconds.mean:,.0f}",
                    f"{one.parameters:,}",
                    *("–" if math.isnan(value) else f"{value:{spec}}" for value, spec in formats),
                )
            )
        )
    return Table("What each cell costs", columns, tuple(rows))


def _warning_notes(found: Exploration) -> list[Note]:
    by_sentence: dict[str, list[str]] = {}
    for one in found.cells:
        for sentence, count in one.warnings.items():
            by_sentence.setdefault(sentence, []).append(f"{one.cell.name} ({count} seeds)")
    return [Note(sentence, ", ".join(cells)) for sentence, cells in list(by_sentence.items())[:12]]


def _left_out(found: Exploration, failures: Sequence[Failure]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if failures:
        rows = tuple(Row((one.cell, str(one.seed), one.error, one.message)) for one in failures)
        columns = (Column("Cell"), Column("Seed", "right"), Column("Error"), Column("Message"))
        blocks.append(Table("Runs that failed", columns, rows))
    if found.impossible:
        rows = tuple(Row(item) for item in found.impossible)
        blocks.append(Table("Combinations that contradict themselves", (Column("Cell"), Column("Reason")), rows))
    return tuple(blocks)
