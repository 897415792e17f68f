"""Which arm predicts a label best: every arm on the same folds, with the same choices, and the right interval."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from parfocal.bags import Bag, read_bags
from parfocal.cohort import Cohort, Fold, Splits, make_splits, read_cohort, read_splits
from parfocal.config import Settings
from parfocal.embeddings import EmbeddingSet, open_sets
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.probes import FoldPrediction, ProbeSettings, average_predictions
from parfocal.provenance import digest8
from parfocal.report import Reference, Section
from parfocal.studies.arms import Arm, set_label, table_of_arms
from parfocal.studies.evaluation import EvaluateResult, TargetResult, compare_arms
from parfocal.studies.evaluation_files import write_evaluation

__all__ = ["EvaluateSettings", "cross_validate", "evaluate"]

Progress = Callable[[int, int, str], None]
"""Told how many fits of arms are done, how many there are, and which one comes next."""


class EvaluateSettings(Settings):
    """How arms are compared."""

    folds: int = Field(5, ge=2, description="Folds of the cross-validation; groups stay whole.")
    repeats: int = Field(5, ge=1, description="How often the cross-validation is repeated with other folds.")
    most_instances: int = Field(
        1024, ge=1, description="Instances of a slide and magnification that attention may see; means use all."
    )
    probes: ProbeSettings = ProbeSettings()


def evaluate(
    inputs: Sequence[Path],
    labels: Path,
    targets: Sequence[str],
    out: Path,
    settings: EvaluateSettings | None = None,
    *,
    group: str | None = None,
    positive: str | None = None,
    splits: Path | None = None,
    references: Mapping[str, Mapping[str, Sequence[Reference]]] | None = None,
    sections: Sequence[Section] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Cross-validate every arm that the inputs allow on every target, and write tables and a report.

    Args:
        inputs: stores or sets: tile embeddings, and what `represent` made of them.
        labels: a CSV with a column `slide`, the targets and the group.
        targets: columns with two classes.
        out: folder of `report.html`, `results.csv`, `results.json`, `predictions.csv` and `splits.csv`.
        settings: folds, repeats and what arms choose among.
        group: column of what must stay in one fold, such as the patient; None takes slides for independent.
        positive: the class that counts as positive, where it is not the later of two.
        splits: a CSV to take the folds from, as `splits.csv` of an earlier run.
        references: for each target, what to print beside arms of a kind (`single`, `late`, `mixed`): ceilings,
            adversaries.
        sections: further parts of the page, after the results.
        progress: is told of every arm.

    Raises:
        ConfigError: labels, targets, splits and sets do not fit together.
        StoreError: a set cannot be read.
    """
    settings = settings or EvaluateSettings()
    sets = _open_all(inputs)
    slides, notes = _common_slides(sets)
    cohorts = {
        target: read_cohort(labels, target, group=group, positive=positive).restricted_to(slides, _named(sets))
        for target in targets
    }
    used = sorted({slide for cohort in cohorts.values() for slide in cohort.slides})
    dealt = read_splits(splits) if splits else {}
    arms = table_of_arms(sets)
    bags = {
        (number, bag.name): bag
        for number, one in enumerate(sets)
        for bag in read_bags(one, used, most_instances=settings.most_instances, seed=settings.probes.seed)
    }
    results: dict[str, TargetResult] = {}
    done, total = 0, len(arms) * len(cohorts)

    def report(target: str, arm: Arm) -> None:
        if progress:
            progress(done + arms.index(arm), total, f"{target}, {arm.label}")

    for target, cohort in cohorts.items():
        split = dealt.get(target) or make_splits(
            cohort, folds=settings.folds, repeats=settings.repeats, seed=settings.probes.seed
        )
        numbers = [used.index(slide) for slide in cohort.slides]
        own = {key: bag.of_slides(numbers) for key, bag in bags.items()}
        result = cross_validate(arms, own, cohort, split, settings.probes, on_arm=partial(report, target))
        results[target] = replace(result, references=(references or {}).get(target, {}), notes=(*notes, *result.notes))
        done += len(arms)
    if progress:
        progress(total, total, "report")
    return write_evaluation(
        results,
        out,
        settings={**settings.model_dump(mode="json"), "group": group, "positive": positive},
        seed=settings.probes.seed,
        inputs={**{set_label(one): digest8(one.settings) for one in sets}, labels.name: _file_digest(labels)},
        sections=sections,
    )


