"""`parfocal study`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.config import parse_yaml
from parfocal.errors import ConfigError
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds
from parfocal.study import StudyPlan, TilesPlan, plan_study, read_study, run_study


def study(
    file: Positional[str],
    output: Output = Path("study-output"),
    slides: tuple[Path, ...] = (),
    ids: SlideIds | None = None,
    labels: Path | None = None,
    target: tuple[str, ...] = (),
    changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE...")] = (),
    device: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> Answer:
    """Run the whole chain that FILE describes: tiles, region encoders, region embeddings, the comparison, one report.

    FILE is a YAML file, or the name of one that comes with parfocal: paper (the published design with the controls it
    lacks) or demo. What is done already is kept; a study that was stopped or killed goes on with the same call.

    Example:
        parfocal study paper --slides scans/ --labels labels.csv --target msi -o study --dry-run

    Args:
        file: a study file, or paper, or demo.
        output: the folder of store, models, regions and report.
        slides: slides, folders or manifests, in place of the file's.
        ids: whether a slide in a folder is called by its path below it or by its file's name, in place of the file's.
        labels: a CSV of labels, in place of the file's.
        target: columns to predict, in place of the file's; what they hold is seen from their values.
        changes: values in place of the file's, such as encoder=uni2-h models.mem.epochs=5.
        device: where networks run, in place of the file's: auto, cpu, cuda, cuda:1, mps.
        workers: slides that are embedded at a time, in place of the file's.
        dry_run: check labels, arms, folds and models as the run does, show what is done already, tiles, bytes,
            encodings, steps, fits and their time, and write nothing; 3 where some slides would fail.
    """
    given = {
        "slides": list(slides) or None,
        "slides.ids": ids,
        "labels.file": labels,
        "labels.targets": list(target) or None,
        "run.device": device,
        "run.workers": workers,
    }
    overrides = {**_parsed(changes), **{place: value for place, value in given.items() if value is not None}}
    plan = read_study(file, overrides)
    if dry_run:
        planned = plan_study(plan, output)
        remarks = [
            f"{slide} would fail: {problem}"
            for tiles in (planned.tiles, planned.test_tiles)
            if tiles is not None
            for slide, problem in tiles.problems.items()
        ]
        return Answer(planned.describe(), (_table(planned),), tuple(remarks), planned.exit_status)
    with Bars() as bars:
        result = run_study(plan, output, on_event=bars)
    data = {"report": result.report, "seconds": dict(result.seconds), "failed": len(result.failed)}
    return Answer(data, (f"report: {result.report}",), failed_lines(result.failed), result.exit_status)


def _parsed(changes: Sequence[str]) -> dict[str, Any]:
    """`models.mem.steps=4` with the value as YAML reads it."""
    parsed = {}
    for change in changes:
        place, equals, value = change.partition("=")
        if not equals or not place:
            raise ConfigError(f"--set {change}: expected is KEY=VALUE, such as models.mem.epochs=5.")
        try:
            parsed[place] = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {change}: {' '.join(str(error).split())}") from error
    return parsed


def _table(plan: StudyPlan) -> Table:
    table = Table(title="nothing is written", title_justify="left", box=SIMPLE_HEAD)
    for name in ("stage", "done", "what", "GiB"):
        table.add_column(name, justify="right" if name == "GiB" else "left", overflow="fold")
    _add_tiles(table, "tiles", plan.tiles)
    if plan.test_tiles is not None:
        _add_tiles(table, "tiles of the test cohort", plan.test_tiles)
    for model in plan.models:
        what = f"size {model.size}, {model.objective}, {', '.join(model.mpps)} mpp, {model.steps:,} steps"
        if model.steps:
            what += f" of {model.batch} regions"
        table.add_row(f"model {model.name}", "yes" if model.done else "no", what, "")
        table.add_row(f"regions by {model.name}", "", "", f"{model.gib:.2f}")
    fits = f"{len(plan.arms)} arms x {len(plan.targets)} targets x {plan.folds} folds x {plan.repeats} repeats"
    table.add_row("evaluation", "", f"{fits} = {plan.fits:,} fits", "")
    hours = "" if plan.fit_hours is None else f"about {plan.fit_hours:.2f} hours on this machine: "
    table.add_row("", "", f"{hours}{plan.fit_basis}", "")
    return table


def _add_tiles(table: Table, stage: str, tiles: TilesPlan) -> None:
    counts = ", ".join(f"{count:,} at {place}" for place, count in tiles.tiles.items())
    table.add_row(stage, f"{tiles.done} of {tiles.slides}", f"{tiles.regions:,} regions; tiles: {counts}", "")
    encodings = sum(tiles.to_encode.values())
    if encodings:
        time = "" if tiles.hours is None else f", about {tiles.hours:.2f} hours on this machine"
        size = "unknown" if tiles.gib is None else f"{tiles.gib:.2f}"
        table.add_row("", "", f"{encodings:,} encodings to do{time}", size)
    if tiles.note:
        table.add_row("", "", tiles.note, "")
