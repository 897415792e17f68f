"""`parfocal study`: the plan of a file that comes along, and what is wrong said in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.synthetic.pyramid import write_pyramid


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(-9, 9, (992, 1056, 1))
    rgb = (np.array([180, 110, 165]) + noise).astype(np.uint8)
    rgb[896:], rgb[:, 896:] = 240, 240
    write_pyramid(tmp_path / "case.tif", rgb, mpp=0.5, n_levels=3)
    return tmp_path / "case.tif"


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["study", "paper", "--slides", str(slide), "-o", str(tmp_path / "out"), "--dry-run", "--device", "cpu"]
    call += ["--set", "encoder=filterbank", "models.mem.steps=7", "labels.targets=[a, b]", "evaluation.arms=[mean]"]
    assert main([*call, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(call) == 0
    table = capsys.readouterr().out

    assert not (tmp_path / "out").exists()
    assert plan["tiles"]["tiles"]["2"] == plan["tiles"]["regions"] > 0
    assert {one["name"]: one["steps"] for one in plan["models"]}.items() >= {"mem": 7, "random": 0}.items()
    assert plan["fits"] == len(plan["arms"]) * 2 * 25
    assert f"{plan['fits']:,} fits" in table
    assert f"{sum(plan['tiles']['to_encode'].values())} encodings" in table


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["evaluation.foldz=3"], "evaluation.foldz: there is no such key"),
        (["models.mem"], "expected is KEY=VALUE"),
        (["models.mem={a: [}"], "--set models.mem="),
    ],
)
def test_a_wrong_change_is_one_line(changes: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "paper", "--dry-run", "--set", *changes]) == 2
    said = capsys.readouterr().err.strip()

    assert told in said
    assert len(said.splitlines()) == 1
