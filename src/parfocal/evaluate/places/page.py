"""The page of an evaluation at places: how the gain is split, every arm, every slide, and maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.evaluate.places.maps import Thumbnail, place_map
from parfocal.evaluate.places.result import METRICS, PlaceArmResult, PlaceComparison, PlacesResult
from parfocal.evaluate.split import show3, show_part, show_signed3
from parfocal.report import (
    Field,
    Figure,
    Note,
    ReportPage,
    Section,
    Table,
    Text,
    compared_figure,
    page_table,
    show_difference,
)

MAPPED_SLIDES, _MAPPED_TARGETS, _LISTED = 4, 3, 15
_READING = (
    "Every place is described by tiles that have it in their middle, one for each magnification. An arm puts some of "
    "them side by side, and the same ridge regression, with the same number of principal components for each of them, "
    "predicts all targets from it. A place is predicted by a model that has not seen its slide (or patient).",
    "A coarse tile shows more of the surroundings than a fine one. Whoever adds it therefore adds two: a wider "
    "view and another magnification. The arm called context has the wider view without the magnification: means of "
    "fine tiles over the area that the coarse tile shows. What it gains is context; what coarse tiles gain on top of "
    "it is magnification. Coarse tiles of other places of the same slide, and noise, show what wider rows bring alone.",
)


def places_page(
    result: PlacesResult,
    *,
    settings: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, str],
    thumbnails: Mapping[str, Thumbnail] | None = None,
    sections: Sequence[Section] = (),
) -> ReportPage:
    """The whole page; without a picture of a slide its maps have a white ground, and `sections` follow the maps."""
    notes = tuple(Note(note, "Left out or remarkable") for note in result.data.notes)
    return ReportPage(
        title="What do magnifications know at places?",
        lead=(result.answer,),
        first=_answer(result),
        sections=(
            Section("Arms", (Text(result.sentences), _arms(result), *notes)),
            Section("Slide by slide", (_by_slide(result),)),
            Section("Target by target", (_by_target(result),)),
            Section("On the slides", tuple(_maps(result, thumbnails or {}))),
            *sections,
            Section("How it was measured", (Text(_READING),)),
        ),
        settings=settings,
        seeds={"folds, exchanged places and noise": seed},
        inputs=inputs,
    )


def _answer(result: PlacesResult) -> tuple[Table | Figure, ...]:
    """The answer as a table of one line, and the steps from the finest magnification to everything as a figure."""
    split = result.split
    if split is None:
        return ()
    steps = {
        f"{result.finest} alone": result.finest,
        "with context": "context",
        "and coarser tiles": "mixed+context",
    }
    arms = {name: result.arm(one) for name, one in steps.items()}
    fields = (
        Field(f"{result.finest} um per pixel alone", lambda _: show3(arms[f"{result.finest} alone"].interval)),
        Field("All with context", lambda _: show3(arms["and coarser tiles"].interval)),
        Field("Difference", "whole", show=show_difference, align="right"),
        Field("All are", lambda _: result.shown),
        Field("Context", "context", show=show_part, align="right"),
        Field("Magnification", "magnification", show=show_part, align="right"),
    )
    note = (
        "Open: chance can explain a number of this size with so few slides. Context is what means of fine tiles around "
        "the place add to the finest magnification, magnification what coarse tiles add beyond."
    )
    is_auc = result.metric == METRICS["auc"]
    return (
        page_table(f"{result.metric} with 95 % intervals over slides", fields, [split], footnotes=(note,)),
        compared_figure(
            {name: {result.metric: one.interval} for name, one in arms.items()},
            metric=result.metric,
            chance=0.5 if is_auc else 0.0,
        ),
    )


def _arms(result: PlacesResult) -> Table:
    against = {(one.first, one.second): one for one in result.comparisons}

    def compared(other: str, path: str) -> Any:
        def of(one: PlaceArmResult) -> Any:
            found = against.get((one.arm.id, other))
            return None if found is None else _shown(found, path)

        return of

    fields = [
        Field("Arm", "arm.name"),
        Field("Kind", "arm.kind"),
        Field(result.metric, lambda one: show3(one.interval), align="right", help="Mean over targets, then slides."),
    ]
    for other, title in ((result.finest, "finest"), ("context", "context")):
        fields += [
            Field(f"Minus {title}", compared(other, "difference"), align="right", is_optional=True),
            Field(
                f"ahead of {title}",
                compared(other, "ahead"),
                "Ahead",
                help=f"In how many slides, and for how many targets, it is ahead of {title}.",
                align="right",
                is_optional=True,
            ),
        ]
    return page_table(
        f"{result.metric} of targets at held-out places, with 95 % intervals over slides.",
        fields,
        result.arms,
        kind=lambda one: "highlight" if one.arm.id == "mixed+context" else "plain",
    )


def _shown(one: PlaceComparison, path: str) -> str:
    if path == "ahead":
        return f"{one.slides_better}/{one.n_slides}, {one.targets_better}/{one.n_targets}"
    return show_signed3(one.difference)


def _by_slide(result: PlacesResult) -> Table:
    fields = [Field("Arm", "arm.name")]
    fields += [
        Field(slide, f"by_slide.{number}", show=".3f", align="right") for number, slide in enumerate(result.slides)
    ]
    return page_table(f"{result.metric} of every slide, the mean over targets.", fields, result.arms)


def _by_target(result: PlacesResult) -> Table:
    order = _best_targets(result)
    fields = [Field("Target", "name")]
    fields += [Field(one.arm.id, f"scores.{place}", show=".3f", align="right") for place, one in enumerate(result.arms)]
    rows = [
        {"name": result.data.names[number], "scores": [one.by_target[number] for one in result.arms]}
        for number in order[:_LISTED]
    ]
    more = len(order) - _LISTED
    rest = (f"{more} more are in by_target.csv.",) if more > 0 else ()
    caption = f"{result.metric} of every target, the mean over slides; those that are known best first."
    return page_table(caption, fields, rows, footnotes=rest)


def _best_targets(result: PlacesResult) -> list[int]:
    """The targets with a number, from the one that the fullest arm knows best."""
    value = result.fullest.by_target
    return [int(number) for number in np.argsort(-value) if np.isfinite(value[number])]


def _maps(result: PlacesResult, thumbnails: Mapping[str, Thumbnail]) -> Sequence[Text | Figure]:
    data = result.data
    blocks: list[Text | Figure] = []
    of_slide = np.array(data.slides)
    for slide in result.slides[:MAPPED_SLIDES]:
        own = np.flatnonzero(of_slide == slide)
        if len(own) < 2:
            continue
        maps = {}
        for target in _best_targets(result)[:_MAPPED_TARGETS]:
            name = data.names[target]
            maps[f"{name}, measured"] = data.target[own, target]
            maps[f"{name}, predicted"] = result.fullest.prediction[own, target]
        blocks.append(place_map(slide, data.xy_um[own], maps, thumbnails.get(slide)))
    if len(result.slides) > MAPPED_SLIDES:
        blocks.insert(0, Text((f"The first {MAPPED_SLIDES} of {len(result.slides)} slides.",)))
    return blocks or [Text(("No slide has several places.",))]
