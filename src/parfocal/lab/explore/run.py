"""Which pretraining is best: every cell of a design pretrained and scored by one protocol, with several seeds.

Cells one after the other or several at a time, each in a process; one that fails or dies does not stop the rest.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from parfocal.cohort import LabelColumns, Target, make_splits, read_cohort, read_groups, write_splits
from parfocal.config import Devices, renamed
from parfocal.errors import ConfigError, ParfocalError
from parfocal.files import digest8, file_sha256
from parfocal.heads import ProbeChoices, ProbeSettings
from parfocal.lab.explore.design import Cell, CellPlan, Design, controls_of, plan_cells, read_design, references_of
from parfocal.lab.explore.files import FAILURE, write_exploration
from parfocal.lab.explore.regroup import regions_per_side, regroup_set
from parfocal.lab.explore.scoring import CellJob, Failure, Labels, Protocol, attempt_job, is_done, read_result
from parfocal.lab.explore.summary import Exploration, summarise
from parfocal.pretrain.holdout import shared_groups, split_set
from parfocal.pretrain.setup import describe_set
from parfocal.report.writer import write_table
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.run.executors import RunsWhere, executor_for
from parfocal.run.processes import CannotStartError, Death, Tell, TimedOut
from parfocal.store import EmbeddingSet, LeftOut, Source, open_sets, with_readable_rows


def run_jobs(
    jobs: Sequence[CellJob], *, devices: Sequence[str], workers: int, where: RunsWhere | None = None
) -> Iterator[tuple[CellJob, Failure | None]]:
    """Run jobs and hand each out when it is done, with its failure if there is one.

    With one place on one device everything runs in this process, where nothing else is said. Else every place is a
    process of its own, and a cell goes to the next free place. A cell whose process dies is tried once more, alone,
    from its last checkpoint.

    Args:
        jobs: what to run, in order.
        devices: where; each takes `workers` cells at a time.
        workers: places on each device.
        where: processes of this machine where there are several places, else this process; or what it says.

    Raises:
        ConfigError: no process can be started.
    """
    places = len(devices) * workers
    executor = executor_for(where or RunsWhere(), workers=places if places > 1 else 0, devices=devices)
    try:
        for job, result in executor.run(jobs, _prepare):
            if isinstance(result, Death | TimedOut):
                message = f"its process died twice without a message ({result}). Use fewer workers."
                yield job, Failure(job.cell.name, job.settings.seed, "WorkerDied", message)
            else:
                yield result
    except CannotStartError as error:
        raise ConfigError(f"cannot run cells in processes of their own: {error}. Use --workers 1.") from error


def _prepare(device: str) -> Callable[[CellJob, Tell], tuple[CellJob, Failure | None]]:
    return partial(_attempt_on, device)


def _attempt_on(device: str, job: CellJob, tell: Tell | None = None) -> tuple[CellJob, Failure | None]:
    placed = replace(job, device=device, settings=job.settings.model_copy(update={"device": (device,)}))
    return placed, attempt_job(placed)


_PROTOCOL = 1
"""Part of a result's identity: raised when the scoring changes, so that old results are not mixed with new ones."""


class ExploreSettings(RunsWhere):
    """How the cells of a design are run and scored."""

    workers: int = Field(1, ge=1, description="Cells that run at a time on each device, each in a process of its own.")
    device: Devices = Field(("auto",), description="Where: auto, cpu, mps, or several such as cuda:0 cuda:1.")
    holdout: float = Field(
        0.2, gt=0, lt=1, description="Share of the slides that no cell is pretrained on and all are scored on."
    )
    regions: int = Field(
        1024, ge=16, description="Most regions that a linear readout is fitted on, and most that it is scored on."
    )
    folds: int = Field(5, ge=2, description="Folds of the slide classifiers; groups stay whole.")
    repeats: int = Field(1, ge=1, description="How often the folds are dealt anew.")
    most_instances: int = Field(
        1024, ge=1, description="Instances of a slide and magnification that attention may see; means use all."
    )
    rank_by: Literal["r2", "auc"] = Field("r2", description="What the best cell is best in.")
    probes: ProbeChoices = ProbeChoices()

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        return renamed(values, {"devices": "device"})


@dataclass(frozen=True, eq=False)
class ExploreResult:
    """What an exploration found and where it wrote it.

    Attributes:
        exploration: cells with their spread over seeds, effects of axes, and what pretraining brings.
        failures: runs that have no result.
        report: the HTML page.
        out: the folder with results.csv, cells.csv, effects.csv and results.json.
    """

    exploration: Exploration
    failures: tuple[Failure, ...]
    report: Path
    out: Path

    @property
    def exit_status(self) -> int:
        """0 when all cells are done, 3 when some are not."""
        return 3 if self.failures else 0


