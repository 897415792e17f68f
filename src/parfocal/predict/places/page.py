"""What is to be known of a head of places before it is used, and maps of what it says of a slide."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.evaluate.places.maps import Thumbnail, place_map
from parfocal.predict.facts import PlaceHeadFacts, PlaceTargetFacts
from parfocal.report import Field, Note, ReportPage, Section, Text, make_report, page_table

_LISTED = 100


def place_head_sentences(facts: PlaceHeadFacts) -> tuple[str, ...]:
    """What was fitted on how many places, how well it knows slides that it had not seen, and what it says."""
    trained = facts.trained_on
    whose = "" if trained.groups is None else f" of {trained.groups} groups"
    mean = "" if len(facts.targets) == 1 else f", the mean over {len(facts.targets)} targets"
    return (
        f"{facts.metric.metric} {_known(facts.metric)} on slides it had not seen{mean}; "
        f"fitted on {trained.places} places of {trained.slides} slides{whose}",
        about_sentence(facts),
        "for places there is no calibration and no flag for slides that are unlike those of training",
    )


def about_sentence(facts: PlaceHeadFacts) -> str:
    """What a predicted number is about."""
    if facts.centred:
        return (
            "predictions are about the mean of their slide: they say which of its places have more of a target, and "
            "not how much a slide has"
        )
    return "predictions are in the units of the targets, and a slide's stain has a say in them"


def _known(one: PlaceTargetFacts) -> str:
    if one.estimate is None:
        return "unknown"
    said = f"{one.estimate:.2f}"
    return said if one.low is None or one.high is None else f"{said} ({one.low:.2f} to {one.high:.2f})"


def best_targets(facts: PlaceHeadFacts) -> list[int]:
    """The numbers of the targets, from the one that held-out slides show to be known best."""
    return sorted(range(len(facts.targets)), key=lambda number: -_estimate(facts.targets[number]))


def _estimate(one: PlaceTargetFacts) -> float:
    return -np.inf if one.estimate is None else one.estimate


def write_place_head_page(facts: PlaceHeadFacts, path: Path) -> Path:
    """Write the page of a head of places: the sentences, and how well every target is known."""
    trained = facts.trained_on
    order = best_targets(facts)
    more = len(order) - _LISTED
    columns = (
        Field("Target", "name"),
        Field("Measured by", "metric"),
        Field("On held-out slides", _known, align="right", help="The mean over slides, with a 95 % interval."),
    )
    rest = (f"{more} more are in head.json.",) if more > 0 else ()
    caption = "How well each target is known at places of slides that the arm had not seen, the best first."
    table = page_table(caption, columns, [facts.targets[number] for number in order[:_LISTED]], footnotes=rest)
    reading = (
        "A class is a score: higher where the class is likelier, about 0 to 1 where nothing is centred, and no "
        "probability. Intervals count slides (or their groups) and not places: a slide with a thousand places is one.",
    )
    page = ReportPage(
        title=f"{facts.arm_label}, at places",
        lead=_as_lead(place_head_sentences(facts)),
        sections=(
            Section("Targets", (table, *(Note(note, "To be known") for note in trained.notes))),
            Section("What a prediction says", (Text(reading),)),
        ),
        settings=facts.settings,
        inputs={"places": trained.table or "a folder", "tile encoder": facts.tiles.encoder_digest},
    )
    return make_report(page, path)


def write_map_page(
    facts: PlaceHeadFacts,
    digest: str,
    slide: str,
    xy_um: Float64[np.ndarray, "place 2"],
    maps: Mapping[str, Float64[np.ndarray, " place"]],
    thumbnail: Thumbnail | None,
    path: Path,
) -> Path:
    """Write the page of one slide: a map of each of some values at its places, at least two, by their labels."""
    page = ReportPage(
        title=f"{slide}: {facts.arm_label}",
        lead=_as_lead(place_head_sentences(facts)),
        sections=(Section("On the slide", (place_map(slide, xy_um, maps, thumbnail),)),),
        inputs={"head": digest, "tile encoder": facts.tiles.encoder_digest},
    )
    return make_report(page, path)


def _as_lead(sentences: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{one[0].upper()}{one[1:]}." for one in sentences)
