"""Can pairing magnifications help at all on this label? Asked of a cohort's own features, before any training."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.embeddings import EmbeddingSet, LeftOut, open_sets, with_readable_index
from parfocal.errors import ConfigError, ParfocalWarning, StoreError, as_problem
from parfocal.geometry import format_mpp
from parfocal.provenance import digest8, file_digest8, provenance, writing
from parfocal.report import make_report
from parfocal.report.statistics import holm
from parfocal.slides import SlideIds, SlideSource, find_slides
from parfocal.studies.pairing.analysis import LabelResult, SynergySettings, analyse_label
from parfocal.studies.pairing.directions import gallery, map_figure, score_directions, slide_files, slides_to_map
from parfocal.studies.pairing.labels import LabelKind, LabelledSlides, read_labels, study_labels
from parfocal.studies.pairing.moments import CohortRows, Progress, read_rows
from parfocal.studies.pairing.page import LabelPictures, sentences, synergy_page

__all__ = ["SynergyResult", "SynergySettings", "synergy"]


@dataclass(frozen=True, eq=False)
class SynergyResult:
    """What `synergy` found and where it wrote it.

    Attributes:
        target: the label's column.
        results: one for each class that was tested, or one for the number.
        adjusted: their p-values after Holm over the classes.
        answer: the findings in sentences.
        report: the page.
        out: the folder; `synergy.json` holds every number.
        notes: what was left out or is remarkable.
    """

    target: str
    results: tuple[LabelResult, ...]
    adjusted: tuple[float, ...]
    answer: tuple[str, ...]
    report: Path
    out: Path
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "target": self.target,
            "answer": list(self.answer),
            "notes": list(self.notes),
            "labels": [
                {**result.describe(), "p_holm": p} for result, p in zip(self.results, self.adjusted, strict=True)
            ],
        }


def synergy(
    store: Path,
    labels: Path,
    target: str,
    out: Path,
    settings: SynergySettings | None = None,
    *,
    group: str | None = None,
    site: str | None = None,
    slide: str = "slide",
    patient_of: str | None = None,
    missing: Sequence[str] = (),
    not_missing: Sequence[str] = (),
    kind: LabelKind = "auto",
    positive: str | None = None,
    mpps: Sequence[float] = (),
    slides: Sequence[Path] = (),
    ids: SlideIds = "path",
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> SynergyResult:
    """Test whether the within-region pairing of magnifications is tied to a label; write `report.html`, `synergy.json`.

    Nothing is trained: one pass over the embeddings, then a closed form. See `docs/synergy.md` for what it can say.

    Args:
        store: a store, or the folder of one set of tile embeddings at two magnifications or more.
        labels: a CSV or an Excel workbook with a column `slide`, the target, and where named the group and the site.
        target: column of classes or of numbers.
        out: folder to write to.
        settings: components, permutations, power, pictures.
        group: column of the patient; patients are permuted, each with the mean of its slides. None permutes slides.
        site: column of the site; patients are permuted within it.
        slide: column of the slide's id.
        patient_of: a regular expression whose match in a slide's id is its patient; rows may then be patients.
        missing: words that stand for a missing value beside the usual ones.
        not_missing: words that are values, although they are usual ones.
        kind: whether the target is classes or a number, where that cannot be seen from its values.
        positive: the only class to test; without it each of several classes is tested against the rest.
        mpps: magnifications to use; empty uses all.
        slides: files or folders of the slides, for the pictures, where they are not where they were when embedded.
        ids: how files in a folder of `slides` are called; see `find_slides`.
        progress: is told of every slide.
        tell: is told what the target holds, before anything is computed.

    Raises:
        ConfigError: labels and embeddings do not fit together, or there are too few patients.
        StoreError: the set cannot be read, or holds no tiles at two magnifications.
    """
    settings = settings or SynergySettings()
    source = _tile_set(store)
    used = _magnifications(source, mpps)
    left_out = LeftOut()
    available, notes = _usable_slides(source, used, left_out)
    values = (*not_missing, *([positive] if positive is not None else ()))
    read = read_labels(
        labels, target, slide=slide, group=group, site=site, patient_of=patient_of, missing=missing, not_missing=values
    )
    given = read.restricted_to(available, source.name)
    study = study_labels(given, kind=kind, positive=positive)
    if tell is not None:
        tell(study.sentence)
    rows = read_rows(
        source.read,
        used,
        given.slides,
        components=max(settings.components),
        seed=settings.seed,
        left_out=left_out,
        progress=progress,
    )
    unread = left_out.notes()
    if unread:
        given = given.without(left_out.reasons)
        study = study_labels(given, kind=kind, positive=positive)
    notes += [*unread, *study.notes, *_remarks(rows, settings)]
    if progress:
        progress(len(given.slides), len(given.slides), "permutations")
    results = analyse_label(rows, study.units, study.labels, settings, is_class=study.is_class)
    adjusted = [float(p) for p in holm([result.test.p_value for result in results])]
    known = find_slides(slides, ids=ids) if slides else []
    pictures = _pictures(source, rows, results, given, study.units.of_slide, settings, known)
    described = {
        **settings.model_dump(mode="json"),
        "target": target,
        "group": group,
        "site": site,
        "slide": slide,
        "patient_of": patient_of,
        "missing": list(missing),
        "not_missing": list(not_missing),
        "kind": kind,
        "positive": positive,
        "mpps": list(used),
    }
    inputs = {source.name: digest8(source.settings), labels.name: file_digest8(labels)}
    page = synergy_page(
        target,
        results,
        adjusted,
        pictures,
        settings,
        notes=notes,
        n_slides=len(given.slides),
        n_sites=None if study.units.site is None else int(study.units.site.max()) + 1,
        described=described,
        inputs=inputs,
    )
    answer = tuple(
        line for result, p in zip(results, adjusted, strict=True) for line in sentences(target, result, p, settings)
    )
    result = SynergyResult(target, tuple(results), tuple(adjusted), answer, out / "report.html", out, tuple(notes))
    _write_json(out / "synergy.json", result, described, inputs)
    make_report(page, result.report)
    return result


def _tile_set(store: Path) -> EmbeddingSet:
    tiles = [one for one in open_sets(store) if one.kind == "tiles"]
    if len(tiles) != 1:
        found = f"{len(tiles)} sets of tile embeddings: {', '.join(one.name for one in tiles)}" if tiles else "none"
        raise StoreError(
            f"synergy needs one set of tile embeddings, and {store} holds {found}. Name the folder of one."
        )
    return tiles[0]


def _magnifications(source: EmbeddingSet, asked: Sequence[float]) -> tuple[float, ...]:
    wanted = {format_mpp(mpp) for mpp in asked}
    unknown = wanted - {format_mpp(mpp) for mpp in source.mpps}
    if unknown:
        raise ConfigError(
            f"{source.name} has no {', '.join(sorted(unknown))} mpp; it has {', '.join(map(format_mpp, source.mpps))}."
        )
    used = tuple(mpp for mpp in source.mpps if not wanted or format_mpp(mpp) in wanted)
    if len(used) < 2:
        raise ConfigError(
            f"pairing needs two magnifications, and only {format_mpp(used[0])} mpp is there or asked for."
        )
    return used


def _usable_slides(source: EmbeddingSet, mpps: Sequence[float], left_out: LeftOut) -> tuple[list[str], list[str]]:
    """Slides with a tile at every magnification, and a note about the others."""
    source = with_readable_index(source, left_out)
    counts = {slide: source.n_tiles(slide) for slide in source.slides}
    empty = [slide for slide, count in counts.items() if min(count[mpp] for mpp in mpps) == 0]
    notes = []
    if empty:
        listed = ", ".join(empty[:3])
        notes.append(f"{len(empty)} slides have no tile at one of the magnifications and are left out: {listed}.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=3)
    return [slide for slide in source.slides if slide not in set(empty)], notes


def _remarks(rows: CohortRows, settings: SynergySettings) -> list[str]:
    notes = []
    if rows.partly_read:
        listed = ", ".join(map(format_mpp, rows.partly_read))
        notes.append(
            f"Regions are missing at {listed} um per pixel; it is centred on the cohort's mean instead of each slide's."
        )
    if rows.components < max(settings.components):
        notes.append(f"The embeddings span {rows.components} components; larger numbers of components are cut to that.")
    return notes


def _pictures(
    source: EmbeddingSet,
    rows: CohortRows,
    results: Sequence[LabelResult],
    given: LabelledSlides,
    unit: np.ndarray,
    settings: SynergySettings,
    known: Sequence[SlideSource],
) -> list[LabelPictures]:
    if not settings.tiles and not settings.maps:
        return [LabelPictures() for _ in results]
    files = slide_files(source, given.slides, known)
    if not files:
        note = "The slide files are not at hand, so no tiles and maps are shown. Name their folder (--slides)."
        return [LabelPictures(notes=(note,)) for _ in results]
    return [_pictures_of(source, rows, result, result.values[unit], files, settings) for result in results]


def _pictures_of(
    source: EmbeddingSet,
    rows: CohortRows,
    result: LabelResult,
    values: Float64[np.ndarray, " slide"],
    files: Mapping[str, Path],
    settings: SynergySettings,
) -> LabelPictures:
    scores = score_directions(rows, result.test.best)
    figures = []
    try:
        if settings.tiles:
            figures += [one for one in gallery(source, rows, scores, files, settings.tiles) if one is not None]
        for slide in slides_to_map(scores, values, settings.maps, [name in files for name in rows.slides]):
            caption = (
                f"{rows.slides[slide]}, label {values[slide]:.3g}: both scores and their product, whose mean is the "
                f"slide's score, {scores.of_slides()[slide]:.3f}."
            )
            figures.append(map_figure(source, rows, scores, slide, files[rows.slides[slide]], caption))
    except Exception as error:
        # The statistics are done; a slide that cannot be read must not take them away, whatever a library raises on it.
        problem = as_problem(error)
        warnings.warn(f"pictures are left out: {problem}", ParfocalWarning, stacklevel=3)
        return LabelPictures(tuple(figures), (f"Some pictures are left out: {problem}",))
    missing = len(rows.slides) - len(files)
    note = (f"{missing} slides have no file at hand; their tiles are not shown.",) if missing else ()
    return LabelPictures(tuple(figures), note)


def _write_json(path: Path, result: SynergyResult, described: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    content = {
        "parfocal_version": provenance({})["parfocal_version"],
        "settings": dict(described),
        "inputs": dict(inputs),
        **result.describe(),
    }
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
