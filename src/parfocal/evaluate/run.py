"""Which arm predicts a label best: every arm on the same folds, each choosing inside them, and the right interval."""

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import Field

from parfocal.cohort import (
    Cohort,
    CohortColumns,
    LabelColumns,
    Scheme,
    Splits,
    Target,
    make_splits,
    read_cohort,
    read_splits,
    read_test_cohort,
)
from parfocal.config import Settings
from parfocal.errors import ConfigError, ParfocalError
from parfocal.evaluate.arm import Arm, choose_arms
from parfocal.evaluate.arms import all_arms, read_arm_bags, set_label
from parfocal.evaluate.files import write_evaluation
from parfocal.evaluate.fitting import Bags, ExternalBags, FitPlan, FitsWhere, cross_validate
from parfocal.evaluate.result import EvaluateResult, FailedArm, TargetResult
from parfocal.evaluate.sources import common_slides, encodings_per_slide, matching_sets, named, open_all
from parfocal.evaluate.vectors import SlideVectors, read_all_vectors
from parfocal.files import digest8, file_digest8, writable_folder
from parfocal.heads import ProbeSettings
from parfocal.report import Reference, Section
from parfocal.run.device import find_device
from parfocal.run.events import Notice, OnEvent, Progress, warn_of
from parfocal.store import EmbeddingSet, LeftOut, VectorFolder, find_vector_folders

ELSEWHERE = tuple(FitsWhere.model_fields)
"""Settings that say where an evaluation runs, and nothing of what it finds."""


class FoldSettings(Settings):
    """How held-out slides are dealt, and how arms are fitted on the others."""

    folds: int = Field(5, ge=2, description="Folds of the cross-validation; groups stay whole.")
    repeats: int = Field(
        5,
        ge=1,
        description="How often the cross-validation is repeated with other folds; from 4 on they tell what fits vary.",
    )
    scheme: Scheme = Field(
        "grouped", description="What is tested together: groups at random, whole sites, one site, or one group."
    )
    most_instances: int = Field(
        1024, ge=1, description="Instances of a slide and magnification that attention may see; means use all."
    )
    probes: ProbeSettings = ProbeSettings()


class EvaluateSettings(FoldSettings, FitsWhere):
    """How arms are compared."""

    arms: tuple[str, ...] = Field(
        (),
        description="Arms to run, by method, magnification or id, such as mlp, 0.5, 0.5/mlp; none runs all but abmil.",
    )
    seeds: int = Field(1, ge=1, description="Seeds that networks are fitted with in every fold; scores are averaged.")
    slide_vectors: tuple[Path, ...] = Field(
        (),
        description="Folders of slide vectors by whole-slide encoders (TRIDENT's slide_features_NAME, or job folders "
        "with such; STAMP's slide files): each is an arm, alone and beside ours.",
    )
    primary: str | None = Field(
        None,
        description="Mixed arm of the primary comparison: its id such as mem/tokens/mean, or its label's beginning.",
    )

    def on(self, device: str) -> "EvaluateSettings":
        """The same with networks on a device, where these settings name none themselves."""
        if "device" in self.probes.model_fields_set:
            return self
        return self.model_copy(update={"probes": self.probes.model_copy(update={"device": device})})


