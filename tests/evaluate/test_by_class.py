"""Of several classes the report says how well each is told from the rest, and which are taken for which."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from parfocal.evaluate import write_evaluation
from parfocal.heads import FoldPrediction

from .drawn import ARMS, cohort_of, drawn


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_class_has_the_mean_over_folds_of_its_own_auc() -> None:
    given = drawn(cohort_of("multiclass", n=80))
    run = given.result().runs[4]

    for place, one in enumerate(run.by_class):
        expected = [
            roc_auc_score(given.cohort.outcome.value[fold.test] == place, prediction.score[:, place])
            for fold, prediction in zip(given.folds, run.predictions, strict=True)
        ]
        assert one.interval is not None
        assert one.interval.estimate == pytest.approx(np.mean(expected))
        assert one.interval.low < one.interval.estimate < one.interval.high
        assert one.patients == int((given.cohort.outcome.value == place).sum())
        assert one.folds == len(given.folds)
    means = [one.interval.estimate for one in run.by_class if one.interval is not None]
    assert run.interval.estimate == pytest.approx(np.mean(means))


def test_the_confusion_matrix_is_that_of_the_test_folds_a_repeat() -> None:
    given = drawn(cohort_of("multiclass", n=60), repeats=3)
    run = given.result().runs[4]
    label = np.concatenate([given.cohort.outcome.value[fold.test] for fold in given.folds])
    called = np.concatenate([one.score.argmax(axis=1) for one in run.predictions])

    assert run.confusion is not None
    assert np.allclose(run.confusion, confusion_matrix(label, called) / 3)
    assert run.confusion.sum(axis=1) == pytest.approx([one.patients for one in run.by_class])


def test_ordered_classes_are_called_by_the_expected_class_and_patients_count_once() -> None:
    cohort = cohort_of("ordinal", n=40, per_patient=2)
    given = drawn(cohort)
    # Log odds of +-9 for lying above each class: scores that are never wrong.
    steps = np.where(cohort.outcome.value[:, None] > np.arange(2), 9.0, -9.0)
    right = tuple(FoldPrediction(steps[fold.test], "plain") for fold in given.folds)
    given.fits[4] = replace(given.fits[4], predictions=right)

    run = given.result().runs[4]

    assert run.by_class == ()
    assert run.confusion is not None
    assert np.array_equal(run.confusion, np.diag(np.bincount(cohort.outcome.value[::2].astype(int))))


def test_two_classes_and_numbers_have_neither() -> None:
    for kind in ("binary", "continuous", "survival"):
        for run in drawn(cohort_of(kind)).result().runs:
            assert run.by_class == ()
            assert run.confusion is None


def test_page_and_tables_have_both(tmp_path: Path) -> None:
    results = {
        "type": drawn(cohort_of("multiclass", target="type")).result(),
        "grade": drawn(cohort_of("ordinal", target="grade")).result(),
    }

    page = write_evaluation(results, tmp_path, settings={}, seed=0, inputs={}).report.read_text()
    classes, confusion = rows(tmp_path / "classes.csv"), rows(tmp_path / "confusion.csv")

    assert "type: AUC of each class against the rest" in page
    assert "type: which classes are taken for which" in page
    assert "grade: which classes are taken for which" in page
    assert "grade: AUC of each class" not in page
    assert len(classes) == len(ARMS) * 3
    assert {row["target"] for row in classes} == {"type"}
    assert len(confusion) == 2 * len(ARMS) * 9
    assert sum(float(row["patients"]) for row in confusion if row["id"] == "0.5/mean") == pytest.approx(2 * 60)
    write_evaluation({"t": drawn(cohort_of("binary")).result()}, tmp_path, settings={}, seed=0, inputs={})
    assert not (tmp_path / "classes.csv").exists()
