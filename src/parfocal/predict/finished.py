"""A finished study as the input of `fit`: its sets, labels, folds and settings are read from its results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parfocal.cohort import CohortColumns, LabelColumns, Target, read_splits
from parfocal.errors import ConfigError, StoreError
from parfocal.evaluate.places import PlaceFitSettings
from parfocal.evaluate.sources import open_all
from parfocal.files import check_permission
from parfocal.heads import ProbeSettings
from parfocal.predict.fit import fit_head
from parfocal.predict.fit_settings import FitSettings
from parfocal.predict.head import Head
from parfocal.predict.places import PlaceHead, fit_places
from parfocal.run.events import OnEvent
from parfocal.store import EmbeddingSet

_RESULTS, _SPLITS = "results.json", "splits.csv"
_REPORT_FOLDER = "report"


@dataclass(frozen=True)
class FinishedStudy:
    """What a study was about.

    Attributes:
        folder: where its results lie.
        inputs: the sets, in the order of its table of arms.
        labels: the table of labels.
        targets: by name.
        columns: the other columns of the table.
        models: folders of its region encoders.
        splits: its folds; None where they are gone.
        scheme: how they were dealt.
        slide_vectors: the names of whole-slide encoders whose vectors were arms.
        encoder: the spec of its tile encoder; None where it had none.
        settings: folds and what its arms chose among.
    """

    folder: Path
    inputs: tuple[Path, ...]
    labels: Path
    targets: Mapping[str, Target]
    columns: LabelColumns
    models: tuple[Path, ...]
    splits: Path | None
    scheme: str
    encoder: str | None
    settings: FitSettings
    slide_vectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinishedPlaceStudy:
    """What a study at places was about.

    Attributes:
        folder: where its results lie.
        inputs: the sets.
        slides: those of them that it is about.
        places: the file of places.
        targets: columns of it.
        group: the column that says which slides stay together; None where each stands alone.
        models: folders of its region encoders.
        encoder: the spec of its tile encoder; None where it had none.
        settings: folds, components and the like.
    """

    folder: Path
    inputs: tuple[Path, ...]
    slides: tuple[str, ...]
    places: Path
    targets: tuple[str, ...]
    group: str | None
    models: tuple[Path, ...]
    encoder: str | None
    settings: PlaceFitSettings


def is_study(path: Path) -> bool:
    """Whether a folder holds the results of a study."""
    return any((folder / _RESULTS).is_file() for folder in (path, path / _REPORT_FOLDER))


def read_finished_study(path: Path) -> FinishedStudy:
    """What a study of slides was about, by its results; paths in them are relative to their folder, so it can be moved.

    Args:
        path: the study's output folder, or the folder of its report.

    Raises:
        ConfigError: it is about places inside slides.
        StoreError: there are no results, they are damaged, or they are those of a plain evaluation.
    """
    found = _read(path)
    if isinstance(found, FinishedPlaceStudy):
        raise ConfigError(f"{path} is a study at places inside slides, and one of labels of slides is expected.")
    return found


def read_place_study(path: Path) -> FinishedPlaceStudy | None:
    """What a study at places was about; None where it is about labels of slides. Otherwise as `read_finished_study`.

    Raises:
        StoreError: there are no results, they are damaged, or they are those of a plain evaluation.
    """
    found = _read(path)
    return found if isinstance(found, FinishedPlaceStudy) else None


def _read(path: Path) -> FinishedStudy | FinishedPlaceStudy:
    folder = next((one for one in (path, path / _REPORT_FOLDER) if (one / _RESULTS).is_file()), None)
    if folder is None:
        raise StoreError(f"{path} holds no finished study: there is no {_RESULTS} in it or in {_REPORT_FOLDER}.")
    try:
        settings = json.loads((folder / _RESULTS).read_text(encoding="utf-8"))["settings"]
        about = settings.get("study")
        if about is None:
            raise StoreError(
                f"{folder / _RESULTS} is that of an evaluation, which does not say where its sets and labels lie. "
                "Name them: parfocal fit STORES... --labels CSV --target COLUMN --arm ARM."
            )
        return _study(folder, settings, about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        check_permission(error, folder / _RESULTS)
        raise StoreError(
            f"cannot read {folder / _RESULTS}: it is damaged ({type(error).__name__}: {error})."
        ) from error


def fit_study(
    study: Path,
    arm: str,
    out: Path,
    settings: FitSettings | None = None,
    *,
    target: str | None = None,
    on_event: OnEvent | None = None,
) -> Head:
    """Fit an arm of a finished study on all of its labelled slides, with its own folds and choices.

    Args:
        study: its output folder.
        arm: the arm's id, or its label in the report.
        out: the folder of the head.
        settings: what is not the default in it takes the place of the study's own; with other `folds` or `repeats` new
            folds are dealt.
        target: which of its targets; not needed where it has one.
        on_event: see `fit_head`.

    Raises:
        ConfigError: the study has no such target or arm, or has several targets and none is named; or other folds are
            asked for where its own kept sites apart, or the like.
        StoreError: its results, sets or models cannot be read.
    """
    found = read_finished_study(study)
    names = ", ".join(found.targets)
    if target is None and len(found.targets) > 1:
        raise ConfigError(f"{study} has {len(found.targets)} targets ({names}). Name one: --target COLUMN.")
    chosen = found.targets.get(target) if target is not None else next(iter(found.targets.values()))
    if chosen is None:
        raise ConfigError(f"{study} has no target {target!r}; it has {names}.")
    vectors = next((name for name in found.slide_vectors if arm.startswith(f"{name}/")), None)
    if vectors is not None:
        raise ConfigError(
            f"the arm {arm} reads slide vectors of {vectors}, which another tool makes: a head that parfocal predicts "
            "new slides with cannot be fitted of them. Fit an arm of tiles or of regions."
        )
    asked = {} if settings is None else settings.changed()
    splits = found.splits
    if {"folds", "repeats"} & asked.keys():
        if found.scheme != "grouped":
            raise ConfigError(f"the folds of {study} are {found.scheme}, and only those are used. Ask for no others.")
        splits = None
    probes = found.settings.probes.model_copy(update={} if settings is None else settings.probes.changed())
    return fit_head(
        _its_sets(found, chosen.name),
        found.labels,
        chosen,
        arm,
        out,
        found.settings.model_copy(update={**asked, "probes": probes}),
        columns=found.columns,
        models=found.models,
        splits=splits,
        encoder=found.encoder,
        on_event=on_event,
    )


def fit_place_study(
    study: FinishedPlaceStudy,
    arm: str,
    out: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    targets: Sequence[str] = (),
    on_event: OnEvent | None = None,
) -> PlaceHead:
    """Fit an arm of a finished study at places on all of its places, with its own choices.

    Args:
        study: what it was about, by `read_place_study`.
        arm: the arm's id, or its name in the report.
        out: the folder of the head.
        changes: settings in place of the study's own, by their names.
        targets: some of the file's columns, in place of the study's.
        on_event: see `fit_places`.

    Raises:
        ConfigError: see `fit_places`.
        StoreError: its sets or models cannot be read.
    """
    slides = frozenset(study.slides)
    return fit_places(
        [replace(one, slides=tuple(name for name in one.slides if name in slides)) for one in open_all(study.inputs)],
        study.places,
        targets or study.targets,
        arm,
        out,
        study.settings.model_copy(update=dict(changes or {})),
        group=study.group,
        models=study.models,
        encoder=study.encoder,
        on_event=on_event,
    )


def _its_sets(found: FinishedStudy, target: str) -> list[EmbeddingSet]:
    """The sets with the slides that the study dealt to folds: its store may hold others by now."""
    sets = open_all(found.inputs)
    if found.splits is None:
        return sets
    dealt = frozenset(read_splits(found.splits)[target].slides)
    return [replace(one, slides=tuple(slide for slide in one.slides if slide in dealt)) for one in sets]


def _study(folder: Path, settings: Mapping[str, Any], about: Mapping[str, Any]) -> FinishedStudy | FinishedPlaceStudy:
    if "places" in about:
        return FinishedPlaceStudy(
            folder=folder,
            inputs=tuple(folder / one for one in about["sets"]),
            slides=tuple(about["slides"]),
            places=folder / about["places"],
            targets=tuple(settings["targets"]),
            group=settings["group"],
            models=tuple(folder / one for one in about["models"].values()),
            encoder=about["file"]["encoder"] or None,
            settings=PlaceFitSettings(**{name: settings[name] for name in PlaceFitSettings.model_fields}),
        )
    columns = {name: about[name] for name in CohortColumns.model_fields if about.get(name) is not None}
    columns.setdefault("slide_column", about.get("slide", "slide"))  # as studies before version 0.2 called it
    targets = {name: Target(name=name, **target) for name, target in about["targets"].items()}
    splits = folder / _SPLITS
    known = {name: settings[name] for name in ("folds", "repeats", "seeds", "most_instances") if name in settings}
    return FinishedStudy(
        folder=folder,
        inputs=tuple(folder / one for one in about["sets"]),
        labels=folder / about["labels"],
        targets=targets,
        columns=CohortColumns(**columns),
        models=tuple(folder / one for one in (about.get("models") or {}).values()),
        splits=splits if splits.is_file() else None,
        scheme=str(settings.get("scheme", "grouped")),
        encoder=(about.get("file") or {}).get("encoder") or None,
        settings=FitSettings(**known, probes=ProbeSettings.model_validate(settings.get("probes", {}))),
        slide_vectors=tuple(settings.get("slide_vectors") or ()),
    )
