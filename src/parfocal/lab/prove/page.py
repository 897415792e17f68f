"""The page of a proof: the verdict first, then one summary, then every number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.lab.prove.result import METHODS, RETRIEVED, SUMMARY, PatternResult, ProofResult
from parfocal.lab.prove.scores import LEVELS, Calibration
from parfocal.lab.prove.verdict import show_signed3
from parfocal.report import Figure, Note, ReportPage, Section, Table, Text, curves_panel
from parfocal.report.drawing import Plot, nice_ticks
from parfocal.report.page import Block
from parfocal.report.writer import Field, page_table
from parfocal.stats import Interval

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
        *(Section(one.verdict.pattern.title, _pattern_blocks(one, result.clusters)) for one in result.patterns),
        Section("Which tile is it?", _retrieval(result)),
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
    columns = (
        Field("Hidden", "name"),
        Field("Model, R2", "verdict.r2", show=".3f"),
        Field("Best baseline", lambda one: f"{one.verdict.best_baseline}: {_r2(one.verdict.best_r2)}", align="right"),
        *SUMMARY,
    )
    table = page_table(
        "The model against its strongest rivals",
        columns,
        result.patterns,
        kind=lambda one: "highlight" if one.verdict.pattern.is_cross_scale else "plain",
        footnotes=("Marked rows hide a whole magnification: only they decide about cross-scale structure.",),
    )
    blocks: list[Block] = [Text((result.what, *_READING)), table]
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


def _pattern_blocks(result: PatternResult, clusters: str) -> tuple[Block, ...]:
    mpps = list(result.rows[0].by_mpp)
    columns = (
        Field("Row", "method"),
        Field("Predicts by", lambda row: METHODS[row.method]),
        *(_of_mpp(mpp) for mpp in mpps),
        *([Field("Mean", "r2", show=".3f", help="Over the hidden magnifications.")] if len(mpps) > 1 else []),
        Field("95 % interval", "interval", "", _ends, f"Bootstrap over {clusters}.", "right"),
        Field("Model minus it", "difference", "", show_signed3, "Paired over the same slides.", "right", ""),
    )
    caption = f"R2 of hidden tiles. {result.verdict.pattern.sentence}"
    table = page_table(
        caption, columns, result.rows, kind=lambda row: "highlight" if row.method == "model" else "plain"
    )
    return table, _r2_figure({row.method: (row.r2, row.interval) for row in result.rows}, result.name)


def _of_mpp(mpp: str) -> Field:
    return Field(f"{mpp} mpp", lambda row: row.by_mpp[mpp], show=".3f", help="R2 of the hidden tiles.", align="right")


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


def _retrieval(result: ProofResult) -> tuple[Block, ...]:
    records = [
        {"where": f"{one.name}, {mpp} mpp", "picked": picked}
        for one in result.patterns
        for mpp, picked in one.retrieval.items()
    ]
    columns = (
        Field("Hidden", "where"),
        *(
            Field(method, f"picked.top1.{method}", show=_percent, help=METHODS[method], align="right", is_optional=True)
            for method in RETRIEVED
        ),
        Field("Guessing", "picked.chance", show=_percent),
        Field("Asked", "picked.n_queries", show="d", help="Hidden tiles that were asked for."),
        Field("Of", "picked.n_candidates", show=".0f", help="Tiles of a slide to pick from, on average."),
    )
    text = (
        "Each prediction picks the most similar of all tiles of its magnification in its slide. The share of true "
        "tiles among the picks knows nothing of the slide's mean: stain alone is as good as guessing."
    )
    return Text((text,)), page_table("How often the true tile is picked from all tiles of its slide", columns, records)


def _calibration(result: ProofResult) -> list[Block]:
    records, panels = [], []
    for one in result.patterns:
        for mpp, by_method in one.calibration.items():
            where = f"{one.name}, {mpp} mpp"
            records += [{"where": where, "method": method, "of": found} for method, found in by_method.items()]
            if one.verdict.pattern.is_cross_scale:
                panels.append(_coverage_panel(where, by_method))
    if not records:
        return [Text(("Predicted variances were not trained, so there is nothing to compare with the errors.",))]
    columns = (
        Field("Hidden", "where"),
        Field("Whose variance", "method"),
        *(
            Field(
                f"Inside {nominal:.0%}".replace("%", " %"),
                f"of.coverage.{LEVELS.index(nominal)}",
                show=_percent,
                help=f"Share of the numbers inside the {100 * nominal:.0f} % interval; {100 * nominal:.0f} % is right.",
            )
            for nominal in (0.5, 0.9)
        ),
        Field(
            "Spearman",
            "of.spearman",
            show=".3f",
            help="Rank correlation of predicted variance and squared error, over tiles.",
            align="right",
        ),
        Field("Tiles", "of.n_tiles", show="d"),
    )
    text = (
        "With each hidden tile the model says how sure it is. Of intervals that claim 90 %, nine in ten should hold "
        "the truth; and tiles it calls uncertain should be those it gets wrong (Spearman above 0). A Gaussian field "
        "(B9) has one variance for each set of visible tiles, whatever they look like."
    )
    blocks: list[Block] = [Text((text,)), page_table("Predicted variances against errors", columns, records)]
    if panels:
        blocks.append(Figure(tuple(panels), "Share of numbers inside an interval over the share that it claims."))
    return blocks


def _coverage_panel(where: str, found: Mapping[str, Calibration]) -> Any:
    series: dict[str, Sequence[float]] = {"as claimed": LEVELS}
    series |= {method: one.coverage for method, one in found.items()}
    return curves_panel(LEVELS, series, x_label="Claimed", y_label="Inside", label=where, width=300)


def _choices(result: ProofResult) -> Table:
    names = result.patterns[0].choices
    columns = (Field("Hidden", "name"), *(Field(name, f"choices.{name}", show="g") for name in names))
    return page_table("What was chosen on validation regions of the training slides", columns, result.patterns)


def _ends(interval: Interval) -> str:
    return f"{_r2(interval.low)} to {_r2(interval.high)}"


def _r2(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "\u2212")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
