"""The page of an explanation: one sentence, one table, one figure, and maps of a few slides."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.evaluate.places.maps import empty_ground, find_thumbnail
from parfocal.explain.result import ExplainSummary, PartOfScore, SlideParts
from parfocal.explain.slide import Sources, explain_slide
from parfocal.predict import Head
from parfocal.report import (
    Field,
    Figure,
    Note,
    ReportPage,
    Section,
    Text,
    bars_panel,
    page_table,
    slide_map_figure,
)
from parfocal.report.page import Block
from parfocal.table import some_of

_SAID = 0.0005  # what is less is written as 0.000

METHOD = (
    "The head was asked with every set of its magnifications. One that is left out is absent and not zero: a pair with "
    "one side missing is no evidence, and a slide mean that is missing is the training mean; attention is asked "
    "with a bag that lacks these tiles, and a region encoder is given the other tiles alone.",
    "The base is the score with no magnification. A Shapley value is what a magnification adds, as the mean over all "
    "orders in which magnifications could come; it takes half of each of its interactions. An interaction is what two "
    "add together beyond what each adds (Shapley interaction index). Alone is the Shapley value without these halves. "
    "So the base and the Shapley values add up to the score before calibration, and so do the base, what each adds "
    "alone and the interactions.",
    "The share of the differences is the covariance of a part with the score over the variance of the score, over "
    "slides: shares add up to 100 %, and a part that goes against the others has one below 0.",
    "Regions: what each adds to the score, so that with the base they add up to it. Of a contrast head a "
    "region adds its products of magnifications and its tiles' part of the slide means; of attention its tiles' shares "
    "of the attention times what each says alone. Attention is shared out among tiles, so a region's part depends on "
    "the other regions.",
    "All of it says what the head does with the embeddings, and not what causes a label. Where a magnification and a "
    "pair know the same a fit keeps one of them, so a pair that carries a score need not be what no magnification "
    "knows.",
)
_TABLE = (
    Field("name", "name", "Part"),
    Field("share", "share", "Share of the differences", lambda value: percent(value), align="right"),
    Field("mean", "mean", "Mean", "+.3f"),
    Field("spread", "spread", "Standard deviation", ".3f", is_optional=True),
)


def sentences(
    target: str, slides: Sequence[SlideParts], columns: Sequence[str], parts: Sequence[PartOfScore]
) -> tuple[str, ...]:
    """What carries the scores, in a sentence for each."""
    if not slides:
        return ("No slide could be explained.",)
    said = []
    for place, column in enumerate(columns):
        own = [one for one in parts if one.column == column]
        what = f"score of {target}" if len(columns) == 1 else f"score of {target} for {column}"
        if any(one.share is not None for one in own):
            said.append(_share_sentence(own, f"{len(slides)} slides apart in the {what}"))
            continue
        base = float(np.mean([one.base[place] for one in slides]))
        score = float(np.mean([one.score[place] for one in slides]))
        of = slides[0].slide if len(slides) == 1 else f"{len(slides)} slides, on average"
        some = sorted((one for one in own if abs(one.mean) >= _SAID), key=lambda one: -abs(one.mean))
        listed = ", ".join(f"{one.name} {signed(one.mean)}" for one in some) or "nothing else"
        rest = "; the other parts add nothing" if 0 < len(some) < len(own) else ""
        said.append(
            f"{of}: the {what} before calibration is {signed(score)}, which is {signed(base)} with no magnification "
            f"and {listed}{rest}."
        )
    return tuple(said)


def _share_sentence(parts: Sequence[PartOfScore], what: str) -> str:
    """Which part makes up how much of what tells slides apart, the largest first; parts of 0 % added nothing."""
    first, *others = sorted(parts, key=lambda one: -(one.share or 0.0))
    share = percent(first.share or 0.0)
    text = f"{_said(first.name)} made up {'all' if share == '100 %' else share} of what tells these {what}"
    some = [one for one in others if percent(one.share or 0.0) != "0 %"]
    if some:
        listed = ", ".join(f"{_said(one.name).lower()} {percent(one.share or 0.0)}" for one in some)
        text += f"; {listed}"
    if len(some) < len(others):
        text += "; nothing else added to it"
    return f"{text}."


def _said(name: str) -> str:
    """A part in words: "What 2 mpp and 0.5 mpp show together", or "What 2 mpp shows by itself"."""
    coarse, pairs, fine = name.partition(" with ")
    if pairs:
        return f"What {coarse} mpp and {fine} show together"
    return f"What {name.removesuffix(' alone')} shows by itself"


def explain_page(
    summary: ExplainSummary, figures: Sequence[Figure], *, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> ReportPage:
    """The page.

    Args:
        summary: what was found.
        figures: maps of slides.
        settings: everything that made it.
        inputs: the digests of what went in.
    """
    facts = summary.head.facts
    blocks = list[Block]()
    for column in summary.columns if summary.explained else ():
        own = [one for one in summary.parts if one.column == column]
        caption = "What each part adds" + (f" to the score of {column}" if len(summary.columns) > 1 else "")
        blocks += [page_table(caption, _TABLE, own), _bars(own, caption)]
    sections = [Section("What carries the score", tuple(blocks))] if blocks else []
    if figures:
        sections.append(Section("Where", tuple(figures)))
    sections.append(Section("What the numbers are", (Text(METHOD),)))
    if summary.failed:
        failed = some_of([one.slide for one in summary.failed])
        sections.insert(
            0, Section("To be known", (Note(f"{len(summary.failed)} slides have no explanation: {failed}."),))
        )
    return ReportPage(
        title=f"Why: {facts.target}, by {facts.arm_label}",
        lead=summary.sentences,
        sections=tuple(sections),
        settings=settings,
        inputs=inputs,
    )


def _bars(parts: Sequence[PartOfScore], caption: str) -> Figure:
    shares = [one.share for one in parts if one.share is not None]
    if len(shares) == len(parts):
        panel = bars_panel([one.name for one in parts], shares, x_label="share of the differences", show=percent)
        return Figure((panel,), f"{caption}: its share of the differences between slides.")
    panel = bars_panel([one.name for one in parts], [one.mean for one in parts], x_label="adds", show=signed)
    return Figure((panel,), f"{caption}, in units of the score before calibration.")


def map_figures(
    head: Head, sources: Sources, slides: Sequence[SlideParts], columns: Sequence[str], most: int
) -> tuple[Figure, ...]:
    """The regions of a few slides by what they add, from the lowest score of the first column to the highest.

    Args:
        head: what is explained.
        sources: what its slides are read from.
        slides: with their parts.
        columns: the names of the scores.
        most: how many slides.
    """
    order = np.argsort([one.score[0] for one in slides], kind="stable")
    places = np.unique(np.rint(np.linspace(0, len(order) - 1, min(most, len(order)))).astype(int))
    figures = []
    for number in order[places].tolist():
        slide = slides[number].slide
        one = explain_slide(head, sources, slide)
        if one.regions is None:
            continue
        thumbnail, ground = find_thumbnail(sources.tiles, slide), ""
        if thumbnail is None:
            ground = " The slide is no longer where it was embedded from, so it is not shown."
            thumbnail = empty_ground(sources.tiles, slide, one.xy_um.max(axis=0) + one.side_um)
        of = [""] if len(columns) == 1 else [f" to the score of {name}" for name in columns]
        maps = {f"What regions add{name}": one.regions.contribution[:, place] for place, name in enumerate(of)}
        score = ", ".join(signed(float(value)) for value in one.parts.score)
        caption = f"{slide}, score {score}: orange where a region raises the score, blue where it lowers it.{ground}"
        figures.append(slide_map_figure(*thumbnail, one.xy_um, one.side_um, maps, caption, slide=slide))
    return tuple(figures)


def percent(value: float) -> str:
    """A share in whole per cent."""
    return f"{100 * value:.0f} %".replace("-0 %", "0 %").replace("-", "\u2212")


def signed(value: float) -> str:
    """A part of a score."""
    return f"{value:+.3f}".replace("-", "\u2212")
