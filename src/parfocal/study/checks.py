"""What of a study cannot work, found before anything long is done: the run and its plan ask the same questions."""

import os
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

from parfocal.cohort import Fold, read_cohort, whole_fold
from parfocal.errors import ParfocalWarning, StoreError
from parfocal.evaluate.external import check_external
from parfocal.evaluate.held_out import HeldOut
from parfocal.evaluate.run import deal, read_dealt, read_outside
from parfocal.evaluate.sources import matching_sets
from parfocal.store import EmbeddingSet
from parfocal.study.settings import Study


def check_place(out: Path) -> None:
    """Raise where a study could not write; nothing is made.

    Raises:
        StoreError: the folder, or the one that it would be made in, cannot be written to.
    """
    there = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "it is no folder" if not there.is_dir() else "there is no permission"
        raise StoreError(f"cannot write to {out}: {reason} ({there}). Name another folder.")


def check_labels(study: Study, tell: Callable[[str], None] | None) -> None:
    """Raise for labels that cannot be used, whatever slides there are; what they warn of is said later.

    Raises:
        ConfigError: the table, a column, a target or the folds of an earlier run cannot be used.
    """
    labels = study.labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        for target in labels.named_targets:
            cohort = read_cohort(labels.file, target, labels.columns)
            if tell is not None:
                tell(f"{labels.file.name}: {cohort.sentence()}")
        if labels.splits is not None:
            read_dealt(labels.splits, labels.targets)


def check_evaluation(
    study: Study, slides: Collection[str], source: str, test_slides: Collection[str] | None = None
) -> dict[str, list[Fold]]:
    """The folds of every target; raise where some target cannot be evaluated on these slides.

    Args:
        study: its labels, folds and targets.
        slides: those that have embeddings, or will.
        source: what to call the place of the embeddings.
        test_slides: those of the external cohort, where they are known.

    Raises:
        ConfigError: labels and slides do not fit together, or folds cannot be dealt or measured.
    """
    labels, settings = study.labels, study.evaluation
    columns, inner, seed = labels.columns, settings.probes.inner_folds, settings.probes.seed
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        dealt = {} if labels.splits is None else read_dealt(labels.splits, labels.targets)
        for target in labels.named_targets:
            cohort = read_cohort(labels.file, target, columns).restricted_to(slides, source)
            folds = deal(cohort, settings, dealt).folds(cohort, inner=inner, seed=seed)
            HeldOut.of(cohort, folds)
            found[target.name] = list(folds)
            if study.test is not None and test_slides is not None:
                whole_fold(cohort, inner=inner, seed=seed)
                check_external(read_outside(study.test.labels, target, cohort, test_slides, columns))
    return found


def check_test_set(tiles: EmbeddingSet | None, theirs: EmbeddingSet | None) -> None:
    """Raise where the tiles of the external cohort were made otherwise, as far as both are there.

    Raises:
        MismatchError: they were.
    """
    if tiles is not None and theirs is not None:
        matching_sets([tiles], [theirs])
