"""The commands over labelled cohorts: `evaluate`, `synergy`, `study` and `demo`."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.cohort import CohortColumns, LabelColumns, Target, TargetSettings
from parfocal.config import parse_yaml
from parfocal.errors import ConfigError
from parfocal.evaluate import EvaluateResult, EvaluateSettings, evaluate_arms
from parfocal.evaluate.places import PlaceQuestion, PlaceSettings, evaluate_places, places_table
from parfocal.lab.demo import DemoSettings, run_demo
from parfocal.lab.synergy.analysis import SynergySettings
from parfocal.lab.synergy.labels import LabelKind
from parfocal.lab.synergy.run import measure_synergy
from parfocal.report import Field, show_interval, terminal_table
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds
from parfocal.study import StudyPlan, TilesPlan, plan_study, read_study, run_study
from parfocal.terminal import tell

_TARGET, _COHORT, _EVALUATE, _PLACES = TargetSettings(), CohortColumns(), EvaluateSettings(), PlaceQuestion()


def evaluate(
    stores: Positional[tuple[Path, ...]],
    target: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN...")],
    output: Output,
    labels: Path | None = None,
    places: Path | None = None,
    at_places: PlaceQuestion = _PLACES,
    holds: TargetSettings = _TARGET,
    columns: CohortColumns = _COHORT,
    models: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER...")] = (),
    splits: Path | None = None,
    test: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="STORE...")] = (),
    test_labels: Path | None = None,
    settings: EvaluateSettings = _EVALUATE,
) -> Answer:
    """Compare magnifications, mixtures and poolings on a labelled cohort.

    STORES hold tile embeddings, region embeddings, or both. Every arm is fitted on the same patient-grouped folds and
    chooses inside them; the table has each arm's AUC (concordance for numbers, ordered classes and times) with a 95 %
    interval for what such fits reach on new patients. It counts other patients to be scored and to be fitted on. For
    two classes and linear models it held in 95 to 99 % of drawn cohorts of 40 and 100 patients; for other targets and
    networks that was not measured (docs/evaluate.md). An arm that fails is in the table with its reason, and the exit
    status is 3.

    With --places the targets are inside slides, such as the genes of sequenced spots: every arm is read by one ridge
    regression, and the first sentence says how much of a gain is context and how much magnification.

    Example:
        parfocal evaluate store regions --labels labels.csv --target msi --group patient -o report
        parfocal evaluate store regions --labels labels.csv --target msi --slide-vectors slide_features_titan -o report
        parfocal evaluate spots-store --places spots.csv --target all --most-variable 50 -o report

    Args:
        stores: stores, or folders of single sets.
        target: columns to predict: classes, ordered classes, numbers, or times with --event; of places also all.
        output: the folder of the report and its tables.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the targets and the group.
        places: in place of labels, targets at places: a table with slide, x_um, y_um (or x_px, y_px) and the targets,
            an .h5ad with obsm['spatial'], or GeoJSON areas with classes.
        at_places: what is asked at places.
        holds: what the targets hold.
        columns: the other columns of the labels.
        models: region encoders that are trained on in every fold, from tile embeddings; slow.
        splits: folds of an earlier run, to use again (its splits.csv).
        test: stores of an external cohort, made as STORES; arms are tested on it after a fit on all slides of STORES.
        test_labels: the labels of the external cohort, in the same columns.
        settings: folds, repeats, and what arms choose among.
    """
    if not stores:
        raise ConfigError(
            "no store is named: parfocal evaluate store regions --labels labels.csv --target msi -o report"
        )
    if places is not None:
        own = columns.model_copy(update={"group": None})
        of_slides = (labels, holds, own, models, splits, test, test_labels, settings.slide_vectors)
        if of_slides != (None, _TARGET, _COHORT, (), None, (), None, ()):
            raise ConfigError(
                "--places asks about places inside slides: it goes with --target, --group, --arms, --folds and its own "
                "options, and not with --labels or what is about whole slides."
            )
        asked = PlaceSettings.of(settings, at_places)
        with Bars() as bars:
            found = evaluate_places(stores, places, target, output, asked, group=columns.group, on_event=bars)
        written = json.loads((output / "results.json").read_text(encoding="utf-8"))
        told = (*(one for one in found.sentences if one != found.answer), f"report: {found.report}")
        return Answer(written, (found.answer, places_table(found)), told, 0)
    if labels is None:
        raise ConfigError("name one of the two: --labels CSV for slides, or --places FILE for targets inside slides.")
    if columns.group is None and columns.patient_of is None:
        tell("no --group is named: slides are taken as independent")
    with Bars() as bars:
        result = evaluate_arms(
            stores,
            labels,
            [Target(name=name, **dict(holds)) for name in target],
            output,
            settings,
            columns=columns,
            models=models,
            splits=splits,
            test=test,
            test_labels=test_labels,
            on_event=bars,
        )
    notes = [f"{name}: {one.edge_note}" for name, one in result.targets.items() if one.edge_note]
    written = json.loads((result.out / "results.json").read_text(encoding="utf-8"))
    return Answer(
        written,
        (result.answer, _evaluate_table(result)),
        (*result.sentences, *notes, f"report: {result.report}"),
        result.exit_status,
    )


_SHOWN = (
    Field("target"),
    Field("arm", "arm.name"),
    Field("pooling", "arm.pooling"),
    Field("metric"),
    Field("value", "interval.estimate", show=".2f", missing="failed"),
    Field("95 % interval", lambda row: show_interval(row["interval"]) if "interval" in row else row["failed"]),
)


def _evaluate_table(result: EvaluateResult) -> Table:
    rows: list[dict[str, object]] = []
    for target, one in result.targets.items():
        head = {"target": target, "metric": one.metric.name}
        rows += [{**head, "arm": run.arm, "interval": run.interval} for run in one.runs]
        rows += [{**head, "arm": failed.arm, "failed": failed.reason} for failed in one.failed]
    return terminal_table(_SHOWN, rows, by="target")


_COLUMNS, _SYNERGY = LabelColumns(), SynergySettings()


def synergy(
    store: Positional[Path],
    labels: Path,
    target: str,
    output: Output,
    kind: LabelKind = "auto",
    positive: str | None = None,
    columns: LabelColumns = _COLUMNS,
    site: str | None = None,
    within: str | None = None,
    mpps: tuple[float, ...] = (),
    slides: tuple[Path, ...] = (),
    ids: SlideIds = "path",
    settings: SynergySettings = _SYNERGY,
) -> Answer:
    """Test, before any training, whether pairing the magnifications of STORE knows a label.

    Two tests of what only the pairing of coarse and fine tiles within regions knows, beyond slide means: by
    permutation, and cross-fitted, which allows for classes that differ in noise, size or number of slides. Pairing is
    said where both agree. Beside them the effect, what this cohort could have shown, what the classes differ in, main
    effects, and a page with the tiles at both ends of each direction.

    Example:
        parfocal synergy store --labels labels.csv --target msi --group patient --site hospital -o synergy

    Args:
        store: a store, or the folder of one set of tile embeddings at two magnifications or more.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target, and what else is named.
        target: column of classes or of numbers.
        output: folder of report.html and synergy.json.
        kind: what the target is, where it cannot be seen from the values.
        positive: the only class to test, against the rest.
        columns: the other columns of the labels; patients are permuted.
        site: column of the site; patients are permuted within it.
        within: column of what regions are centred within, where slides have one region each or share a stain, such as
            the patient or the TMA; without it the slide.
        mpps: magnifications to use, in micrometres per pixel; none uses all.
        slides: slide files or folders for the pictures, where slides have moved since they were embedded.
        ids: whether a slide in a folder of --slides is called by its path below it or by its file's name alone.
        settings: how.
    """
    with Bars() as bars:
        result = measure_synergy(
            store,
            labels,
            target,
            output,
            settings,
            columns=columns,
            site=site,
            within=within,
            kind=kind,
            positive=positive,
            mpps=mpps,
            slides=slides,
            ids=ids,
            on_event=bars,
        )
    return Answer(result.describe(), result.answer, (f"report: {result.report}",))


def study(
    file: Positional[str],
    output: Output = Path("study-output"),
    slides: tuple[Path, ...] = (),
    ids: SlideIds | None = None,
    labels: Path | None = None,
    places: Path | None = None,
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
        parfocal study paper --slides sections/ --places spots.csv -o study

    Args:
        file: a study file, or paper, or demo.
        output: the folder of store, models, regions and report.
        slides: slides, folders or manifests, in place of the file's.
        ids: whether a slide in a folder is called by its path below it or by its file's name, in place of the file's.
        labels: a CSV of labels, in place of the file's labels or places.
        places: targets at places inside slides, in place of the file's labels or places.
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
        "places.file": places,
        "targets": list(target) or None,
        "run.device": device,
        "run.workers": workers,
    }
    if labels is not None and places is not None:
        raise ConfigError("name one of the two: --labels CSV for slides, or --places FILE for targets inside slides.")
    said = {place: value for place, value in given.items() if value is not None}
    # Whole sections first, so that --set can say more of them; the targets last, of whatever question there is by then.
    sections: dict[str, Any] = {
        place: said.pop(place) for place in ("slides", "labels.file", "places.file") if place in said
    }
    overrides = {
        **sections,
        **{place: value for place, value in _parsed(changes).items() if place not in sections},
    }
    plan = read_study(file, {**overrides, **said})
    if dry_run:
        planned = plan_study(plan, output)
        remarks = [
            f"{slide} would fail: {problem}"
            for tiles in (planned.tiles, planned.test_tiles)
            if tiles is not None
            for slide, problem in tiles.problems.items()
        ]
        return Answer(planned.describe(), (_study_table(planned),), tuple(remarks), planned.exit_status)
    with Bars() as bars:
        result = run_study(plan, output, on_event=bars)
    data = {"report": result.report, "seconds": dict(result.seconds), "failed": len(result.failed)}
    budgets = {name: one.report for name, one in result.budgets.items()}
    lines = [result.evaluation.answer, f"report: {result.report}"]
    lines += [f"budgets for {name}: {report}" for name, report in budgets.items()]
    return Answer({**data, "budgets": budgets}, tuple(lines), failed_lines(result.failed), result.exit_status)


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


def _study_table(plan: StudyPlan) -> Table:
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
    if plan.is_at_places:
        fits = f"{len(plan.arms)} arms x {plan.folds} folds, all targets at once"
    table.add_row("evaluation", "", f"{fits} = {plan.fits:,} fits", "")
    hours = "" if plan.fit_hours is None else f"about {plan.fit_hours:.2f} hours on this machine: "
    table.add_row("", "", f"{hours}{plan.fit_basis}", "")
    if plan.budget_fits:
        table.add_row("budgets", "", f"{plan.budget_fits:,} more fits, whose time is not estimated", "")
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


_DEMO = DemoSettings()


def demo(output: Output = Path("demo-output"), settings: DemoSettings = _DEMO) -> Answer:
    """Render a small cohort whose answer is known, run the whole chain on it, and write a report.

    Slides, tile embeddings by the filter bank, a pretrained region encoder, region embeddings, and every arm
    cross-validated on two labels: one that only the pairing of magnifications knows, and one that any magnification
    knows. A head is fitted for the former, and the last line is the command that shows the slides, what it says of
    them and why. Nothing is downloaded.

    Example:
        parfocal demo -o demo-output

    Args:
        output: the folder for slides, store, model, report and head.
        settings: size of the cohort and length of the training.
    """
    with Bars() as bars:
        result = run_demo(output, settings, on_event=bars)
    look = f"parfocal view {shlex.quote(str(result.tiles.path.parent))} --head {shlex.quote(str(result.head))}"
    return Answer(
        {"report": result.report, "view": look, "seconds": dict(result.seconds)},
        (result.evaluation.answer, f"report: {result.report}"),
        (*(f"{stage:<26}{seconds:7.1f} s" for stage, seconds in result.seconds.items()), f"look at its slides: {look}"),
        result.evaluation.exit_status,
    )
