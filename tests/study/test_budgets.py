"""How few fine tiles are enough, as a study asks it: in the folds of its evaluation, and after a kill as well."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.errors import ConfigError, StoreError
from parfocal.lab.synthetic import FeatureModel, IidSettings, draw_cohort, write_cohort
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.study import budget_study, plan_study, read_study, run_study
from parfocal.study.settings import Study

EVALUATION = {
    "folds": 2,
    "repeats": 1,
    "arms": ["contrast", "0.5/mean"],
    "probes": {
        "components": [8],
        "lifted": [],
        "sharpen": False,
        "inner_folds": 2,
        "attention_steps": 4,
        "growth": 1,
        "seed": 3,
    },
}


@dataclass(frozen=True)
class Place:
    tiles: Path
    labels: Path

    def study(self, **changes: Any) -> dict[str, Any]:
        """What a file would say about the drawn cohort."""
        labels = {"file": str(self.labels), "group": "patient", "targets": ["label", "stage"]}
        return {"store": str(self.tiles), "labels": labels, "evaluation": EVALUATION, **changes}


def written(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A drawn cohort with a label of two classes, and one of three that is the slide's number."""
    root = tmp_path_factory.mktemp("cohort")
    model = FeatureModel(dim=32, separation_a=5.0, shift_c=1.5)
    tiles = write_cohort(draw_cohort(IidSettings(n_slides=16, n_regions=8, a=0.15, kappa=0.06, model=model)), root)
    head, *rows = (root / "labels.csv").read_text().splitlines()
    lines = [f"{head},stage", *(f"{row},{'abc'[number % 3]}" for number, row in enumerate(rows))]
    (root / "labels.csv").write_text("\n".join(lines))
    return Place(tiles, root / "labels.csv")


def test_the_folds_are_those_of_the_evaluation_and_the_study_measures_what_the_command_does(
    place: Place, tmp_path: Path
) -> None:
    asked = {"policies": ["random"], "budgets": [0.25], "margin": 0.1}
    plan = read_study(written(tmp_path / "study.yaml", place.study(budget=asked)))

    planned = plan_study(plan, tmp_path / "whole")
    whole, alone = run_study(plan, tmp_path / "whole"), budget_study(plan, tmp_path / "alone")

    assert planned.budget_fits == len(whole.budgets["label"].readers) * 2
    assert list(whole.budgets) == list(alone.targets) == ["label"]  # stage has three classes
    of_study, of_command = whole.budgets["label"], alone.targets["label"]
    assert of_study.out == tmp_path / "whole" / "budget" / "label"
    for name in ("results.csv", "readers.csv", "splits.csv"):
        assert (of_study.out / name).read_bytes() == (of_command.out / name).read_bytes()
    dealt = [
        line for line in (tmp_path / "whole/report/splits.csv").read_text().splitlines() if not line.startswith("stage")
    ]
    assert (of_study.out / "splits.csv").read_text().splitlines() == dealt
    settings = json.loads((of_study.out / "budget.json").read_text())["settings"]
    assert (settings["margin"], settings["repeats"], settings["probes"]["seed"]) == (0.1, 1, 3)
    assert not (tmp_path / "alone" / "report").exists()


def test_a_file_says_what_is_wrong_with_its_section(place: Place, tmp_path: Path) -> None:
    def refused(text: str, error: type[Exception] = ConfigError, **budget: Any) -> None:
        file = written(tmp_path / "study.yaml", place.study(budget=budget))
        with pytest.raises(error, match=text):
            plan_study(read_study(file), tmp_path / "out")
        with pytest.raises(error, match=text):
            run_study(read_study(file), tmp_path / "out")
        assert not (tmp_path / "out" / "report").exists()

    refused("study.yaml: budgets: .* 1 is none", budgets=[0.5, 1])
    refused("study.yaml: budget.margins: there is no such setting", margins=0.1)
    refused("no target 'grade'; there are label, stage", targets=["grade"])
    refused("no policy 'guess'", policies=["guess"])
    refused("guess", readers=["guess"])
    refused("'stage' is multiclass.*budget.targets", targets="stage")
    with pytest.raises(ConfigError, match="budget is about labels of slides, and this study is about places"):
        read_study(written(tmp_path / "places.yaml", {"store": "x", "places": "p.csv", "budget": {}}))
    one = {"slides": "scans", "encoder": "filterbank", "grid": {"mpps": [0.5]}, "labels": place.study()["labels"]}
    plan = Study.model_validate({**one, "slides": [str(place.tiles)], "budget": {}, "evaluation": {"folds": 2}})
    with pytest.raises(StoreError, match=r"0\.5 mpp alone"):
        run_study(plan, tmp_path / "out")


def test_slides_that_are_not_embedded_yet_are_and_some_are_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        tissue_px = 1792 if number == 3 else 896  # two regions where budgets are timed, else one
        noise = np.random.default_rng(number).integers(-9, 9, (992, tissue_px + 160, 1))
        rgb = (np.array([180, 110, 165 - 30 * (number % 2)]) + noise).astype(np.uint8)
        rgb[896:], rgb[:, tissue_px:] = 240, 240
        write_pyramid(tmp_path / "scans" / f"case-{number}.tif", rgb, mpp=0.5, n_levels=3)
    (tmp_path / "labels.csv").write_text(
        "\n".join(["slide,patient,odd", *(f"case-{number},p{number},{number % 2}" for number in range(8))])
    )
    content = {
        "slides": "scans",
        "encoder": "filterbank",
        "labels": {"file": "labels.csv", "group": "patient", "targets": ["odd"]},
        "evaluation": {
            **EVALUATION,
            "arms": ["0.5/mean"],
            "probes": {**EVALUATION["probes"], "components": [2]},
        },
        "budget": {"policies": ["stride"], "budgets": [0.25]},
        "run": {"workers": 0, "device": "cpu"},
    }
    file, out = written(tmp_path / "study.yaml", content), tmp_path / "out"

    assert main(["budget", str(file), "-o", str(out), "--timed", str(tmp_path / "scans" / "case-3.tif"), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)["odd"]
    page = (out / "budget" / "odd" / "report.html").read_text()
    assert found["seconds"]["slides"] == ["case-3"]
    assert found["seconds"]["policy"] == "stride"
    points = {one["budget"]: one for one in found["curves"][0]["points"]}
    assert points[1.0]["seconds"] == found["seconds"]["whole"] > 0
    assert set(points) == {0.0, 0.25, 1.0}
    assert page.count("Seconds per slide") == 3  # heads that read whole slides, and every budget of two heads
    assert "--timed SLIDES" not in page
    assert "filterbank is no network of torch" in page
    assert "no longer where it was embedded from" not in page  # slides are drawn below
    assert main(["budget", str(file), "-o", str(out), "--labels", "other.csv"]) == 2
    assert "Leave out all options but -o and --timed" in capsys.readouterr().err
