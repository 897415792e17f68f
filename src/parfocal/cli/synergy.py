"""`parfocal synergy`."""

from pathlib import Path

from tyro.conf import Positional

from parfocal.cli.command import Answer, Output
from parfocal.cohort import LabelColumns
from parfocal.lab.synergy.labels import LabelKind
from parfocal.lab.synergy.run import SynergySettings, measure_synergy
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds

_COLUMNS, _SETTINGS = LabelColumns(), SynergySettings()


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
    settings: SynergySettings = _SETTINGS,
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
