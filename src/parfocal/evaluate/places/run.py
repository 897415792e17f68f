"""How well every arm knows targets at places, and how much of a gain is context and how much magnification."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from parfocal.evaluate.arms import set_label
from parfocal.evaluate.places.fitting import arms_at_places, predict_held_out
from parfocal.evaluate.places.maps import find_thumbnail
from parfocal.evaluate.places.page import MAPPED_SLIDES, places_page
from parfocal.evaluate.places.reading import PlaceData, load_place_data
from parfocal.evaluate.places.result import METRICS, PlacesResult, summarise_places
from parfocal.evaluate.places.settings import PlaceSettings
from parfocal.evaluate.sources import open_all
from parfocal.files import digest8, file_digest8, writable_folder, write_csv
from parfocal.report import Section, columns, interval_columns, make_report, write_json, write_table
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.store import EmbeddingSet
from parfocal.version import __version__


def evaluate_places(
    inputs: Sequence[Path | EmbeddingSet],
    places: Path,
    targets: Sequence[str],
    out: Path,
    settings: PlaceSettings | None = None,
    *,
    group: str | None = None,
    sections: Sequence[Section] = (),
    described: Mapping[str, object] | None = None,
    on_event: OnEvent | None = None,
) -> PlacesResult:
    """Predict targets at places from every arm, each place while its slide is held out, and write tables and a page.

    Args:
        inputs: a store of tiles, embedded with `places` or on a lattice, and what `represent` made of it.
        places: see `parfocal.regions.read_places`; numbers are regressed, of classes each is told from the others.
        targets: names of columns; `all` stands for every one.
        out: folder of `report.html`, `results.json`, `summary.csv`, `by_slide.csv`, `by_target.csv`, and of one table
            of predictions for each arm.
        settings: folds, components and the like.
        group: the column of `places` that says which of them stay together, such as the patient; None takes the slide.
        sections: further parts of the page, after the results.
        described: further settings, as plain values, to be written down with the others.
        on_event: told what was left out.

    Raises:
        ConfigError: places, targets and sets do not fit together.
        StoreError: a set cannot be read.
    """
    settings = settings or PlaceSettings()
    tell = on_event or warn_of
    writable_folder(out)
    sets = open_all(inputs)
    data = load_place_data(sets, places, targets, group=group, seed=settings.seed, tell=tell)
    arms = arms_at_places(sets, settings.arms)
    predicted = predict_held_out(data, arms, settings, hold_out=settings.hold_out)
    tell(Progress("arms", len(arms), len(arms)))
    # Of those that vary most, some targets stand in the folds and others never do.
    kept = np.isfinite(next(iter(predicted.values())).value).any(axis=0)
    data = data.with_targets(kept)
    predicted = {key: replace(one, value=one.value[:, kept]) for key, one in predicted.items()}
    result = summarise_places(data, arms, predicted, out / "report.html")
    asked = {"places": places.name, "targets": list(targets), "group": group}
    said = {**settings.model_dump(mode="json"), **asked, **(described or {})}
    digests = {**{set_label(one): digest8(one.settings) for one in sets}}
    if places.is_file():
        digests[places.name] = file_digest8(places)
    _write(result, out, said, digests)
    pictures = {slide: find_thumbnail(sets[0], slide) for slide in result.slides[:MAPPED_SLIDES]}
    thumbnails = {slide: picture for slide, picture in pictures.items() if picture is not None}
    page = places_page(
        result, settings=said, seed=settings.seed, inputs=digests, thumbnails=thumbnails, sections=sections
    )
    make_report(page, result.report)
    return result


_SUMMARY = (
    *columns("id", "name", "kind", of="arm"),
    *interval_columns("interval", "value"),
    *columns(*METRICS, of="means"),
)


def _mean(table: Float64[np.ndarray, "slide target"]) -> float | None:
    return float(np.nanmean(table)) if np.isfinite(table).any() else None


def _write(result: PlacesResult, out: Path, described: Mapping[str, object], digests: Mapping[str, str]) -> None:
    means = [{**vars(one), "means": {name: _mean(one.scores[name]) for name in METRICS}} for one in result.arms]
    write_table(out / "summary.csv", _SUMMARY, means)
    by_slide = [
        {"arm": one.arm.id, "slide": slide, **{name: _mean(one.scores[name][number : number + 1]) for name in METRICS}}
        for one in result.arms
        for number, slide in enumerate(result.slides)
    ]
    write_table(out / "by_slide.csv", columns("arm", "slide", *METRICS), by_slide)
    by_target = [
        {
            "arm": one.arm.id,
            "target": target,
            **{name: _mean(one.scores[name][:, number : number + 1]) for name in METRICS},
        }
        for one in result.arms
        for number, target in enumerate(result.data.names)
    ]
    write_table(out / "by_target.csv", columns("arm", "target", *METRICS), by_target)
    (out / "predictions").mkdir(exist_ok=True)
    for one in result.arms:
        _write_predictions(result.data, one.prediction, out / "predictions" / f"{one.arm.id.replace('/', '-')}.csv")
    _write_predictions(result.data, result.data.target, out / "predictions" / "measured.csv")
    summary = [
        {
            "id": one.arm.id,
            "name": one.arm.name,
            "kind": one.arm.kind,
            "blocks": one.arm.blocks,
            "interval": one.interval.to_dict(),
            "candidates": one.candidates,
        }
        for one in result.arms
    ]
    content = {
        "version": __version__,
        "settings": described,
        "inputs": digests,
        "metric": result.metric,
        "places": len(result.data.slides),
        "slides": result.slides,
        "targets": result.data.names,
        "notes": result.data.notes,
        "answer": result.answer,
        "sentences": result.sentences,
        "arms": summary,
        "gain": dict(result.gain),
        "comparisons": result.comparisons,
    }
    write_json(out / "results.json", content)


def _write_predictions(data: PlaceData, value: Float64[np.ndarray, "place target"], path: Path) -> None:
    rows = (
        [slide, *xy_um, *(cell if np.isfinite(cell) else "" for cell in cells)]
        for slide, xy_um, cells in zip(data.slides, data.xy_um.tolist(), value.tolist(), strict=True)
    )
    write_csv(path, ["slide", "x_um", "y_um", *data.names], rows)
