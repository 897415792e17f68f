"""Can pairing magnifications help at all on this label? Asked of a cohort's own features, before any training."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.cohort import CohortColumns, LabelColumns, LabelledSlides, Target, read_labels
from parfocal.errors import ConfigError, ParfocalWarning, StoreError, as_problem
from parfocal.files import digest8, file_digest8
from parfocal.geometry import format_mpp
from parfocal.lab.synergy.analysis import LabelResult, SynergySettings, analyse_label
from parfocal.lab.synergy.caveats import Nuisances, differences, near_identical, units_together, unusable_slides
from parfocal.lab.synergy.directions import gallery, map_figure, score_directions, slide_files, slides_to_map
from parfocal.lab.synergy.labels import LabelKind, study_labels
from parfocal.lab.synergy.moments import CohortRows, Units, read_rows, units_of
from parfocal.lab.synergy.page import CohortWords, LabelPictures, synergy_page
from parfocal.lab.synergy.permutation import FEWEST_UNITS
from parfocal.report import make_report, pick, write_json
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.slides import SlideIds, SlideSource, find_slides
from parfocal.store import EmbeddingSet, LeftOut, Source, open_sets, with_readable_index
from parfocal.table import some_of
from parfocal.version import __version__


@dataclass(frozen=True, eq=False)
class SynergyResult:
    """What `synergy` found and where it wrote it.

    Attributes:
        target: the label's column.
        results: one for each class that was tested, or one for the number.
        answer: the findings in sentences.
        report: the page.
        out: the folder; `synergy.json` holds every number.
        notes: what was left out or is remarkable.
    """

    target: str
    results: tuple[LabelResult, ...]
    answer: tuple[str, ...]
    report: Path
    out: Path
    notes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**pick(self, "target", "answer", "notes"), "labels": [one.describe() for one in self.results]}


def measure_synergy(
    store: Source,
    labels: Path,
    target: str,
    out: Path,
    settings: SynergySettings | None = None,
    *,
    columns: LabelColumns | None = None,
    site: str | None = None,
    within: str | None = None,
    kind: LabelKind = "auto",
    positive: str | None = None,
    mpps: Sequence[float] = (),
    slides: Sequence[Path] = (),
    ids: SlideIds = "path",
    on_event: OnEvent | None = None,
) -> SynergyResult:
    """Test whether the within-region pairing of magnifications is tied to a label; write `report.html`, `synergy.json`.

    Nothing is trained: one pass over the embeddings, then a closed form. See `docs/synergy.md` for what it can say.

    Args:
        store: a store, the folder of one set, or an open set of tile embeddings at two magnifications or more.
        labels: a CSV or an Excel workbook with a column `slide`, the target, and where named the group and the site.
        target: column of classes or of numbers.
        out: folder to write to.
        settings: components, permutations, power, pictures.
        columns: the other columns: patients are permuted, each with the mean of its slides.
        site: column of the site; patients are permuted within it.
        within: column of what regions are centred within, such as the patient or the TMA; None is the slide. What such
            a group has in common is taken out, what its slides differ in is not.
        kind: what the target is, where that cannot be seen from its values.
        positive: the only class to test; without it each of several classes is tested against the rest.
        mpps: magnifications to use; empty uses all.
        slides: files or folders of the slides, for the pictures, where they are not where they were when embedded.
        ids: how files in a folder of `slides` are called; see `find_slides`.
        on_event: told what the target holds, before anything is computed, and how many `slides` are read.

    Raises:
        ConfigError: labels and embeddings do not fit together, there are too few patients, or nothing varies within
            slides.
        StoreError: the set cannot be read, or holds no tiles at two magnifications.
    """
    settings = settings or SynergySettings()
    source = _tile_set(store)
    used = _magnifications(source, mpps)
    left_out = LeftOut()
    readable = with_readable_index(source, left_out)
    empty = [slide for slide in readable.slides if not all(map(readable.n_tiles(slide).get, used))]
    notes = []
    if empty:
        listed = ", ".join(empty[:3])
        notes.append(f"{len(empty)} slides have no tile at one of the magnifications and are left out: {listed}.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    columns = columns or LabelColumns()
    by = (within,) if within and not _is_the_patient(within, columns.group, columns.patient_of) else ()
    every_column = CohortColumns(**columns.model_dump(include=set(LabelColumns.model_fields)), site=site, by=by)
    read = read_labels(labels, Target(name=target, positive=positive), every_column)
    given = read.restricted_to(readable.slides, source.name)
    study = study_labels(given, kind=kind, positive=positive)
    tell = on_event or warn_of
    tell(Notice(study.sentence))
    rows = read_rows(
        source.read,
        used,
        [slide for slide in given.slides if slide not in set(empty)],
        components=max(settings.components),
        within=_groups_within(given, within),
        seed=settings.seed,
        left_out=left_out,
        on_event=tell,
    )
    silent, unusable = unusable_slides(rows, source.name, within)
    for note in unusable:
        warnings.warn(note, ParfocalWarning, stacklevel=2)
    rows = rows.without(silent)
    gone = {*empty, *left_out.reasons, *silent}
    lost = {"share of slides left out": units_of(np.isin(given.slides, list(gone)) * 1.0, study.units.of_slide)}
    selected = {name: differences(lost, of_unit, is_class=study.is_class) for name, of_unit in study.labels.items()}
    try:
        if gone:
            given = given.without(gone)
            study = study_labels(given, kind=kind, positive=positive)
        units, twice = _without_copies(rows, study.units, settings.seed)
        tell(Progress("slides", len(given.slides), len(given.slides), "permutations"))
        results = [
            replace(result, warnings=result.warnings + selected.get(result.label, ()))
            for result in analyse_label(
                rows,
                units,
                study.labels,
                settings,
                is_class=study.is_class,
                also=_misalignment(source, given.slides, units),
                keep=out / "kept",
            )
        ]
    except ConfigError as error:
        for note in unusable:
            error.add_note(note)
        raise
    notes += [*left_out.notes(), *unusable, *study.notes, *_remarks(rows, results, settings)]
    cohort = CohortWords(len(given.slides), units, twice)
    known = find_slides(slides, ids=ids) if slides else []
    pictures = _pictures(source, rows, results, given, study.units.of_slide, settings, known)
    described = {
        **settings.model_dump(mode="json"),
        "target": target,
        **columns.model_dump(mode="json"),
        "site": site,
        "within": within,
        "kind": kind,
        "positive": positive,
        "mpps": list(used),
    }
    inputs = {source.name: digest8(source.settings), labels.name: file_digest8(labels)}
    page = synergy_page(target, results, cohort, pictures, settings, notes=notes, described=described, inputs=inputs)
    result = SynergyResult(target, tuple(results), tuple(page.lead), out / "report.html", out, tuple(notes))
    content = {"parfocal_version": __version__, "settings": described, "inputs": inputs, **result.describe()}
    write_json(out / "synergy.json", content)
    make_report(page, result.report)
    return result


def _tile_set(store: Source) -> EmbeddingSet:
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


def _without_copies(rows: CohortRows, units: Units, seed: int) -> tuple[Units, tuple[str, ...]]:
    """The units, those that hold the same slide together, and each pair of slides that are nearly the same, in words.

    Raises:
        ConfigError: too few units hold slides of their own.
    """
    pairs = near_identical(rows, units.of_slide, seed=seed)
    if not pairs:
        return units, ()
    n = len(units.names)
    together = units_together(pairs, units.of_slide, n)
    different = len(np.unique(together))
    if different < FEWEST_UNITS:
        raise ConfigError(
            f"the slides of {n} {units.called}s are nearly the same: {different} of them are different, and "
            f"{FEWEST_UNITS} are needed. Look at how these embeddings were made."
        )
    owner = ["" if units.called == "slide" else f" (patient {units.names[one]})" for one in units.of_slide]
    words = tuple(" and ".join(rows.slides[slide] + owner[slide] for slide in pair) for pair in pairs)
    return replace(units, together=together), words


def _misalignment(source: EmbeddingSet, slides: Sequence[str], units: Units) -> Nuisances:
    """How far the tiles of each unit lie from where magnifications would nest, where that is known of every slide."""
    apart = [source.attributes(slide).get("misalignment_um") for slide in slides]
    if None in apart:
        return {}
    return {"misalignment of magnifications in um": units_of(np.array(apart, dtype=np.float64), units.of_slide)}


def _remarks(rows: CohortRows, results: Sequence[LabelResult], settings: SynergySettings) -> list[str]:
    notes = []
    partly = [mpp for mpp in rows.mpps if not rows.present(mpp).all()]
    if partly:
        share = ", ".join(f"{100 * (1 - rows.present(mpp).mean()):.1f} % at {format_mpp(mpp)}" for mpp in partly)
        notes.append(
            f"Of the regions {share} um per pixel have no tile; each pair of magnifications is tested on the regions "
            "that have both, centred on the mean of these."
        )
    lacking = [n for n in settings.types if n not in results[0].opinions]
    if lacking:
        listed = ", ".join(map(str, lacking))
        notes.append(
            f"There is no second opinion with {listed} types: it needs ten different regions of each in the cohort and "
            "slides that have two regions of one type."
        )
    if rows.components < max(settings.components):
        notes.append(f"The embeddings span {rows.components} components; larger numbers of components are cut to that.")
    return notes


def _is_the_patient(within: str, group: str | None, patient_of: str | None) -> bool:
    return within == group or (within == "patient" and group is None and patient_of is not None)


def _groups_within(given: LabelledSlides, within: str | None) -> dict[str, str] | None:
    """What the regions of each slide are centred within; None for the slide itself."""
    if within is None:
        return None
    names = given.by.get(within, given.groups)
    lost = [slide for slide, name in zip(given.slides, names, strict=True) if not name]
    if lost:
        raise ConfigError(f"{len(lost)} slides have no value in {within!r}, which --within names: {some_of(lost)}.")
    return dict(zip(given.slides, names, strict=True))


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
