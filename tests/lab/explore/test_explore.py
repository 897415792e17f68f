import csv
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.cohort import LabelColumns
from parfocal.errors import ConfigError, ParfocalError
from parfocal.heads import FittedProbe, ProbeSettings
from parfocal.heads.registry import HEADS
from parfocal.lab.explore.design import Design, plan_cells
from parfocal.lab.explore.run import ExploreResult, ExploreSettings, explore_designs
from parfocal.lab.explore.scoring import CellJob
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort
from parfocal.run.events import Event, Progress

from ...run.killed import kill_after

BASE = {"size": "T", "steps": 2, "batch": 16, "precision": "float32"}
PROBES = ProbeSettings(
    components=(4,), inner_folds=2, attention_validation=1, attention_steps=4, growth=1, sharpen=False, lifted=()
)
PATIENTS = LabelColumns(group="patient")
SETTINGS = ExploreSettings(device=("cpu",), regions=24, folds=2, holdout=0.25, probes=PROBES)


def write_slides(root: Path, n: int) -> Path:
    """So many slides of eight regions, with a label."""
    model = FeatureModel(dim=32)
    write_cohort(draw_cohort(StratSettings(n_slides=n, n_types=1, product=False, model=model)), root)
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slides(tmp_path_factory.mktemp("xscale"), 8)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


@dataclass(frozen=True)
class Explored:
    """A finished exploration with labels, killed once after two runs, what was done then, and what was run after it.

    It went on in a process of its own; one cell cannot be pretrained, for another run is in its folder.
    """

    out: Path
    result: ExploreResult
    kept: dict[str, bytes]
    runs: list[str]