def evaluate_arms(
    inputs: Sequence[Path | EmbeddingSet],
    labels: Path,
    targets: Sequence[str | Target],
    out: Path,
    settings: EvaluateSettings | None = None,
    *,
    columns: LabelColumns | None = None,
    models: Sequence[Path] = (),
    splits: Path | None = None,
    test: Sequence[Path | EmbeddingSet] = (),
    test_labels: Path | None = None,
    keep: Path | None = None,
    references: Mapping[str, Mapping[str, Sequence[Reference]]] | None = None,
    sections: Sequence[Section] = (),
    described: Mapping[str, object] | None = None,
    absent: Sequence[FailedArm] = (),
    on_event: OnEvent | None = None,
) -> EvaluateResult:
    """Cross-validate every arm that the inputs allow on every target, and write tables and a report.

    An arm that fails, for whatever reason, is in the tables with its reason, and the others go on.

    Args:
        inputs: stores, folders of sets, or open sets: tile embeddings, and what `represent` made of them.
        labels: a CSV or an Excel workbook with a column `slide`, the targets and the group.
        targets: columns to predict; a text stands for a target whose kind is seen from its values.
        out: folder of `report.html`, `results.json` and the tables: `summary.csv`, `results.csv`, `predictions.csv`,
            `splits.csv`, and where there are such results `subgroups.csv` and `external.csv`.
        settings: folds, repeats and what arms choose among.
        columns: the columns of `labels` beside the targets, such as that of the patient, and how its cells are read.
        models: folders of region encoders that are trained on in every fold, from the tile embeddings; slow.
        splits: a CSV to take the folds from, as `splits.csv` of an earlier run.
        test: stores or sets of an external cohort, made as those of `inputs`; every arm is tested on it after one more
            fit, on all slides of the training cohort. Slide vectors of its slides are looked for in the same folders.
        test_labels: its labels, in the same columns.
        keep: folder of finished fits, which are never done again; None keeps them in `out` until the report is there,
            so that a run that was stopped goes on.
        references: for each target, what to print beside arms of a kind (`single`, `late`, `mixed`): ceilings,
            adversaries.
        sections: further parts of the page, after the results.
        described: further settings, as plain values, to be written down with the others.
        absent: arms that were to be there and could not be made, such as those of a model whose training diverged.
        on_event: told what each target holds, before anything is fitted, and of every one of the `arms` that is done.

    Raises:
        ConfigError: labels, targets, splits and sets do not fit together.
        MismatchError: the sets of the test cohort were made otherwise.
        StoreError: a set cannot be read.
        ParfocalError: every arm failed on every target.
    """
    settings = settings or EvaluateSettings()
    columns = columns or CohortColumns()
    if bool(test) != (test_labels is not None):
        raise ConfigError("a test cohort is stores and labels: name both --test STORE... and --test-labels CSV.")
    find_device(settings.probes.device)
    asked = [Target(name=one) if isinstance(one, str) else one for one in targets]
    writable_folder(out)
    sets = open_all(inputs)
    # Labels before the slides: they are read at once, and a wrong name in them is the most frequent mistake.
    labelled = {one.name: read_cohort(labels, one, columns) for one in asked}
    slides, notes = common_slides(sets)
    folders = find_vector_folders(settings.slide_vectors)
    vectors, slides = read_all_vectors(folders, slides)
    notes += [note for one in vectors for note in one.notes]
    source = f"{named(sets)} with slide vectors" if vectors else named(sets)
    cohorts = {target: cohort.restricted_to(slides, source) for target, cohort in labelled.items()}
    tell = on_event or warn_of
    for cohort in cohorts.values():
        tell(Notice(cohort.sentence()))
    arms = choose_arms(
        [*all_arms(sets, models=models, vectors=[one.name for one in vectors]), *(one.arm for one in absent)],
        settings.arms,
    )
    outside = {}
    if test_labels is not None:
        theirs = matching_sets(sets, test)
        outside = _read_test(theirs, folders, vectors, test_labels, arms, asked, cohorts, columns, settings)
        for one in outside.values():
            tell(Notice(f"test cohort: {one.cohort.sentence()}"))
    dealt = read_dealt(splits, cohorts) if splits else {}
    read = _ReadBags(cohorts, arms, sets, vectors, settings)
    cohorts = {target: cohort.without(read.left_out) for target, cohort in cohorts.items()}
    results: dict[str, TargetResult] = {}
    kept = keep or out / "kept"
    done, total = 0, sum(arm.pool is not None for arm in arms) * len(cohorts)

    def report(target: str, arm: Arm) -> None:
        nonlocal done
        done += 1
        tell(Progress("arms", done, total, f"{target}, {arm.label}"))

    for target, cohort in cohorts.items():
        result = cross_validate(
            arms,
            read.of(cohort),
            replace(cohort, notes=(*notes, *read.notes, *cohort.notes, *cohort.group_notes())),
            deal(cohort, settings, dealt),
            settings.probes,
            FitPlan(settings.seeds, settings, kept, partial(report, target)),
            external=outside.get(target),
            encodings=encodings_per_slide(sets, arms, cohort.slides),
            primary=settings.primary,
            absent={one.arm.id: one.reason for one in absent},
        )
        results[target] = replace(result, references=(references or {}).get(target, {}))
    if not any(result.runs for result in results.values()):
        first = next(iter(results.values())).failed[0]
        raise ParfocalError(f"every arm failed on every target; the first, {first.arm.label}: {first.reason}.")
    digests = {**{set_label(one): digest8(one.settings) for one in sets}, labels.name: file_digest8(labels)}
    digests |= {arm.family: arm.reads for arm in arms if arm.reads}
    digests |= {f"slide vectors of {one.name}": one.digest for one in vectors}
    if test_labels is not None:
        digests[f"test cohort, {test_labels.name}"] = file_digest8(test_labels)
    evaluation = write_evaluation(
        results,
        out,
        settings={**_described(settings, columns, asked, models, splits, test, vectors), **(described or {})},
        seed=settings.probes.seed,
        inputs=digests,
        sections=sections,
    )
    if keep is None:
        shutil.rmtree(kept, ignore_errors=True)
    return evaluation


