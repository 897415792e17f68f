"""The page of a proof: the verdict first, then one summary, then every number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.geometry import format_mpp
from parfocal.lab.prove.baselines import BASELINES
from parfocal.lab.prove.controls import CONTROLS
from parfocal.lab.prove.result import ProofResult, smallest_leads
from parfocal.lab.prove.scores import LEVELS, Calibration
from parfocal.lab.prove.verdict import PatternVerdict, show_signed3
from parfocal.report import Column, Figure, Note, ReportPage, Row, Section, Table, Text, curves_panel
from parfocal.report.drawing import Plot, nice_ticks
from parfocal.report.page import Block

__all__ = ["METHODS", "proof_page"]

METHODS: Mapping[str, str] = {"model": "the pretrained region encoder and its decoder", **BASELINES, **CONTROLS}
"""Every row of the tables in a few words."""

_LOWEST = -0.25

_READING = (
    "Some tiles of a region are hidden, and everybody is asked what their embeddings were. R2 is the share of the "
    "hidden tiles' variance, about the mean of the training tiles, that is predicted: 1 is perfect, 0 is no better "
    "than that mean, below 0 is worse. Where several magnifications are hidden, each counts the same.",
    "Cross-scale structure counts as learnt where, with a whole magnification hidden, the model beats B5 and B9 (the "
    "95 % interval of the difference lies above 0) and random weights, no other baseline is ahead, and more than half "
    "of its gain over B1 is gone when it is shown another region of the same slide (C1). Random weights are beaten "
    "where the model is above a decoder that was trained as long on an encoder with random weights, whether that mixes "
    "tiles fully (C3) or hardly (C3s), and above a ridge regression on their tokens (E0, E0s), and where that ridge "
    "on the model's tokens (E1) is above it too: else what is learnt may be the decoder's or the readout's.",
)
_BASELINES = (
    "B0 to B10 are simple explanations of a good score. B1 knows the slide and nothing else: what it reaches is stain, "
    "scanner and organ. B5 and B9 are the best that a linear map and a Gaussian field can do with the visible tiles "
    "of the very same region; B10 is a network that sees them all and is trained as the model was. C1 and C2 are the "
    "model with something taken away, C3 is its decoder on an encoder that learnt nothing, E1 and E0 are encoders "
    "without a decoder."
)


def proof_page(result: ProofResult, *, settings: Mapping[str, Any], seed: int, inputs: Mapping[str, str]) -> ReportPage:
    """The whole page."""
    sections = [
        Section("Summary", tuple(_summary(result))),
        *(Section(verdict.pattern.title, tuple(_pattern_blocks(result, verdict))) for verdict in result.verdicts),
        Section("Which tile is it?", tuple(_retrieval(result))),
        Section("Does it know what it does not know?", tuple(_calibration(result))),
        Section("How it was measured", (Text((_BASELINES, *result.notes)), _choices(result))),
    ]
    return ReportPage(
        title="Is cross-scale structure learnt?",
        lead=result.sentences,
        sections=tuple(sections),
        settings=settings,
        seeds={"samples, masks, networks and intervals": seed},
        inputs=inputs,
    )


def _summary(result: ProofResult) -> list[Block]:
    rows = []
    for one in result.verdicts:
        rows.append(
            Row(
                (
                    one.pattern.name,
                    _r2(one.r2),
                    f"{one.best_baseline}: {_r2(one.best_r2)}",
                    *(
                        show_signed3(interval) if interval else "–"
                        for interval in (*one.minus.values(), *smallest_leads(one))
                    ),
                    _share(one.lost),
                    _share(one.foreign_lost),
                    "yes" if one.holds else "no",
                ),
                "highlight" if one.pattern.is_cross_scale else "plain",
            )
        )
    columns = (
        Column("Hidden"),
        Column("Model, R2", "right"),
        Column("Best baseline", "right"),
        Column("Model minus B5", "right", "Difference of R2, with its 95 % interval."),
        Column("Model minus B9", "right", "Difference of R2, with its 95 % interval."),
        Column("Model minus C3", "right", "Over the decoders on random weights, C3 or C3s; the smaller lead."),
        Column("Model minus E0", "right", "Over the ridge on random weights, E0 or E0s; the smaller lead."),
        Column("E1 minus E0", "right", "The same ridge on the model's tokens over it; the smaller lead."),
        Column("Lost with C1", "right", "Share of the gain over B1 that is gone with another region's visible tiles."),
        Column("Lost with C1x", "right", "The same, when only the other magnifications are another region's."),
        Column(
            "Holds", "center", "Above B5, B9 and random weights, no baseline ahead, and more than half lost with C1."
        ),
    )
    blocks: list[Block] = [
        Text((result.what, *_READING)),
        Table(
            "The model against its strongest rivals",
            columns,
            tuple(rows),
            ("Marked rows hide a whole magnification: only they decide about cross-scale structure.",),
        ),
    ]
    if result.one_slide:
        blocks.append(
            Note(
                "Training and held-out regions are from one slide. Stain, scanner, patient and diagnosis are the same "
                "in both, so this page says whether the model learnt how magnifications of this tissue belong "
                "together. Whether that holds for another slide, only another slide can say.",
                "What one slide can show",
            )
        )
    blocks += [Note(note, "Left out or remarkable") for note in result.remarks]
    return blocks


def _pattern_blocks(result: ProofResult, verdict: PatternVerdict) -> list[Block]:
    name, scores, layout = verdict.pattern.name, result.scores, result.layout
    levels = scores.levels(name)
    shown = [method for method in METHODS if (method, name) in scores.error]
    intervals = {method: result.intervals.get((method, name)) for method in shown}
    rows = []
    for method in shown:
        interval, difference = intervals[method], result.differences.get((method, name))
        rows.append(
            Row(
                (
                    method,
                    METHODS[method],
                    *(_r2(scores.r2(method, name, level)) for level in levels),
                    *([_r2(scores.r2(method, name))] if len(levels) > 1 else []),
                    f"{_r2(interval.low)} to {_r2(interval.high)}" if interval else "–",
                    show_signed3(difference) if difference else "",
                ),
                "highlight" if method == "model" else "plain",
            )
        )
    columns = (
        Column("Row"),
        Column("Predicts by"),
        *(Column(f"{format_mpp(layout.mpps[level])} mpp", "right", "R2 of the hidden tiles.") for level in levels),
        *([Column("Mean", "right", "Over the hidden magnifications.")] if len(levels) > 1 else []),
        Column("95 % interval", "right", f"Bootstrap over {result.clusters}."),
        Column("Model minus it", "right", "Paired over the same slides."),
    )
    values = {method: (scores.r2(method, name), intervals[method]) for method in shown}
    figure = _r2_figure(values, name)
    caption = f"R2 of hidden tiles. {verdict.pattern.sentence}"
    return [Table(caption, columns, tuple(rows)), figure]


def _r2_figure(values: Mapping[str, tuple[float, Any]], name: str) -> Figure:
    """Every row as a dot with its interval; what is far below 0 stands at the edge."""
    finite = {method: value for method, value in values.items() if not math.isnan(value[0])}
    top = max([value for value, _ in finite.values()] + [interval.high for _, interval in finite.values() if interval])
    low, high = max(_LOWEST, min(value for value, _ in finite.values()) - 0.02), max(top * 1.08, 0.05)
    height = 24
    total = 10 + height * len(finite)
    plot = Plot(900, total + 50, x=(low, high), y=(0, 1), left=110, right=90, top=8, bottom=44)
    for tick in nice_ticks(low, high):
        plot.segment(plot.px(tick), 8, plot.px(tick), total, "grid")
        plot.text(plot.px(tick), total + 17, f"{tick:g}", "soft", anchor="middle")
    plot.segment(plot.px(0), 8, plot.px(0), total, "chance", 1.6)
    plot.text((plot.px(low) + plot.px(high)) / 2, total + 36, "R2 (0: the training mean)", "soft", anchor="middle")
    for number, (method, (value, interval)) in enumerate(finite.items()):
        y = 20.0 + height * number
        series = 0 if method == "model" else 1 if method.startswith("B") else 2
        if method == "model":
            plot.stripe(y - height / 2, height)
        plot.text(8, y + 4, method, "strong" if method == "model" else "")
        if interval:
            at = [plot.px(min(max(end, low), high)) for end in (interval.low, interval.high)]
            plot.segment(at[0], y, at[1], y, f"l{series}", 2.4)
        plot.dot(plot.px(max(value, low)), y, series)
        plot.text(900 - 84, y + 4, _r2(value) + (" ◂" if value < low else ""))
    alt = f"R2 with {name} hidden. " + "; ".join(f"{method}: {_r2(value)}" for method, (value, _) in finite.items())
    caption = "The same as a picture: dots with 95 % intervals; the dashed line is the training mean."
    return Figure.of(plot.svg(), caption, alt)


def _retrieval(result: ProofResult) -> list[Block]:
    rows = []
    for (pattern, level), found in result.retrieval.items():
        rows.append(
            Row(
                (
                    f"{pattern}, {format_mpp(result.layout.mpps[level])} mpp",
                    *(_percent(found.top1.get(method, math.nan)) for method in result.retrieved),
                    _percent(found.chance),
                    f"{found.n_queries}",
                    f"{found.n_candidates:.0f}",
                )
            )
        )
    columns = (
        Column("Hidden"),
        *(Column(method, "right", METHODS[method]) for method in result.retrieved),
        Column("Guessing", "right"),
        Column("Asked", "right", "Hidden tiles that were asked for."),
        Column("Of", "right", "Tiles of a slide to pick from, on average."),
    )
    text = (
        "Each prediction picks the most similar of all tiles of its magnification in its slide. The share of true "
        "tiles among the picks knows nothing of the slide's mean: stain alone is as good as guessing."
    )
    return [Text((text,)), Table("How often the true tile is picked from all tiles of its slide", columns, tuple(rows))]


def _calibration(result: ProofResult) -> list[Block]:
    if not result.calibration:
        return [Text(("Predicted variances were not trained, so there is nothing to compare with the errors.",))]
    rows, panels = [], []
    for (pattern, level), found in result.calibration.items():
        where = f"{pattern}, {format_mpp(result.layout.mpps[level])} mpp"
        for method, one in found.items():
            coverage = (_percent(one.at(0.5)), _percent(one.at(0.9)))
            rows.append(Row((where, method, *coverage, _r2(one.spearman), f"{one.n_tiles}")))
        if pattern.startswith("whole"):
            panels.append(_coverage_panel(where, found))
    columns = (
        Column("Hidden"),
        Column("Whose variance"),
        Column("Inside 50 %", "right", "Share of the numbers inside the 50 % interval; 50 % is right."),
        Column("Inside 90 %", "right", "Share of the numbers inside the 90 % interval; 90 % is right."),
        Column("Spearman", "right", "Rank correlation of predicted variance and squared error, over tiles."),
        Column("Tiles", "right"),
    )
    text = (
        "With each hidden tile the model says how sure it is. Of intervals that claim 90 %, nine in ten should hold "
        "the truth; and tiles it calls uncertain should be those it gets wrong (Spearman above 0). A Gaussian field "
        "(B9) has one variance for each set of visible tiles, whatever they look like."
    )
    blocks: list[Block] = [Text((text,)), Table("Predicted variances against errors", columns, tuple(rows))]
    if panels:
        blocks.append(Figure(tuple(panels), "Share of numbers inside an interval over the share that it claims."))
    return blocks


def _coverage_panel(where: str, found: Mapping[str, Calibration]) -> Any:
    series: dict[str, Sequence[float]] = {"as claimed": LEVELS}
    series |= {method: one.coverage for method, one in found.items()}
    return curves_panel(LEVELS, series, x_label="Claimed", y_label="Inside", label=where, width=300)


def _choices(result: ProofResult) -> Table:
    names = list(next(iter(result.choices.values())))
    rows = tuple(Row((pattern, *(f"{values[name]:g}" for name in names))) for pattern, values in result.choices.items())
    columns = (Column("Hidden"), *(Column(name, "right") for name in names))
    return Table("What was chosen on validation regions of the training slides", columns, rows)


def _r2(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "\u2212")


def _share(value: float) -> str:
    if math.isnan(value):
        return "no gain"
    return "all" if value >= 1 else f"{value:.0%}".replace("%", " %").replace("-", "\u2212")


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"
