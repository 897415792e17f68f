"""`parfocal fit`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from parfocal.cli.command import Output, parse_and_call
from parfocal.cli.lines import say, tell
from parfocal.cohort import AskedKind, LabelColumns, Target
from parfocal.errors import ConfigError
from parfocal.heads import is_at_edge
from parfocal.predict import FitSettings, Head, fit_sentences, fit_study, is_study, outside_sentence
from parfocal.predict import fit_head as run_fit
from parfocal.run.progress import Bars

__all__ = ["fit", "run"]

_SETTINGS = FitSettings()
_EXAMPLE = "parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head"


def fit(
    inputs: Positional[tuple[Path, ...]],
    arm: str,
    output: Output,
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None,
    labels: Path | None = None,
    slide_column: str = "slide",
    patient_of: Annotated[str | None, tyro.conf.arg(metavar="REGEX")] = None,
    missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    not_missing: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = (),
    group: str | None = None,
    kind: AskedKind = "auto",
    positive: str | None = None,
    order: tuple[str, ...] = (),
    event: str | None = None,
    model: tuple[Path, ...] = (),
    splits: Path | None = None,
    encoder: str | None = None,
    settings: FitSettings = _SETTINGS,
) -> int:
    """Fit one arm of a STUDY on all of its labelled slides, as a head that predicts new slides.

    STUDY is the output folder of a finished study: its sets, labels, folds and choices are taken. Or name stores of
    embeddings in its place, with --labels and --target. The head is a folder that is complete in itself: the probe,
    its calibration on scores of slides it had not seen, what is usual among the training slides, and the region
    encoder where the arm reads one.

    Example:
        parfocal fit store --labels labels.csv --target msi --group patient --arm concat -o head

    Args:
        inputs: the output folder of a study; or stores, or folders of single sets.
        arm: the arm's id, such as contrast or 0.5/abmil, or its label in a report; an unknown one lists them all.
        output: the folder of the head.
        target: column to predict; of a study one of its targets, not needed where it has one.
        labels: a CSV or an Excel workbook (.xlsx) with a column slide, the target and the group; not with a study.
        slide_column: column of the slide's id; not with a study.
        patient_of: a regular expression whose match in a slide's id is its patient, such as TCGA-..-....; then a row of
            the labels may be a patient; not with a study.
        missing: words that stand for a missing value beside the usual ones, such as NA and Not Reported; not with a
            study.
        not_missing: words that are values, such as none, although they are usual for a missing one; not with a study.
        group: column of what must stay in one fold, such as patient; without it slides are taken as independent, and
            so they are called; not with a study.
        kind: what the target is; auto sees it from the values.
        positive: the class that counts as positive, where it is not the later of two.
        order: the classes of an ordinal target from low to high.
        event: column that is 1 where the target is the time of an event and 0 where that of censoring.
        model: folders of the region encoders whose embeddings the arm reads; not with a study.
        splits: folds of an earlier run (its splits.csv), in place of new ones.
        encoder: how the tile encoder is loaded on new slides, where its name in the store does not say; not with a
            study.
        settings: folds, repeats, and what the arm chooses among; of a study its own where nothing else is asked for.
    """
    if not inputs:
        raise ConfigError(f"no study and no store is named: {_EXAMPLE}")
    given = {"--labels": labels, "--slide-column": slide_column != "slide", "--patient-of": patient_of,
             "--missing": missing, "--not-missing": not_missing, "--group": group, "--kind": kind != "auto",
             "--positive": positive, "--order": order, "--event": event, "--model": model, "--splits": splits,
             "--encoder": encoder}  # fmt: skip
    unused = [name for name, value in given.items() if value]
    with Bars() as bars:
        if len(inputs) == 1 and is_study(inputs[0]):
            if unused:
                raise ConfigError(
                    f"{inputs[0]} is a finished study and says itself what {', '.join(unused)} would. "
                    "Leave that out, or name the stores in place of the study."
                )
            head = fit_study(inputs[0], arm, output, settings, target=target, on_event=bars)
        elif labels is None or target is None:
            raise ConfigError(f"{inputs[0]} is no finished study; stores need --labels and --target: {_EXAMPLE}")
        else:
            head = run_fit(
                inputs,
                labels,
                Target(target, kind, positive, event, order),
                arm,
                output,
                settings,
                columns=LabelColumns(
                    slide=slide_column, group=group, patient_of=patient_of, missing=missing, not_missing=not_missing
                ),
                models=model,
                splits=splits,
                encoder=encoder,
                on_event=bars,
            )
    _print(head)
    return 0


def run(argv: Sequence[str]) -> int:
    """Parse and call."""
    return parse_and_call("fit", fit, argv)


def _print(head: Head) -> None:
    facts = head.facts
    say(f"{head.path}: {facts.arm_label}, for {facts.target}, head {head.digest}")
    for sentence in (*fit_sentences(facts), outside_sentence(facts, head.habits.limit)):
        say(sentence)
    if any(is_at_edge(probe.chosen) for probe in head.probes):
        tell(
            "it chose the most training steps that it was offered, so that more might do better: "
            "raise --growth, or its steps"
        )
    for note in facts.trained_on.notes:
        tell(note)
