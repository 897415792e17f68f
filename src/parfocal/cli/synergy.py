"""`parfocal synergy`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call, print_json
from parfocal.cli.lines import say, tell
from parfocal.lab.synergy.labels import LabelKind
from parfocal.lab.synergy.run import SynergySettings
from parfocal.lab.synergy.run import measure_synergy as run_synergy
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds

__all__ = ["run", "synergy"]

_SETTINGS = SynergySettings()


def synergy(
    store: Positional[Path],
    labels: Path,
    target: str,
    output: Output,
    settings: SynergySettings = _SETTINGS,
    slide_column: str = "slide",
    patient_of: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None,
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    not_missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    group: str | None = None,
    site: str | None = None,
    within: str | None = None,
    kind: LabelKind = "auto",
    positive: str | None = None,
    mpps: tuple[float, ...] = (),
    slides: tuple[Path, ...] = (),
    ids: SlideIds = "path",
    json: bool = False,
) -> int:
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
        settings: how.
        slide_column: column of the slide's id.
        patient_of: a regular expression whose match in a slide's id is its patient, such as TCGA-..-....; then a row of
            the labels may be a patient.
        missing: words that stand for a missing value beside the usual ones, such as NA, unknown and Not Reported.
        not_missing: words that are values, such as none, although they are usual for a missing one.
        group: column of the patient; patients are permuted. Without it slides are taken as independent.
        site: column of the site; patients are permuted within it.
        within: column of what regions are centred within, where slides have one region each or share a stain, such as
            the patient or the TMA; without it the slide.
        kind: class or number, where it cannot be seen from the values.
        positive: the only class to test, against the rest.
        mpps: magnifications to use, in micrometres per pixel; none uses all.
        slides: slide files or folders for the pictures, where slides have moved since they were embedded.
        ids: whether a slide in a folder of --slides is called by its path below it or by its file's name alone.
        json: print JSON in place of sentences.
    """
    with Bars() as bars:
        result = run_synergy(
            store,
            labels,
            target,
            output,
            settings,
            group=group,
            site=site,
            within=within,
            slide=slide_column,
            patient_of=patient_of,
            missing=missing,
            not_missing=not_missing,
            kind=kind,
            positive=positive,
            mpps=mpps,
            slides=slides,
            ids=ids,
            on_event=bars,
        )
    if json:
        print_json(result.describe())
    else:
        say(*result.answer)
        tell(f"report: {result.report}")
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("synergy", synergy, argv)
