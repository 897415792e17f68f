"""The stages of a study before its evaluation: tiles, models, regions; each keeps what is done and continues.

How long each stage took is kept beside its results.
"""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parfocal.bags import represent_regions
from parfocal.cohort import read_groups
from parfocal.embed import embed_slides
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.files import digest8
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.pretrain.setup import run_identity
from parfocal.report import write_json
from parfocal.run import FailedSlide
from parfocal.run.device import find_device
from parfocal.run.events import Event, OnEvent, Progress
from parfocal.slides import find_slides
from parfocal.store import EmbeddingSet, LeftOut, index_features, only_mpps, open_sets, with_readable_index
from parfocal.store.set import open_set
from parfocal.study.places import groups_at_places
from parfocal.study.settings import CohortSource, Study

Listen = Callable[[str], OnEvent]
"""Gives what listens to a count of the stage's work, such as its `slides`."""


@dataclass(frozen=True)
class Made:
    """What a stage left behind.

    Attributes:
        result: what it is, by a name that holds a digest of everything that decides it.
        sets: the sets that it wrote or found.
        failed: slides that are not in them.
        worked: whether anything had to be done.
    """

    result: str
    sets: tuple[EmbeddingSet, ...] = ()
    failed: tuple[FailedSlide, ...] = ()
    worked: bool = True


def tiles_stage(source: CohortSource, whose: str = "") -> str:
    """What the stage is called that gives the tile embeddings of a cohort."""
    verb = "open the store" if source.store is not None else "embed tiles" if source.slides else "index features"
    return f"{verb}{whose}"


def make_tiles(study: Study, source: CohortSource, store: Path, listen: Listen) -> Made:
    """Tile embeddings of a cohort: embedded, indexed, or found.

    Raises:
        ConfigError: a slide or a store is not there, or a store holds several sets.
        ParfocalError: no slide could be embedded or indexed.
    """
    if source.store is not None:
        left_out = LeftOut()
        found = with_readable_index(the_set(source.store), left_out)
        failed = tuple(
            FailedSlide(slide, found.path, "StoreError", reason) for slide, reason in sorted(left_out.reasons.items())
        )
        return Made(found.name, (found,), failed, worked=False)
    if source.features is not None:
        features = source.features
        summary = index_features(features.paths, store, features)
        indexed = replace(summary.embeddings, slides=tuple(sorted(one.slide for one in summary.slides)))
        return Made(indexed.name, (indexed,), summary.failed)
    return _embed(study, source, store, listen)


def model_folder(
    root: Path, name: str, settings: PretrainSettings, tiles: EmbeddingSet, groups: Mapping[str, str]
) -> Path:
    """Where a model lies: other settings, slides or groups are another model and get another folder."""
    digest = digest8(run_identity(settings, tiles, groups))
    # The last part of the path is what a model is called in the report.
    return root / digest / name


def groups_of(study: Study, tiles: EmbeddingSet) -> dict[str, str]:
    """The group of every slide that is known, by which pretraining holds out whole patients; none without one.

    Raises:
        ConfigError: the labels do not fit.
    """
    if not study.models:
        return {}
    if study.places is not None:
        return groups_at_places(study.places, tiles.slides)
    labels = study.of_slides
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)  # the evaluation says what is missing
        return read_groups(labels.file, labels, tiles.slides, tiles.name)


def make_model(
    folder: Path,
    settings: PretrainSettings,
    tiles: EmbeddingSet,
    groups: Mapping[str, str],
    device: str,
    listen: Listen,
) -> Made:
    """A pretrained region encoder in its folder; a run that was stopped goes on from its last point."""
    tell = listen("steps")

    def steps_only(event: Event) -> None:
        if isinstance(event, Progress):  # what is remarkable is warned of as well
            tell(event)

    placed = settings.model_copy(update={"device": (device,)})
    done = pretrain_encoder(tiles, folder, placed, groups=groups, on_event=steps_only)
    tell(Progress("steps", max(done.steps, 1), max(done.steps, 1)))
    return Made(f"{folder.parent.name}/{folder.name}", worked=not done.was_finished)


def make_regions(
    study: Study,
    settings: PretrainSettings,
    tiles: EmbeddingSet,
    model: Path,
    store: Path,
    device: str,
    listen: Listen,
) -> Made:
    """What a model makes of every slide, in each readout of the study that it can give."""
    before = _slides_of(store)
    sets: list[EmbeddingSet] = []
    failed: dict[str, FailedSlide] = {}
    for choices in study.represent_settings(settings, only_mpps(tiles, settings.mpps).mpps, device):
        summary = represent_regions(tiles, model, store, choices, on_event=listen("slides"))
        if not summary.done:
            first = summary.failed[0]
            raise StoreError(f"no slide could be represented by {model}: {first.slide}: {first.message}")
        sets += summary.sets
        failed |= {one.slide: one for one in summary.failed}
    worked = any(set(one.slides) - before.get(one.name, frozenset()) for one in sets)
    return Made(" ".join(one.name for one in sets), tuple(sets), tuple(failed.values()), worked)


def the_set(store: Path) -> EmbeddingSet:
    """The only set of tile embeddings of a store, or the set whose folder is named.

    Raises:
        ConfigError: there is none, or more than one.
        StoreError: it cannot be read.
    """
    found = [one for one in open_sets(store) if one.kind == "tiles"]
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise ConfigError(f"{store} holds {len(found)} sets of tile embeddings: {names}. Name the folder of one.")
    return found[0]


def _embed(study: Study, source: CohortSource, store: Path, listen: Listen) -> Made:
    slides = source.slides
    if slides is None:
        raise ValueError("there are no slides to embed")
    wanted = {one.slide for one in find_slides(slides.paths, ids=slides.ids)}
    settings = study.embed_settings(slides, str(find_device(study.run.device)))
    summary = embed_slides(slides.paths, store, settings, on_event=listen("slides"))
    if not summary.done:
        first = summary.failed[0]
        raise StoreError(f"no slide could be embedded: {first.slide}: {first.message} ({summary.log} has all).")
    made = open_set(summary.set_path)
    # The set may hold slides of an earlier version of the file; they are no part of this study.
    made = replace(made, slides=tuple(slide for slide in made.slides if slide in wanted))
    return Made(made.name, (made,), summary.failed, any(not one.kept for one in summary.done))


def _slides_of(store: Path) -> dict[str, frozenset[str]]:
    try:
        return {one.name: frozenset(one.slides) for one in open_sets(store)} if store.is_dir() else {}
    except StoreError:  # no set with a slide yet
        return {}


@dataclass
class StageClock:
    """Wall-clock seconds of each stage; a rerun that finds a stage done tells what it took when it was done.

    Attributes:
        file: where they are kept.
        seconds: by the stage's name, in the order in which they ran.
    """

    file: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, work: Callable[[], Made]) -> Made:
        """Do a stage and note the time; a time is kept only for the same result."""
        started = time.monotonic()
        made = work()
        seconds = round(time.monotonic() - started, 2)
        known = self._read()
        before = known.get(stage, {})
        if not made.worked and before.get("result") == made.result:
            seconds = float(before["seconds"])
        else:
            known[stage] = {"result": made.result, "seconds": seconds}
            write_json(self.file, known)
        self.seconds[stage] = seconds
        return made

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise StoreError(
                f"cannot read {self.file}: it is damaged ({error}). Remove it; it holds nothing but times."
            ) from error