def cross_validate(
    arms: Sequence[Arm],
    bags: Mapping[tuple[int, str], Bag],
    cohort: Cohort,
    splits: Splits,
    settings: ProbeSettings,
    *,
    on_arm: Callable[[Arm], None] | None = None,
) -> TargetResult:
    """All arms on one target, on the same folds; labels of a test fold have no say in its predictions.

    Args:
        arms: what to run, those that average others after them.
        bags: what arms name; their slides are the cohort's, in its order.
        cohort: labels and groups.
        splits: the outer folds.
        settings: what every arm chooses among.
        on_arm: told of an arm before it is run.
    """
    folds = splits.folds(cohort, inner=settings.inner_folds, seed=settings.seed)
    predictions: list[list[FoldPrediction]] = []
    instances, seconds = [], []
    for arm in arms:
        if on_arm:
            on_arm(arm)
        started = time.monotonic()
        own = [bags[key] for key in arm.bags]
        predictions.append(_predict(arm, own, predictions, cohort.is_positive, folds, settings))
        seconds.append(time.monotonic() - started)
        instances.append(float(sum(bag.n_instances.mean() for bag in own)))
    runs, best, detectable, ratio = compare_arms(arms, predictions, cohort, folds, instances=instances, seconds=seconds)
    notes = list(cohort.notes)
    one_class = sum(len(np.unique(cohort.is_positive[fold.test])) < 2 for fold in folds)
    if one_class:
        notes.append(f"{one_class} of {len(folds)} folds of {cohort.target!r} test one class only and have no AUC.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    return TargetResult(cohort, splits, tuple(folds), runs, best, detectable, ratio, {}, tuple(notes))


def _predict(
    arm: Arm,
    bags: Sequence[Bag],
    before: Sequence[list[FoldPrediction]],
    is_positive: Bool[np.ndarray, " slide"],
    folds: Sequence[Fold],
    settings: ProbeSettings,
) -> list[FoldPrediction]:
    if arm.pool is None:
        return average_predictions([before[place] for place in arm.average_of])
    return arm.pool(bags, is_positive, folds, settings)


def _open_all(inputs: Sequence[Path]) -> list[EmbeddingSet]:
    found = {one.path.resolve(): one for path in inputs for one in open_sets(path)}
    sets = list(found.values())
    labels = [set_label(one) for one in sets]
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise ConfigError(f"two of the sets are called {doubled[0]!r}; their arms could not be told apart. Name one.")
    if not sets:
        raise ConfigError("there is nothing to evaluate: name at least one store or set.")
    return sets


def _common_slides(sets: Sequence[EmbeddingSet]) -> tuple[list[str], list[str]]:
    """Slides that have a vector in every bag of every set, and what had to be left out."""
    notes = []
    common = set.intersection(*(set(one.slides) for one in sets))
    partial = set.union(*(set(one.slides) for one in sets)) - common
    if partial:
        notes.append(f"{len(partial)} slides are not in all sets and are left out: {', '.join(sorted(partial)[:3])}.")
    empty = sorted(slide for slide in common if any(_is_empty(one, slide) for one in sets))
    if empty:
        notes.append(f"{len(empty)} slides have no vector in one of the bags and are left out: {', '.join(empty[:3])}.")
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=3)
    return sorted(common - set(empty)), notes


def _is_empty(one: EmbeddingSet, slide: str) -> bool:
    if one.kind == "regions":
        return one.n_regions(slide) == 0
    return min(one.n_tiles(slide).values()) == 0


def _named(sets: Sequence[EmbeddingSet]) -> str:
    return sets[0].name if len(sets) == 1 else f"all {len(sets)} sets"


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