def explore_designs(
    design: Path | Design,
    store: Source,
    out: Path,
    settings: ExploreSettings | None = None,
    *,
    labels: Path | None = None,
    target: str | None = None,
    positive: str | None = None,
    columns: LabelColumns | None = None,
    on_event: OnEvent | None = None,
) -> ExploreResult:
    """Pretrain and score every cell of a design with every seed, and write tables and a page.

    A run is done when its `result.json` is there, so the same call continues what was stopped, and a design that has
    grown runs only what is new. A run that fails is recorded, the rest goes on, and the next call tries it again; so it
    does where a slide classifier of a cell failed, whose other numbers count until then. Beside the cells stand, for
    each architecture, the same model with random weights, and tile embeddings without any region encoder.

    Args:
        design: a design file, or what is in it.
        store: a store of tile embeddings, or one set.
        out: folder of the cells, the tables and `report.html`.
        settings: how.
        labels: a CSV with a column `slide` and the target; without it cells are scored by held-out R2 alone.
        target: a column with two classes.
        positive: the class that counts as positive, where it is not the later of two.
        columns: the other columns, such as that of the patient, who stays in one fold and on one side of the hold-out.
        on_event: told what the target holds, before any run, and of every one of the `runs` that is done.

    Raises:
        ConfigError: the design, the store, the labels and the settings do not fit together; found before any run.
        StoreError: a set cannot be read.
        ParfocalError: no cell has a result.
    """
    settings, tell = settings or ExploreSettings(), on_event or warn_of
    design = read_design(design) if isinstance(design, Path) else design
    plan = plan_cells(design)
    if (labels is None) != (target is None):
        raise ConfigError("labels and target belong together: name both, or neither to score by held-out R2 alone.")
    if settings.rank_by == "auc" and labels is None:
        raise ConfigError("rank_by=auc needs labels and a target.")
    for device in settings.device:
        find_device(device)
    left_out = LeftOut()
    sets = _readable(_sets_of(plan.cells, store), left_out)
    for cell in plan.cells:
        if cell.region_um is not None:
            regions_per_side(sets[cell.tiles], cell.region_um)
    slides = _common_slides(list(sets.values()))
    columns = columns or LabelColumns()
    tiles = sets[plan.cells[0].tiles]
    groups = shared_groups(slides, read_groups(labels, columns, slides, tiles.name) if labels else None)
    split = split_set(tiles, share=settings.holdout, seed=settings.probes.seed, groups=groups)
    # With one slide only, pretraining holds out fragments of it, which depend on the seed.
    held_out = tuple(part.slide for part in split.held_out) if len(slides) > 1 else ()
    folds = None
    if labels and target:
        folds = _deal_folds(
            labels, Target(name=target, kind="binary", positive=positive), columns, slides, out, settings, tell
        )
    protocol = Protocol(settings.regions, ProbeSettings(**settings.probes.model_dump()), folds)
    data = {
        key: regroup_set(sets[key[0]], key[1], out / "sets") if key[1] is not None else sets[key[0]]
        for key in dict.fromkeys(cell.data for cell in plan.cells)
    }
    # A set of larger regions that is there already may hold slides that cannot be read any more.
    data = {key: replace(one, slides=slides) for key, one in data.items()}
    jobs = _jobs(plan, design.seeds, data, held_out, protocol, settings, out)
    failures = _run_all(jobs, settings, out, tell)
    results = [(job.cell, found) for job in jobs if (found := read_result(job)) is not None]
    if not any(cell.kind == "trained" for cell, _ in results):
        reason = f": {failures[0].cell}, seed {failures[0].seed}: {failures[0].message}" if failures else ""
        raise ParfocalError(f"no cell has a result{reason}")
    exploration = summarise(plan, design, results, rank_by=settings.rank_by)
    described = {
        "design": design.model_dump(mode="json"),
        **settings.model_dump(mode="json"),
        "target": target,
        "positive": positive,
        **columns.model_dump(mode="json"),
    }
    inputs = {one.name: digest8(one.settings) for one in data.values()}
    if labels:
        inputs[labels.name] = file_sha256(labels)[:16]
    report = write_exploration(
        exploration,
        failures,
        out,
        settings=described,
        inputs=inputs,
        seed=settings.probes.seed,
        holdout=split.without(left_out).sentence,
    )
    return ExploreResult(exploration, failures, report, out)


def _sets_of(cells: Sequence[Cell], store: Source) -> dict[str | None, EmbeddingSet]:
    """The set of each value of the axis `tiles`; None is the only one of the store."""
    found = [one for one in open_sets(store) if one.kind == "tiles"]
    sets: dict[str | None, EmbeddingSet] = {}
    for wanted in dict.fromkeys(cell.tiles for cell in cells):
        fitting = [one for one in found if wanted is None or one.name.startswith(wanted)]
        exact = [one for one in fitting if one.name == wanted]
        if len(exact or fitting) != 1:
            names = ", ".join(one.name for one in found) or "none"
            asked = "Name one of them as an axis of tiles" if wanted is None else f"tiles={wanted} must fit one of them"
            raise ConfigError(f"{store} holds {len(found)} sets of tile embeddings: {names}. {asked}.")
        sets[wanted] = (exact or fitting)[0]
    return sets


