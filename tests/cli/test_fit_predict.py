"""`parfocal fit` and `parfocal predict` as they are called: exit status, streams, and one line for what is wrong."""

import csv
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort, write_cohort

QUICK = ["--repeats", "1", "--folds", "3", "--inner-folds", "2", "--components", "4"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 slides in feature space, with a label that the mean of a magnification shows."""
    folder = tmp_path_factory.mktemp("cohort")
    settings = StratSettings(n_slides=16, n_types=1, product=False, model=FeatureModel(dim=32))
    write_cohort(draw_cohort(settings), folder)
    return folder


def test_a_head_is_fitted_and_used(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, table = tmp_path / "head", tmp_path / "out.csv"
    labels = ["--labels", str(cohort / "labels.csv"), "--target", "pairing", "--group", "patient"]

    assert main(["fit", str(cohort), *labels, "--arm", "contrast", "-o", str(head), *QUICK]) == 0
    assert "fitted on 16 slides of 16 patients" in capsys.readouterr().out
    assert main(["predict", str(cohort), "--head", str(head), "-o", str(table)]) == 0
    printed = capsys.readouterr()

    assert printed.out == f"{table}: 16 slides\n"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    probability = np.array([float(row["probability_1"]) for row in rows])
    assert ((probability > 0) & (probability < 1)).all()


def test_what_is_missing_is_said_in_one_line(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["--labels", str(cohort / "labels.csv"), "--target", "pairing"]
    calls = {
        ("fit", str(cohort), "--arm", "contrast", "-o", str(tmp_path / "head")): "stores need --labels and --target",
        ("fit", str(cohort), *labels, "--arm", "magic", "-o", str(tmp_path / "head")): "there is no arm 'magic'",
        ("predict", str(cohort), "--head", str(cohort), "-o", str(tmp_path / "out.csv")): "there is no head at",
        ("predict", "--head", str(cohort), "-o", str(tmp_path / "out.csv")): "no slide and no store is named",
    }
    for call, message in calls.items():
        assert main(list(call)) in (1, 2)
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
