"""Every command that reads labels takes the same tables, and says what a target holds before anything is fitted."""

import csv
from pathlib import Path

import openpyxl
import pytest

from parfocal.cli import main
from parfocal.lab.synthetic.feature_model import FeatureModel
from parfocal.lab.synthetic.xscale import StratSettings, draw_cohort, write_cohort

FAST = ["--repeats", "1", "--folds", "3", "--inner-folds", "2", "--components", "4"]
RULE = ["--patient-of", "[0-9]+$", "--slide-column", "case"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 slides in feature space."""
    folder = tmp_path_factory.mktemp("cohort")
    settings = StratSettings(n_slides=24, n_types=1, product=False, model=FeatureModel(dim=32))
    write_cohort(draw_cohort(settings), folder)
    return folder


@pytest.fixture(scope="module")
def patients(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workbook with a row a patient, called by the number at the end of a slide's id, and some without a label."""
    with (cohort / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    book = openpyxl.Workbook()
    book.active.append(["case", "msi"])
    for place, row in enumerate(rows):
        digits = row["slide"][len(row["slide"].rstrip("0123456789")) :]
        label = "Not Reported" if place < 2 else ["MSS", "MSI-H"][int(row["pairing"])]
        book.active.append([digits, label])
    path = tmp_path_factory.mktemp("labels") / "patients.xlsx"
    book.save(path)
    return path


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--arms", "mean", *FAST], ["fit", "--arm", "2/mean", *FAST], ["synergy", "--permutations", "99"]],
    ids=lambda command: command[0],
)
def test_a_workbook_of_patients_is_read_and_told(
    cohort: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    name, *rest = command
    labels = ["--labels", str(patients), "--target", "msi", *RULE]

    assert main([name, str(cohort), *labels, *rest, "-o", str(tmp_path / "out")]) == 0

    told = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("target msi"))
    assert told.startswith("target msi (binary): MSI-H: ")
    assert told.endswith('slides; MSS is positive; 2 rows without a value ("Not Reported" 2)')
    assert "22 slides" not in told  # every patient has one slide


def test_words_are_missing_or_not_as_the_flags_say(
    cohort: Path, patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["evaluate", str(cohort), "--labels", str(patients), "--target", "msi", *RULE, "-o", str(tmp_path / "out")]

    assert main([*call, "--not-missing", "not reported"]) == 2
    assert "would have 3 classes" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1
    assert main([*call, "--missing", "-999", "mss"]) == 2
    assert "one class only (MSI-H: " in capsys.readouterr().err.splitlines()[-1]
