"""The page of one slide, for papers and mails: a sentence, a table and its heatmaps, in one file."""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.explain.heatmaps import PartMap
from parfocal.explain.page import METHOD, sentences, signed
from parfocal.explain.result import PartOfScore, SlideParts
from parfocal.predict import Head
from parfocal.report import Column, Figure, Note, Panel, ReportPage, Row, Section, Table, Text
from parfocal.report.page import Block


def slide_page(
    head: Head,
    slide: SlideParts,
    columns: Sequence[str],
    parts: Sequence[PartOfScore],
    maps: Sequence[PartMap],
    drawn: Sequence[bytes],
    *,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> ReportPage:
    """The page.

    Args:
        head: what is explained.
        slide: its parts.
        columns: the names of the scores.
        parts: the same of this slide alone, by name.
        maps: of its regions; none where a score is no sum over regions.
        drawn: the picture of each.
        settings: everything that made it.
        inputs: the digests of what went in.
    """
    said = ", ".join(f"{name} {value:.4g}" for name, value in slide.prediction.items())
    blocks = list[Block]()
    for place, column in enumerate(columns):
        caption = "What each part adds" + (f" to the score of {column}" if len(columns) > 1 else "")
        own = [(one.name, one.mean) for one in parts if one.column == column]
        rows = [("no magnification", float(slide.base[place])), *own, ("the score", float(slide.score[place]))]
        cells = tuple(Row((name, signed(value))) for name, value in rows)
        blocks.append(Table(caption, (Column("Part"), Column("Adds", "right")), cells))
    sections = [Section("What carries the score", tuple(blocks))]
    if maps:
        panels = [
            Panel(picture, f"Map of {one.label} over slide {slide.slide}", one.label)
            for one, picture in zip(maps, drawn, strict=True)
        ]
        figures, of_score = list[Block](), len(maps) // len(columns)
        for begin in range(0, len(panels), of_score):
            first, *others = panels[begin : begin + of_score]
            figures.append(Figure((first,), "Orange where a region raises the score, blue where it lowers it."))
            figures.append(Figure(tuple(others), "The parts of it, on the same scale."))
        sections.append(Section("Where", tuple(figures)))
    else:
        sections.append(Section("Where", (Note("The score is no sum over regions, so there is no map of it."),)))
    sections.append(Section("What the numbers are", (Text(METHOD),)))
    return ReportPage(
        title=f"{slide.slide}: {head.facts.target}, by {head.facts.arm_label}",
        lead=(f"After calibration: {said}.", *sentences(head.facts.target, [slide], columns, parts)),
        sections=tuple(sections),
        settings=settings,
        inputs=inputs,
    )
