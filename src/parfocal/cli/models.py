"""The commands over region encoders: `pretrain`, `represent`, `export-model`, `prove` and `explore`."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cli.command import Answer, Output, failed_lines
from parfocal.cohort import LabelColumns, read_groups
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.lab.explore.page import show
from parfocal.lab.explore.run import ExploreResult, ExploreSettings, explore_designs
from parfocal.lab.prove.data import ProveSettings
from parfocal.lab.prove.result import summary_table
from parfocal.lab.prove.run import prove_encoder
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder import export_model as write_model
from parfocal.report.writer import Field, terminal_table
from parfocal.run.progress import Bars
from parfocal.store import open_set

_COLUMNS, _PRETRAIN = LabelColumns(), PretrainSettings()


def pretrain(
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    columns: LabelColumns = _COLUMNS,
    settings: PretrainSettings = _PRETRAIN,
) -> Answer:
    """Pretrain a region encoder on STORE by masked embedding modelling.

    Some tile embeddings of a region are hidden and predicted from the rest. Slides are held out, and the progress line
    shows how well their hidden tiles are predicted at each magnification. A run that was stopped goes on with the same
    call. For several GPUs name them (--device cuda:0 cuda:1), or start it under torchrun. Where patients have several
    slides, name their column (--labels, --group) or how a slide's id says it (--patient-of), so that no patient is on
    both sides.

    Example:
        parfocal pretrain store -o model --size S

    Args:
        store: a store, on a disk or in a bucket (s3://, gs://), or the folder of one of its sets.
        output: the folder of the model.
        labels: a table with a slide column and the group; no label is read.
        columns: its columns.
        settings: how.
    """
    tiles = open_set(store)
    if (labels is None) != (columns.group is None):
        raise ConfigError("groups are held out by a table and its column: name both --labels FILE and --group COLUMN.")
    groups = read_groups(labels, columns, tiles.slides, tiles.name)
    with Bars() as bars:
        result = pretrain_encoder(tiles, output, settings, groups=groups, on_event=bars)
    r2 = {mpp: value for mpp in map(format_mpp, tiles.mpps) if (value := result.metrics.get(f"r2_{mpp}")) is not None}
    shown = [f"model: {result.model}", result.holdout]
    shown += [f"held-out R2 of hidden tokens at {mpp} mpp: {value:.3f}" for mpp, value in r2.items()]
    notes = ("this run had been finished before; nothing was done",) if result.was_finished else ()
    data = {"model": result.model, "holdout": result.holdout, "steps": result.steps, "metrics": dict(result.metrics)}
    return Answer(data, tuple(shown), notes)


_REPRESENT = RepresentSettings()


def represent(store: Positional[Path], model: str, output: Output, settings: RepresentSettings = _REPRESENT) -> Answer:
    """Turn the tile embeddings of STORE into region embeddings, in the store's layout.

    A slide that fails gets one line and a row in OUTPUT/failures.csv, and the rest goes on; what is done is kept.

    Example:
        parfocal represent store --model model -o regions --readouts cls tokens

    Args:
        store: a store, on a disk or in a bucket (s3://, gs://), or the folder of one of its sets.
        model: the folder of a pretrained region encoder, or its id on the hub.
        output: the store to write region embeddings to.
        settings: how.
    """
    with Bars() as bars:
        summary = represent_regions(
            store,
            model,
            output,
            settings,
            on_event=bars,
        )
    data = {
        "sets": [written.path for written in summary.sets],
        "slides": len(summary.done),
        "failed": [asdict(failed) for failed in summary.failed],
    }
    shown = tuple(f"{written.path}: {len(summary.done)} slides" for written in summary.sets)
    return Answer(data, shown, failed_lines(summary.failed), summary.exit_status)


def export_model(model: Positional[str], output: Output) -> Answer:
    """Write a MODEL as one file that runs wherever torch runs, without parfocal.

    The file is an exported program (torch.export.load): rows of tiles, their places in micrometres, their
    magnifications and which of them are present go in; CLS, registers, contextual tokens and the attention of CLS to
    each tile come out.

    Example:
        parfocal export-model model -o encoder.pt2

    Args:
        model: the folder of a pretrained region encoder, or its id on the hub.
        output: the file, which ends in .pt2.
    """
    digest = write_model(model, output)
    data = {"file": str(output), "model": model, "digest": digest}
    return Answer(data, (f"{output}: the region encoder {digest}",))


_PROVE = ProveSettings()


def prove(
    model: Positional[Path],
    store: Positional[Path],
    output: Output,
    settings: ProveSettings = _PROVE,
) -> Answer:
    """Compare the predictions of MODEL with baselines and controls on the regions of STORE that it never saw.

    Says whether the region encoder has learnt how magnifications belong together, or only what a linear map, a Gaussian
    field, the slide's mean, or a decoder and a ridge regression on random weights know too. The decoders on random
    weights are trained for as many steps as the model, which takes about as long as its pretraining. Writes
    OUTPUT/report.html and OUTPUT/prove.json. What is finished is kept in OUTPUT/steps, and the same call goes on where
    it was stopped.

    Example:
        parfocal prove model store -o proof

    Args:
        model: the folder that pretrain wrote.
        store: the store that it was pretrained on.
        output: the folder to write to.
        settings: how much is looked at.
    """
    with Bars() as bars:
        result = prove_encoder(model, store, output, settings, on_event=bars)
    return Answer(result.describe(), (summary_table(result), *result.sentences), (f"report: {result.report}",))


_COLUMNS, _EXPLORE = LabelColumns(), ExploreSettings()


def explore(
    design: Positional[Path],
    store: Positional[Path],
    output: Output,
    labels: Path | None = None,
    target: str | None = None,
    positive: str | None = None,
    columns: LabelColumns = _COLUMNS,
    settings: ExploreSettings = _EXPLORE,
) -> Answer:
    """Pretrain every cell of DESIGN on STORE, score all by one protocol, and rank them.

    DESIGN is a YAML file with axes, their values and seeds. Each cell is scored by how well hidden tiles of held-out
    slides are predicted from it and, with labels, by what slide classifiers get out of it. What is done is kept, a
    cell that fails is recorded and the rest goes on, and the same call continues a run that was stopped.

    Example:
        parfocal explore studies/design-quick.yaml store -o explored

    Args:
        design: a YAML file: mode, seeds, base, axes, cells (see docs/explore.md).
        store: a store, on a disk or in a bucket (s3://, gs://), or the folder of one of its sets.
        output: the folder of cells, tables and report.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide and the target.
        target: a column with two classes.
        positive: the class that counts as positive, where it is not the later of two.
        columns: the other columns of the labels.
        settings: how.
    """
    with Bars() as bars:
        result = explore_designs(
            design,
            store,
            output,
            settings,
            labels=labels,
            target=target,
            positive=positive,
            columns=columns,
            on_event=bars,
        )
    written = json.loads((result.out / "results.json").read_text(encoding="utf-8"))
    return Answer(written, (_explore_table(result),), (f"report: {result.report}",), result.exit_status)


def _explore_table(result: ExploreResult) -> Table:
    found = result.exploration
    columns = (
        Field("cell", "cell.name"),
        Field("held-out R2", "r2", show=show, align="right"),
        *((Field("AUC, mean", "auc", show=show, align="right"),) if found.has_auc else ()),
        Field("training, s", "training_seconds.mean", show=",.0f"),
    )
    table = terminal_table(columns, (*found.cells, *found.controls))
    for failure in result.failures:
        table.add_row(f"{failure.cell}, seed {failure.seed}", "failed", *[""] * (len(table.columns) - 2))
    return table