def _readable(sets: Mapping[str | None, EmbeddingSet], left_out: LeftOut) -> dict[str | None, EmbeddingSet]:
    """The sets without the slides that cannot be read in one of them: every cell has the same ones."""
    for one in sets.values():
        with_readable_rows(one, left_out)
    left_out.notes(stacklevel=3)
    return {key: replace(one, slides=left_out.keep(one.slides)) for key, one in sets.items()}


def _common_slides(sets: Sequence[EmbeddingSet]) -> tuple[str, ...]:
    """The slides; all sets must have the same ones, or cells would be held out on different slides."""
    for one in sets[1:]:
        if one.slides != sets[0].slides:
            differing = sorted(set(one.slides) ^ set(sets[0].slides))
            raise ConfigError(
                f"{sets[0].name} and {one.name} do not hold the same slides ({len(differing)} differ, such as "
                f"{differing[0]}), so cells could not be compared. Finish both sets first."
            )
    return sets[0].slides


def _deal_folds(
    labels: Path,
    target: Target,
    columns: LabelColumns,
    slides: Sequence[str],
    out: Path,
    settings: ExploreSettings,
    tell: OnEvent,
) -> Labels:
    cohort = read_cohort(labels, target, columns).restricted_to(slides, "the store")
    tell(Notice(cohort.sentence()))
    splits = make_splits(cohort, folds=settings.folds, repeats=settings.repeats, seed=settings.probes.seed)
    write_splits(out / "splits.csv", {target.name: splits})
    return Labels(labels.resolve(), target, columns, (out / "splits.csv").resolve(), settings.most_instances)


def _jobs(
    plan: CellPlan,
    seeds: Sequence[int],
    data: Mapping[tuple[str | None, float | None], EmbeddingSet],
    held_out: tuple[str, ...],
    protocol: Protocol,
    settings: ExploreSettings,
    out: Path,
) -> list[CellJob]:
    """All runs, seed by seed, so that an exploration that is stopped early has all cells with fewer seeds."""
    jobs = []
    scored_by = {
        "version": _PROTOCOL,
        "regions": protocol.regions,
        "holdout": settings.holdout,
        "held_out": list(held_out),
        "probes": protocol.probes.model_dump(mode="json", exclude={"device"}),
        "labels": None if protocol.labels is None else _labels_identity(protocol.labels),
    }
    references = references_of(plan.cells)
    for place, seed in enumerate(seeds):
        for cell in (*references, *controls_of(plan.cells), *plan.cells):
            # Without a region encoder nothing is random but which part of a single slide is held out.
            if cell.kind == "tiles" and place and held_out:
                continue
            own = cell.settings.model_copy(
                update={"seed": seed, "holdout": settings.holdout, "holdout_slides": held_out}
            )
            tiles = data[cell.data]
            identity = {"cell": cell.content, "seed": seed, "set": describe_set(tiles), "scored_by": scored_by}
            slug = re.sub(r"[\W_]+", "-", cell.name.lower()).strip("-")[:60]
            folder = out / "cells" / f"{slug}-{cell.digest}" / f"seed-{seed}"
            jobs.append(CellJob(cell, own, tiles.path, tiles.slides, folder, protocol, identity, settings.device[0]))
    return jobs


def _labels_identity(labels: Labels) -> dict[str, Any]:
    return {
        "labels": file_sha256(labels.path)[:16],
        "target": labels.target.name,
        "positive": labels.target.positive,
        "splits": file_sha256(labels.splits)[:16],
        "most_instances": labels.most_instances,
        # What has more say than the splits have over which label a slide gets; left out where it says nothing.
        **({"not_missing": list(labels.columns.not_missing)} if labels.columns.not_missing else {}),
    }


def _run_all(jobs: Sequence[CellJob], settings: ExploreSettings, out: Path, tell: OnEvent) -> tuple[Failure, ...]:
    """Run what is not done; `failures.csv` has what failed, and is absent when nothing did."""
    left = [job for job in jobs if not is_done(job)]
    done, failures = len(jobs) - len(left), []
    tell(Progress("runs", done, len(jobs)))
    for job, failure in run_jobs(left, devices=settings.device, workers=settings.workers, where=settings):
        done += 1
        if failure is not None:
            failures.append(failure)
        last = job.label if failure is None else f"{job.label} failed: {failure.message}"
        tell(Progress("runs", done, len(jobs), last))
    write_table(out / "failures.csv", FAILURE, failures, keep_empty=False)
    return tuple(failures)