@pytest.fixture(scope="module")
def explored(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Explored:
    out = tmp_path_factory.mktemp("explored")
    design = Design(seeds=(0,), base=BASE, axes={"objective": ["mem", "latent", "cmem"]})
    (out / "design.yaml").write_text(json.dumps(design.model_dump(mode="json", exclude_defaults=True)))
    cmem = plan_cells(design).cells[2]
    spoilt = out / "cells" / f"objective-cmem-{cmem.digest}" / "seed-0" / "model"
    spoilt.mkdir(parents=True)
    (spoilt / "run.json").write_text('{"identity": {"settings": {"batch": 77}}}')
    call = ["explore", str(out / "design.yaml"), str(store), "-o", str(out), "--labels", str(store / "labels.csv")]
    call += ["--target", "pairing", "--group", "patient", "--device", "cpu", "--regions", "24", "--folds", "2"]
    call += ["--holdout", "0.25", "--components", "4", "--inner-folds", "2", "--attention-validation", "1"]
    call += ["--attention-steps", "4", "--growth", "1", "--no-sharpen", "--lifted"]
    kept = kill_after(2, out, call, kept="cells/*/*/result.json")
    assert not (out / "report.html").exists()
    runs: list[str] = []

    def run_done(event: Event) -> None:
        if isinstance(event, Progress):
            runs.append(event.item)

    labels: dict[str, Any] = {"labels": store / "labels.csv", "target": "pairing", "columns": PATIENTS}
    elsewhere = SETTINGS.model_copy(update={"workers": 1, "executor": "processes"})
    result = explore_designs(design, store, out, elsewhere, **labels, on_event=run_done)
    return Explored(out, result, kept, runs)


@pytest.fixture(scope="module")
def unlabelled(store: Path, tmp_path_factory: pytest.TempPathFactory) -> ExploreResult:
    """A finished exploration without labels, in this process; the cells differ in what makes one of them diverge."""
    design = Design(seeds=(0,), base=BASE, axes={"lr": [3e-4, 1e30]})
    return explore_designs(design, store, tmp_path_factory.mktemp("unlabelled"), SETTINGS)


def test_an_exploration_that_was_killed_keeps_what_is_done_and_goes_on_there(explored: Explored) -> None:
    assert len(explored.kept) == 2
    assert all((explored.out / name).read_bytes() == content for name, content in explored.kept.items())
    assert explored.runs[0] == ""
    ran = {"base, seed 0", "objective=latent, seed 0", "objective=cmem, seed 0 failed"}
    assert {run.partition(":")[0] for run in explored.runs[1:]} == ran
    assert len(explored.runs) == 4


def test_every_cell_and_its_controls_are_scored_by_the_same_numbers(explored: Explored) -> None:
    rows = {row["cell"]: row for row in rows_of(explored.out / "results.csv")}
    assert set(rows) == {"base", "objective=latent", "objective=cmem", "random weights", "no region encoder"}
    for name in ("base", "objective=latent", "random weights"):
        assert float(rows[name]["r2 whole 0.5"]) < 1
        for pooling in ("mean, linear model", "gated attention", "cross-scale contrast"):
            assert 0 <= float(rows[name][f"auc contextual tokens: {pooling}"]) <= 1
    # Only the decoder of the base cell was trained to predict embeddings.
    assert [name for name, row in rows.items() if row["r2_decoder"]] == ["base"]
    content = json.loads((explored.out / "results.json").read_text())
    arms = next(one["arms"] for one in content["controls"] if one["kind"] == "tiles")
    assert "5x + 10x + 20x, tile embeddings: cross-scale contrast" in arms


def test_models_are_kept_and_region_embeddings_are_not(explored: Explored) -> None:
    assert len(list(explored.out.glob("cells/*/*/model/config.json"))) == 3
    assert not list(explored.out.glob("cells/*/*/regions-*"))
    assert "objective=latent" in (explored.out / "report.html").read_text()


def test_in_a_process_of_its_own_a_cell_fails_and_the_rest_comes_out_as_here(
    explored: Explored, unlabelled: ExploreResult
) -> None:
    assert explored.result.exit_status == 3
    assert {one.cell.name for one in explored.result.exploration.cells} == {"base", "objective=latent"}
    (failure,) = rows_of(explored.out / "failures.csv")
    assert (failure["cell"], failure["error"]) == ("objective=cmem", "MismatchError")
    assert "Runs that failed" in (explored.out / "report.html").read_text()
    # Labels have no say in R2; products in another order may differ in the last digits.
    here, elsewhere = (
        {row["cell"]: row for row in rows_of(out / "results.csv")} for out in (unlabelled.out, explored.out)
    )
    for name in ("base", "random weights", "no region encoder"):
        assert float(elsewhere[name]["r2"]) == pytest.approx(float(here[name]["r2"]), abs=1e-3)


def test_a_cell_whose_pretraining_diverges_is_a_failed_row_and_the_rest_is_ranked(
    store: Path, unlabelled: ExploreResult
) -> None:
    out = unlabelled.out
    assert unlabelled.exit_status == 3
    (failure,) = rows_of(out / "failures.csv")
    assert (failure["cell"], failure["error"]) == ("lr=1e+30", "ParfocalError")
    rows = {row["cell"]: row for row in rows_of(out / "results.csv")}
    assert "the loss is nan" in rows["lr=1e+30"]["failed"]
    assert rows["lr=1e+30"]["r2"] == rows["base"]["failed"] == ""
    cells = {row["cell"]: row for row in rows_of(out / "cells.csv")}
    assert (cells["lr=1e+30"]["seeds"], cells["lr=1e+30"]["failed_seeds"]) == ("0", "1")
    assert cells["base"]["r2_rank"] == "1"
    assert "No comparison is possible for lr=1e+30" in (out / "report.html").read_text()
    alone = Design(seeds=(0,), base={**BASE, "lr": 1e30}, axes={"objective": ["mem"]})
    with pytest.raises(ParfocalError, match=r"no cell has a result: base, seed 0: .*the loss is nan"):
        explore_designs(alone, store, out, SETTINGS)


def test_a_slide_classifier_that_fails_leaves_its_cell_the_other_numbers_until_it_is_tried_again(
    explored: Explored, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(explored.out, out)
    (found,) = out.glob("cells/base-*/seed-0/result.json")
    found.unlink()
    design = Design(seeds=(0,), base=BASE, axes={"objective": ["mem"]})
    labels: dict[str, Any] = {"labels": store / "labels.csv", "target": "pairing", "columns": PATIENTS}
    # Classifiers run where their cell runs, whatever the settings of classifiers say.
    settings = SETTINGS.model_copy(update={"probes": PROBES.model_copy(update={"device": "cuda:9"})})

    def diverging(*_: object) -> list[FittedProbe]:
        raise np.linalg.LinAlgError("Singular matrix")

    with monkeypatch.context() as patched:
        patched.setitem(HEADS.ours, "contrast", replace(HEADS.get("contrast"), fit=diverging))
        result = explore_designs(design, store, out, settings, **labels)
    assert result.exit_status == 3
    assert [one.cell for one in result.failures] == ["base"]
    row = next(row for row in rows_of(out / "results.csv") if row["cell"] == "base")
    assert float(row["r2"]) < 1
    assert float(row["auc contextual tokens: mean, linear model"]) >= 0
    assert row["auc"] == ""  # a mean without the classifier that failed compares with none
    assert "LinAlgError: Singular matrix" in row["failed"]

    again = explore_designs(design, store, out, settings, **labels)
    assert again.exit_status == 0
    assert not (out / "failures.csv").exists()
    assert all(row["failed"] == "" for row in rows_of(out / "results.csv"))


def test_no_patient_is_pretrained_on_and_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_slides(tmp_path / "twelve", 12)
    seen: list[CellJob] = []

    def look(jobs: list[CellJob], **_: Any) -> list[Any]:
        seen.extend(jobs)
        return []

    monkeypatch.setattr(sys.modules["parfocal.lab.explore.run"], "run_jobs", look)
    slides = sorted(row["slide"] for row in rows_of(store / "labels.csv"))
    # Classes cannot follow pairs of slides here: what is asked is only who is held out.
    lines = [f"{slide},{number // 2},{number // 2 % 2}" for number, slide in enumerate(slides)]
    (tmp_path / "labels.csv").write_text("\n".join(["slide,patient,pairing", *lines]))
    with pytest.raises(ParfocalError, match="no cell has a result"):
        explore_designs(
            Design(seeds=(0,), base=BASE, axes={"objective": ["mem"]}), store, tmp_path / "out",
            SETTINGS, labels=tmp_path / "labels.csv", target="pairing", columns=PATIENTS,
        )  # fmt: skip

    held = seen[-1].settings.holdout_slides
    assert len(held) == 2  # a quarter of twelve is three, and patients have two slides
    assert all((one in held) == (other in held) for one, other in zip(slides[::2], slides[1::2], strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"target": "pairing"}, "belong together"),
        ({"settings": SETTINGS.model_copy(update={"rank_by": "auc"})}, "needs labels"),
        ({"design": Design(axes={"region_um": [448, 700]})}, "whole multiple of the 448 um"),
        ({"settings": SETTINGS.model_copy(update={"device": ("cpu", "cuda:93")})}, "no device 'cuda:93'"),
        ({"design": Design(axes={"tiles": ["virchow2"]})}, "tiles=virchow2 must fit one of them"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    store: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    given: dict[str, Any] = {"design": Design(axes={"objective": ["mem"]}), "settings": SETTINGS} | changes

    with pytest.raises(ConfigError, match=says):
        explore_designs(given.pop("design"), store, tmp_path, given.pop("settings"), **given)
    assert not list(tmp_path.iterdir())
