"""Which arm predicts a label best: every arm on the same folds, with the same choices, and the right interval."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from threadpoolctl import threadpool_limits

from parfocal.bags import Bag, read_bags
from parfocal.cohort import Cohort, Splits, make_splits, read_cohort, read_splits
from parfocal.config import Settings
from parfocal.embeddings import EmbeddingSet, open_sets
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.probes import FoldPrediction, ProbeSettings, average_predictions
from parfocal.provenance import digest8, writable_folder
from parfocal.report import Reference, Section
from parfocal.studies.arms import Arm, Pool, set_label, table_of_arms
from parfocal.studies.evaluation import EvaluateResult, TargetResult, compare_arms
from parfocal.studies.evaluation_files import write_evaluation

__all__ = ["EvaluateSettings", "cross_validate", "evaluate"]

Progress = Callable[[int, int, str], None]
"""Told how many arms are done, how many there are, and which one was just finished."""


class EvaluateSettings(Settings):
    """How arms are compared."""

    folds: int = Field(5, ge=2, description="Folds of the cross-validation; groups stay whole.")
    repeats: int = Field(5, ge=1, description="How often the cross-validation is repeated with other folds.")
    most_instances: int = Field(
        1024, ge=1, description="Instances of a slide and magnification that attention may see; means use all."
    )
    arms_at_a_time: int = Field(2, ge=1, description="Arms that are fitted side by side, each on one core.")
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
        progress: is told of every arm that is done.

    Raises:
        ConfigError: labels, targets, splits and sets do not fit together.
        StoreError: a set cannot be read.
    """
    settings = settings or EvaluateSettings()
    writable_folder(out)
    sets = _open_all(inputs)
    # Labels before the slides: they are read at once, and a wrong name in them is the most frequent mistake.
    labelled = {target: read_cohort(labels, target, group=group, positive=positive) for target in targets}
    slides, notes = _common_slides(sets)
    cohorts = {target: cohort.restricted_to(slides, _named(sets)) for target, cohort in labelled.items()}
    used = sorted({slide for cohort in cohorts.values() for slide in cohort.slides})
    dealt = read_splits(splits) if splits else {}
    arms = table_of_arms(sets)
    bags = {
        (number, bag.name): bag
        for number, one in enumerate(sets)
        for bag in read_bags(one, used, most_instances=settings.most_instances, seed=settings.probes.seed)
    }
    results: dict[str, TargetResult] = {}
    done, total = 0, sum(arm.pool is not None for arm in arms) * len(cohorts)

    def report(target: str, arm: Arm) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, f"{target}, {arm.label}")

    for target, cohort in cohorts.items():
        split = dealt.get(target) or make_splits(
            cohort, folds=settings.folds, repeats=settings.repeats, seed=settings.probes.seed
        )
        numbers = [used.index(slide) for slide in cohort.slides]
        own = {key: bag.of_slides(numbers) for key, bag in bags.items()}
        result = cross_validate(
            arms, own, cohort, split, settings.probes, workers=settings.arms_at_a_time, on_arm=partial(report, target)
        )
        results[target] = replace(result, references=(references or {}).get(target, {}), notes=(*notes, *result.notes))
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
    workers: int = 1,
    on_arm: Callable[[Arm], None] | None = None,
) -> TargetResult:
    """All arms on one target, on the same folds; labels of a test fold have no say in its predictions.

    Args:
        arms: what to run, those that average others after them.
        bags: what arms name; their slides are the cohort's, in its order.
        cohort: labels and groups.
        splits: the outer folds.
        settings: what every arm chooses among.
        workers: arms that run at a time; the results do not depend on it.
        on_arm: told of every arm that is done.
    """
    folds = splits.folds(cohort, inner=settings.inner_folds, seed=settings.seed)
    instances = [float(sum(bags[key].n_instances.mean() for key in arm.bags)) for arm in arms]

    def run(pool: Pool, arm: Arm) -> tuple[list[FoldPrediction], float]:
        started = time.monotonic()
        found = pool([bags[key] for key in arm.bags], cohort.is_positive, folds, settings)
        return found, time.monotonic() - started

    done: dict[int, tuple[list[FoldPrediction], float]] = {}
    with _one_thread_each(), ThreadPoolExecutor(workers) as executor:
        try:
            waiting = {
                executor.submit(run, arm.pool, arm): place for place, arm in enumerate(arms) if arm.pool is not None
            }
            for one in as_completed(waiting):
                done[waiting[one]] = one.result()
                if on_arm:
                    on_arm(arms[waiting[one]])
        except BaseException:  # Ctrl-C too: arms that wait must not be fitted first
            executor.shutdown(cancel_futures=True)
            raise
    predictions, seconds = [], []
    for place, arm in enumerate(arms):
        found, took = done.get(place) or (average_predictions([done[one][0] for one in arm.average_of]), 0.0)
        predictions.append(found)
        seconds.append(took)
    runs, best, detectable, ratio = compare_arms(arms, predictions, cohort, folds, instances=instances, seconds=seconds)
    notes = list(cohort.notes)
    one_class = sum(len(np.unique(cohort.is_positive[fold.test])) < 2 for fold in folds)
    if one_class:
        notes.append(f"{one_class} of {len(folds)} folds of {cohort.target!r} test one class only and have no AUC.")
        warnings.warn(notes[-1], ParfocalWarning, stacklevel=2)
    return TargetResult(cohort, splits, tuple(folds), runs, best, detectable, ratio, {}, tuple(notes))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Arms run side by side, each on one core: their matrices are too small to be shared out among threads.

    Measured on two cores that others use too: with two threads inside every product the same work took seven times
    as long, spent on threads that wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


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
