"""`parfocal study`: the plan of a file that comes along, and what is wrong said in one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.lab.synthetic.rendered import write_pyramid

N_SLIDES = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slides of one region with their labels; one more is no slide."""
    root = tmp_path_factory.mktemp("cohort")
    for number in range(N_SLIDES):
        noise = np.random.default_rng(number).integers(-9, 9, (992, 1056, 1))
        rgb = (np.array([180, 110, 165]) + noise).astype(np.uint8)
        rgb[896:], rgb[:, 896:] = 240, 240
        write_pyramid(root / "scans" / f"case-{number}.tif", rgb, mpp=0.5, n_levels=3)
    rows = [f"case-{number},p{number},{number % 2},{number // 2 % 2},s{number % 4},x" for number in range(N_SLIDES)]
    (root / "labels.csv").write_text("\n".join(["slide,patient,a,b,site,all", *rows]))
    return root


def dry_run(place: Path, out: Path, *changes: str, slides: Path | None = None) -> list[str]:
    call = ["study", "paper", "--slides", str(slides or place / "scans"), "-o", str(out), "--dry-run"]
    call += ["--set", "encoder=filterbank", f"labels.file={place / 'labels.csv'}", "labels.targets=[a, b]"]
    return [
        *call,
        "run.device=cpu",
        "run.workers=0",
        "evaluation.folds=2",
        "evaluation.repeats=2",
        "evaluation.arms=[mean, gated-attention]",
        *changes,
    ]


@pytest.mark.parametrize(
    ("named", "absent"),
    [([], "--slides and --labels"), (["--slides", "."], "--labels"), (["--labels", "labels.csv"], "--slides")],
)
def test_a_study_that_comes_along_says_what_a_user_has_to_name(
    named: list[str], absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "demo", *named, "--dry-run"]) == 2

    said = capsys.readouterr().err
    assert f"without a cohort; {absent} must be given" in said
    assert "or --places spots.csv in place of labels" in said


def test_a_target_is_named_in_place_of_the_files(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = dry_run(place, tmp_path / "out", "labels.targets=[TARGET]")
    assert main(call) == 2
    assert "no column 'TARGET'" in (said := capsys.readouterr().err)
    assert "--target COLUMN" in said

    assert (
        main([*dry_run(place, tmp_path / "out", "models={}", "evaluation.arms=[mean]"), "--target", "b", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["targets"] == ["b"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = dry_run(place, tmp_path / "out", "models.mem.steps=7")
    assert main([*call, "run.workers=1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(call) == 0
    table = capsys.readouterr().out

    assert not (tmp_path / "out").exists()
    assert plan["tiles"]["regions"] >= plan["tiles"]["tiles"]["2"] > 0
    assert {one["name"]: one["steps"] for one in plan["models"]}.items() >= {"mem": 7, "random": 0}.items()
    assert plan["fits"] == len(plan["arms"]) * 2 * 4
    assert plan["fit_hours"] > 0
    assert "one fit each of a mean, gated attention on random numbers" in plan["fit_basis"]
    assert f"{plan['fits']:,} fits" in table
    assert "hours on this machine: one fit each of" in table
    assert f"{sum(plan['tiles']['to_encode'].values())} encodings" in table


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["labels.file=nowhere.csv"], "nowhere.csv"),
        (["labels.targets=[c]"], "'c'"),
        (["labels.targets=[all]"], "all"),
        (["labels.targets={a: {positive: maybe}}"], "maybe"),
        (["labels.targets={a: {kind: ordinal, order: [0, 2]}}"], "a"),
        (["labels.group=hospital"], "hospital"),
        (["evaluation.scheme=leave-one-group-out"], "test slides of both classes"),
        (["evaluation.scheme=leave-one-site-out"], "site"),
        (["evaluation.arms=[abmel]"], "there is no arm 'abmel'"),
        (["evaluation.primary=nothing"], "the primary comparison is about 'nothing'"),
        (["labels.splits=nowhere.csv"], "nowhere.csv"),
        (["models.mem.holdout_slides=[case-99]"], "cannot hold out case-99"),
        (["models.mem.mpps=[4.0]"], "no tiles at 4 mpp"),
        (["labels.group=null", "labels.patient_of=case"], "case"),
        (["run.device=cuda:93"], "no device 'cuda:93'"),
        (["test={slides: {folder}, labels: {labels}}"], "are in the training cohort too"),
    ],
)
def test_a_dry_run_says_what_would_stop_the_run(
    place: Path, tmp_path: Path, changes: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [
        one.replace("{folder}", str(place / "scans")).replace("{labels}", str(place / "labels.csv")) for one in changes
    ]
    assert main(dry_run(place, tmp_path / "out", *named)) in (1, 2)
    said = capsys.readouterr().err.strip()

    assert re.search(told, said), said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_said_by_the_dry_run_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")

    assert main(dry_run(place, tmp_path / "file" / "out")) == 1
    assert "cannot write to" in capsys.readouterr().err


def test_slides_that_would_fail_are_named_and_are_the_status_of_a_dry_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.tif").write_bytes(b"not a slide")
    call = dry_run(place, tmp_path / "out", "evaluation.arms=[mean]", slides=tmp_path / "scans")
    assert main(call) == 1
    assert "broken would fail" in capsys.readouterr().err
    for slide in (place / "scans").iterdir():
        (tmp_path / "scans" / slide.name).symlink_to(slide)
    assert main(call) == 3
    assert "broken would fail" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["evaluation.foldz=3"], "evaluation.foldz: there is no such setting"),
        (["models.mem"], "expected is KEY=VALUE"),
        (["models.mem={a: [}"], "--set models.mem="),
    ],
)
def test_a_wrong_change_is_one_line(changes: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "paper", "--dry-run", "--set", *changes]) == 2
    said = capsys.readouterr().err.strip()

    assert told in said
    assert len(said.splitlines()) == 1
