"""The page of an exploration: which cell is best, what each axis does, what training earns, and what it costs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from parfocal.lab.explore.scoring import Failure
from parfocal.lab.explore.summary import AUC, R2, CellSummary, Effect, Exploration, Spread
from parfocal.report import Figure, Note, ReportPage, Section, Table, Text
from parfocal.report.drawing import Plot, nice_ticks, shorten
from parfocal.report.page import Block, RowKind
from parfocal.report.writer import Field, page_table

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
        Section("What pretraining brings over random weights", (Text((_GAINS,)), *_gain_tables(found))),
        Section("Where the R2 comes from", (_parts_table(found),)),
    ]
    if found.has_auc:
        sections.append(Section("What slide classifiers get", tuple(_arm_tables(found))))
    cost = page_table("What each cell costs", _COST, _with_encoder(found))
    sections.append(Section("Cost, and signs of collapse", (cost, *_warning_notes(found))))
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
    has_auc = found.has_auc
    columns = (
        Field("Cell", "cell.name"),
        _spread("Held-out R2", "r2", help_="Linear readout, mean over mask patterns and magnifications; ± over seeds."),
        _rank(R2, help_="By the mean over seeds, and the best and the worst place in single seeds."),
        _spread("Own decoder's R2", "r2_decoder", help_="Where the cell's decoder predicts embeddings."),
        *((_spread("AUC, mean", "auc", help_="Over readouts and poolings."), _rank(AUC)) if has_auc else ()),
        Field("Seeds", "n_seeds"),
    )
    table = page_table(
        "Every cell, the best first",
        columns,
        (*found.cells, *found.controls),
        by="part",
        kind=lambda one: "highlight" if one is found.best else _kind(one),
    )
    blocks: list[Block] = [table, _dots(found, R2, _of_one_question(found))]
    if has_auc:
        blocks.append(_dots(found, AUC, _with_encoder(found)))
    return tuple(blocks)


def _with_encoder(found: Exploration) -> list[CellSummary]:
    """All but the tile embeddings by themselves, which have other arms and no training."""
    return [one for one in (*found.cells, *found.controls) if one.cell.kind != "tiles"]


def _kind(one: CellSummary) -> RowKind:
    return "plain" if one.cell.kind == "trained" else "muted"


def _spread(title: str, path: str, *, signed: bool = False, help_: str = "") -> Field:
    return Field(title, path, show=partial(show, signed=signed), help=help_, align="right")


def _rank(metric: str, *, help_: str = "") -> Field:
    def cell(places: tuple[int, int, int]) -> str:
        place, best, worst = places
        return f"{place} ({best} to {worst})" if best != worst else str(place)

    return Field("Rank (seeds)", f"rank.{metric}", show=cell, help=help_, align="right")


def _of_one_question(found: Exploration) -> list[CellSummary]:
    """Cells and controls whose R2 can stand on one axis."""
    question = next((one.cell.data for one in found.cells if R2 in one.rank), None)
    return [one for one in (*found.cells, *found.controls) if one.cell.data == question]


def _dots(found: Exploration, metric: str, cells: Sequence[CellSummary]) -> Figure:
    """Every seed of every cell as a dot, and a tick at the mean."""
    ordered = sorted((one for one in cells if one.score(metric).by_seed), key=lambda one: -one.score(metric).mean)
    lines = [
        _Line(one.cell.name, one.score(metric), 0 if one.cell.kind == "trained" else 1, one is found.best)
        for one in ordered
    ]
    caption = f"{metric}: a dot for each seed, a tick at their mean; controls in orange."
    return _dot_figure(lines, metric, caption, f"{metric} of every cell. ", signed=False)


def _effect_figure(effects: Sequence[Effect]) -> Figure:
    axes = list(dict.fromkeys(one.axis for one in effects if one.r2.by_seed))
    lines = [_Line(f"{one.axis}={one.level}", one.r2, axes.index(one.axis) % 6) for one in effects if one.r2.by_seed]
    caption = "Change of held-out R2 against the first value of each axis, a dot for each seed."
    return _dot_figure(lines, "change of held-out R2", caption, "Change of held-out R2. ", signed=True)


@dataclass(frozen=True)
class _Line:
    """A line of a figure of dots."""

    label: str
    spread: Spread
    series: int
    is_best: bool = False


def _dot_figure(lines: Sequence[_Line], axis: str, caption: str, alt: str, *, signed: bool) -> Figure:
    """A dot for each seed; of changes, which are signed, against a line at 0, else with a tick at the mean."""
    values = [value for line in lines for value in line.spread.by_seed.values()] + ([0.0] if signed else [])
    room = max((max(values) - min(values)) * 0.05, 0.002 if signed else 0.005)
    low, high, height = min(values) - room, max(values) + room, 22
    plot = Plot(1000, len(lines) * height + 60, x=(low, high), y=(0, 1), left=330, right=120, bottom=50)
    bottom = 12 + len(lines) * height
    for tick in nice_ticks(low, high):
        plot.segment(plot.px(tick), 8, plot.px(tick), bottom, "grid")
        plot.text(plot.px(tick), bottom + 18, f"{tick:+g}" if signed else f"{tick:g}", "soft", anchor="middle")
    if signed:
        plot.segment(plot.px(0), 8, plot.px(0), bottom, "chance", 1.6)
    for number, line in enumerate(lines):
        middle = 12 + (number + 0.5) * height
        if line.is_best:
            plot.stripe(middle - height / 2, height)
        plot.text(8, middle + 4, shorten(line.label, 50), "strong" if line.is_best else "")
        if not signed:
            mean = plot.px(line.spread.mean)
            plot.segment(mean, middle - 8, mean, middle + 8, "axis", 2)
        for value in line.spread.by_seed.values():
            plot.dot(plot.px(value), middle, line.series, 3.5)
        plot.text(1000 - 112, middle + 4, show(line.spread, signed=signed), "soft")
    plot.text((plot.px(low + room) + plot.px(high - room)) / 2, bottom + 38, axis, "soft", anchor="middle")
    alt += "; ".join(f"{line.label}: {show(line.spread, signed=signed)}" for line in lines)
    return Figure.of(plot.svg(), caption, alt)


_CLEAR = "All seeds agree, and the mean is above twice its standard error."


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
    columns = (
        Field("Value", "level"),
        Field("Against", "against"),
        _spread("Held-out R2", "r2", signed=True, help_="Change, ± over seeds."),
        Field("Clear", lambda one: _is_clear(one.r2), help=_CLEAR, align="center"),
        *((_spread("AUC, mean", "auc", signed=True, help_="Change, ± over seeds."),) if found.has_auc else ()),
        *((Field("Clear", lambda one: _is_clear(one.auc), align="center"),) if found.has_auc else ()),
        Field("Pairs", "n_pairs", help="Pairs of cells that differ in this axis alone."),
    )
    note = (
        "A change against the axis's first value, seed by seed, all else equal. With few seeds 'clear' is a weak word: "
        "of 20 values without any effect, a handful can look clear by chance."
    )
    table = page_table(
        "Every value against the first of its axis", columns, found.effects, by="axis", footnotes=(note,)
    )
    return table, _effect_figure(found.effects), *notes


_GAINS = (
    "A region encoder with random weights mixes tokens too, and a readout can use that. The share of training is "
    "(trained - random weights) / (trained - reference): 1 when random weights bring nothing over the reference, 0 "
    "when they bring all, above 1 when they are worse than the reference. There is no share where the total gain stays "
    "within its spread over seeds or, for an AUC, within its interval over folds."
)
_GAIN = (
    Field("Measure", "metric"),
    Field("Reference", "reference"),
    Field("Its value", "reference_value", show=".3f"),
    _spread("Random weights", "random"),
    _spread("Trained", "trained"),
    # Adding 0 turns a rounded -0 into 0.
    Field(
        "Share of training",
        lambda one: f"{round(100 * one.share) + 0} %" if one.share == one.share else one.why_none,
        align="right",
    ),
)


def _gain_tables(found: Exploration) -> list[Table]:
    cells = groupby(found.gains, lambda one: one.cell)
    return [page_table(f"What training brings: {name}", _GAIN, list(gains)) for name, gains in cells]


def _parts_table(found: Exploration) -> Table:
    everything = (*found.cells, *found.controls)
    keys = dict.fromkeys(key for one in everything for key in one.r2_parts)
    means = (_mean(f"{pattern}, {mpp} mpp", "r2_parts", (pattern, mpp), ".3f") for pattern, mpp in keys)
    title = "Held-out R2 of the linear readout by what is hidden, mean over seeds"
    return page_table(title, (Field("Cell", "cell.name"), *means), everything, kind=_kind)


def _mean(title: str, name: str, key: Hashable, spec: str, help_: str = "") -> Field:
    """The mean over seeds of one of the spreads that the attribute `name` holds."""
    return Field(title, lambda one: getattr(one, name).get(key, Spread()).mean, show=spec, help=help_, align="right")


def _arm_tables(found: Exploration) -> list[Table]:
    labels = dict.fromkeys(label for one in found.cells for label in one.arms)
    columns = (Field("Cell", "cell.name"), *(_arm(label) for label in labels))
    ordered = sorted(_with_encoder(found), key=lambda one: (one.cell.kind != "trained", -one.auc.mean))
    tables = [page_table("AUC of slide classifiers, mean and spread over seeds", columns, ordered, kind=_kind)]
    for one in found.controls:
        if one.cell.kind == "tiles" and one.arms:
            arms = [{"label": label, "auc": spread} for label, spread in one.arms.items()]
            tables.append(page_table(f"AUC with {one.cell.name}", (Field("Arm", "label"), _spread("AUC", "auc")), arms))
    return tables


def _arm(label: str) -> Field:
    return Field(label, lambda one: one.arms.get(label), show=show, align="right")


_COST = (
    Field("Cell", "cell.name"),
    Field(
        "Training, s",
        "training_seconds.mean",
        show=",.0f",
        help="Of the steps alone, wall-clock time, mean over seeds.",
    ),
    Field("Encoder parameters", "parameters"),
    _mean("Rank of CLS", "monitors", "rank_me_cls", ".1f", "RankMe on held-out regions."),
    _mean("Token cosine", "monitors", "token_cosine", ".2f", "Of two tokens of a region; near 1 is over-smoothed."),
    _mean(
        "Retention R2", "monitors", "retention_r2", ".2f", "What of a tile's own embedding its contextual token keeps."
    ),
    _mean("Slide probe", "monitors", "slide_probe", ".2f", "How often a linear probe names the slide of a region."),
)


def _warning_notes(found: Exploration) -> list[Note]:
    by_sentence: dict[str, list[str]] = {}
    for one in found.cells:
        for sentence, count in one.warnings.items():
            by_sentence.setdefault(sentence, []).append(f"{one.cell.name} ({count} seeds)")
    return [Note(sentence, ", ".join(cells)) for sentence, cells in list(by_sentence.items())[:12]]


def _left_out(found: Exploration, failures: Sequence[Failure]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if failures:
        columns = [Field(name.capitalize(), name) for name in ("cell", "seed", "error", "message")]
        blocks.append(page_table("Runs that failed", columns, failures))
    if found.impossible:
        reasons = [{"cell": name, "reason": reason} for name, reason in found.impossible]
        columns = [Field("Cell", "cell"), Field("Reason", "reason")]
        blocks.append(page_table("Combinations that contradict themselves", columns, reasons))
    return tuple(blocks)
