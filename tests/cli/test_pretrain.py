"""`parfocal pretrain`: who is held out is told, and what is wrong with the groups is one line."""

import json
from pathlib import Path

import pytest

from parfocal.cli import main
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort
from parfocal.store import open_set


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("xscale")
    write_cohort(draw_cohort(StratSettings(n_slides=8, n_types=1, product=False, model=FeatureModel(dim=32))), root)
    return root


QUICK = ["--size", "T", "--steps", "2", "--batch", "16", "--device", "cpu", "--holdout", "0.3"]


def test_patients_of_a_table_are_held_out_whole(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides = open_set(store).slides
    table = tmp_path / "patients.csv"
    table.write_text("id,who\n" + "".join(f"{slide},p{number // 2}\n" for number, slide in enumerate(slides)))
    groups = ["--labels", str(table), "--group", "who", "--slide-column", "id"]
    assert main(["pretrain", str(store), "-o", str(tmp_path / "model"), *QUICK, *groups]) == 0

    assert "held out: 2 of 8 slides, 1 of 4 groups" in capsys.readouterr().out
    kept = json.loads((tmp_path / "model" / "config.json").read_text())["pretraining"]
    assert len({kept["groups"][slide] for slide in kept["held_out_slides"]}) == 1


def test_patients_by_a_rule_need_no_table(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # slide-00001 to slide-00003 are of one patient by this rule, and the others of their own.
    groups = ["--patient-of", r"slide-0000(?=[123])|slide-0000[4-9]"]
    assert main(["pretrain", str(store), "-o", str(tmp_path / "model"), *QUICK, *groups]) == 0

    assert "of 6 groups" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (["--group", "patient"], "name both --labels FILE and --group COLUMN"),
        (["--labels", "{labels}", "--group", "hospital"], "hospital"),
        (["--patient-of", "("], "is no regular expression"),
        (["--patient-of", "nobody"], "finds nothing in 8 of 8 slides"),
    ],
)
def test_wrong_groups_are_one_line(
    store: Path, tmp_path: Path, groups: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["pretrain", str(store), "-o", str(tmp_path / "model"), *QUICK]
    assert main([*call, *(one.format(labels=store / "labels.csv") for one in groups)]) == 2
    said = capsys.readouterr().err.strip()

    assert told in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "model").exists()
