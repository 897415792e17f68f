"""An evaluation that was killed goes on where it was, and gives the same numbers."""

import csv
from pathlib import Path

import pytest

from parfocal.cli import main
from parfocal.evaluate import fitting

from ..run.killed import kill_after
from .test_evaluate import write_cohort


def test_an_evaluation_that_is_killed_between_two_arms_keeps_those_that_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_cohort(tmp_path / "store", n_slides=16, seed=1)
    out, whole = tmp_path / "report", tmp_path / "whole"
    options = ["--folds", "2", "--repeats", "1", "--arms", "mean", "concat", "--components", "4"]
    call = ["evaluate", str(cohort.tiles), "--labels", str(cohort.labels), "--target", "gland_type"]
    call += ["--group", "patient", *options, "--inner-folds", "2", "--arms-at-a-time", "1", "-o"]

    kept = kill_after(2, out / "kept", [*call, str(out)])
    assert not (out / "report.html").exists()
    fitted: list[str] = []
    attempt_fit = fitting.attempt_fit
    monkeypatch.setattr(fitting, "attempt_fit", lambda *fit: fitted.append("once") or attempt_fit(*fit))
    assert main([*call, str(out)]) == 0
    left = len(fitted)
    assert main([*call, str(whole)]) == 0

    assert len(kept) == 2
    assert len(fitted) == 2 * left + 2
    assert not (out / "kept").exists()
    assert (out / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert _numbers(out) == _numbers(whole)


def _numbers(report: Path) -> list[dict[str, str]]:
    with (report / "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if "second" not in name} for row in csv.DictReader(file)]


@pytest.mark.parametrize("executor", ["processes", "ray"])
def test_arms_that_are_fitted_elsewhere_give_what_they_give_here(tmp_path: Path, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    cohort = write_cohort(tmp_path / "store", n_slides=16, seed=1)
    options = ["--folds", "2", "--repeats", "1", "--components", "4", "--mlp-steps", "8", "--lifted", "2"]
    options += ["--arms", "0.5/mlp", "0.5/second-moment", "oracle/cls/second-moment"]
    call = ["evaluate", str(cohort.regions), str(cohort.tiles), "--labels", str(cohort.labels)]
    call += ["--target", "gland_type", "--group", "patient", *options, "--inner-folds", "2", "-o"]
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    # Room for 20 kB: vectors of regions are held and travel to the process, which reads those of tiles itself.
    there = ["--executor", executor, "--arms-at-a-time", "1", "--hold-gib", str(20_000 / 2**30)]

    assert main([*call, str(here)]) == 0
    assert main([*call, str(elsewhere), *there]) == 0

    assert (elsewhere / "predictions.csv").read_bytes() == (here / "predictions.csv").read_bytes()
    assert _numbers(elsewhere) == _numbers(here)