def _read_test(
    sets: Sequence[EmbeddingSet],
    folders: Sequence[VectorFolder],
    training: Sequence[SlideVectors],
    labels: Path,
    arms: Sequence[Arm],
    asked: Sequence[Target],
    cohorts: Mapping[str, Cohort],
    columns: LabelColumns,
    settings: EvaluateSettings,
) -> dict[str, ExternalBags]:
    """The test cohort of each target, with the bags of its slides."""
    slides, notes = common_slides(sets)
    vectors, slides = read_all_vectors(folders, slides, like=training)
    notes += [note for one in vectors for note in one.notes]
    read = {one.name: read_outside(labels, one, cohorts[one.name], slides, columns) for one in asked}
    bags = _ReadBags(read, arms, sets, vectors, settings)
    result = {}
    for target, whole in read.items():
        cohort = whole.of([number for number, slide in enumerate(whole.slides) if slide not in bags.left_out])
        noted = replace(cohort, notes=(*notes, *bags.notes, *cohort.notes, *cohort.group_notes()))
        result[target] = ExternalBags(noted, bags.of(cohort))
    return result


class _ReadBags:
    """The bags of all slides of some cohorts, each slide read once.

    Attributes:
        left_out: why a slide that cannot be read is in none of them.
        notes: the same in sentences.
    """

    def __init__(
        self,
        cohorts: Mapping[str, Cohort],
        arms: Sequence[Arm],
        sets: Sequence[EmbeddingSet],
        vectors: Sequence[SlideVectors],
        settings: EvaluateSettings,
    ) -> None:
        slides = sorted({slide for cohort in cohorts.values() for slide in cohort.slides})
        left_out = LeftOut()
        self._bags = read_arm_bags(
            arms,
            sets,
            slides,
            most_instances=settings.most_instances,
            seed=settings.probes.seed,
            left_out=left_out,
            most_bytes=settings.most_bytes,
            vectors=vectors,
        )
        self._place = {slide: place for place, slide in enumerate(left_out.keep(slides))}
        self.left_out, self.notes = left_out.reasons, left_out.notes(stacklevel=3)

    def of(self, cohort: Cohort) -> Bags:
        """The bags of a cohort's slides, in their order."""
        places = [self._place[slide] for slide in cohort.slides]
        return {key: bag.of_slides(places) for key, bag in self._bags.items()}


def read_outside(
    labels: Path, target: Target, cohort: Cohort, slides: Collection[str], columns: LabelColumns
) -> Cohort:
    """The test cohort of a target, its labels read as those of the training cohort were.

    Raises:
        ConfigError: its labels do not fit those of the training cohort, or its slides.
    """
    return read_test_cohort(labels, cohort, slides, "the test cohort", columns, event=target.event)


def read_dealt(splits: Path, targets: Iterable[str]) -> dict[str, Splits]:
    """The folds of an earlier run for each target.

    Raises:
        ConfigError: it deals none for one of them.
    """
    found = read_splits(splits)
    absent = [target for target in targets if target not in found]
    if absent:
        raise ConfigError(f"{splits} deals no folds for {', '.join(absent)}; it does for {', '.join(found)}.")
    return found


def deal(cohort: Cohort, settings: FoldSettings, dealt: Mapping[str, Splits]) -> Splits:
    """The folds of a target: those that an earlier run dealt, where there are such, and new ones otherwise.

    Raises:
        ConfigError: the cohort cannot be dealt so.
    """
    return dealt.get(cohort.target) or make_splits(
        cohort,
        folds=settings.folds,
        repeats=settings.repeats,
        seed=settings.probes.seed,
        scheme=settings.scheme,
    )


def _described(
    settings: EvaluateSettings,
    columns: LabelColumns,
    asked: Sequence[Target],
    models: Sequence[Path],
    splits: Path | None,
    test: Sequence[Path | EmbeddingSet],
    vectors: Sequence[SlideVectors],
) -> dict[str, object]:
    """All that was asked for, as plain values."""
    return {
        # Where it ran, and in how much memory, decides nothing.
        **settings.model_dump(mode="json", exclude={"probes": {"device"}, **dict.fromkeys(ELSEWHERE, True)}),
        **columns.model_dump(mode="json"),
        "targets": {target.name: target.model_dump(mode="json", exclude={"name"}) for target in asked},
        "models": [path.name for path in models],
        "splits": None if splits is None else splits.name,
        "test": [path.name for path in test],
        "slide_vectors": [one.name for one in vectors],
    }
