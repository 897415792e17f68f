"""A study of targets at places inside slides: the same chain, what it refuses, and what becomes of its arms."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.cli import main
from parfocal.errors import ConfigError
from parfocal.evaluate.places import PlaceFitSettings, PlacesResult
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.predict import fit_places, load_place_head, read_finished_study
from parfocal.run.events import Event, Progress
from parfocal.study import StudyResult, plan_study, read_study, run_study
from parfocal.study.settings import Study

# One step of a few regions is what makes these studies quick.
pytestmark = pytest.mark.filterwarnings("ignore:this pretraining is short:parfocal.errors.ParfocalWarning")

SLIDES, SIDE_PX = ("a1", "a2", "b1", "c1"), 1500
FILE = """\
slides: slides
grid: {mpps: [2.0, 1.0]}
encoder: filterbank
pretraining: {size: T, steps: 2, batch: 8, monitor_regions: 4, precision: float32, checkpoint_every: 1}
models:
  mem:
  random: {steps: 0}
readouts: [cls, tokens]
places: {file: spots.csv, targets: [stripes, level], group: patient}
evaluation: {folds: 3, probes: {components: [4]}}
run: {device: cpu, workers: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides with stripes in a part of them, four places on each, and what is seen there."""
    root = tmp_path_factory.mktemp("places")
    rows: list[list[object]] = []
    for number, slide in enumerate(SLIDES):
        rng = np.random.default_rng([7, number])
        tissue = np.array([180, 110, 165]) + rng.integers(-9, 9, (SIDE_PX, SIDE_PX + 96, 1))
        border = 500 + 150 * number
        tissue[:, border:] -= 40 * (np.arange(SIDE_PX)[:, None, None] // 8 % 2)
        write_pyramid(root / "slides" / f"{slide}.tif", tissue.clip(0, 255).astype(np.uint8), mpp=0.5, n_levels=3)
        for place in range(4):
            x_px, y_px = 460 + 180 * place, 470 + 90 * (place % 3)
            rows.append([slide, slide[0], x_px / 2, y_px / 2, "yes" if x_px > border else "no", x_px - border])
    with (root / "spots.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide", "patient", "x_um", "y_um", "stripes", "level"], *rows])
    (root / "study.yaml").write_text(FILE)
    return root


def asked(folder: Path, **changes: Any) -> Study:
    return read_study(folder / "study.yaml", changes)


@pytest.fixture(scope="module")
def finished(folder: Path) -> StudyResult:
    return run_study(asked(folder), folder / "out")


def tables(report: Path) -> dict[str, bytes]:
    return {str(path.relative_to(report)): path.read_bytes() for path in sorted(report.rglob("*.csv"))}


def test_a_study_at_places_runs_from_slides_to_a_report(finished: StudyResult, folder: Path) -> None:
    found, page = finished.evaluation, finished.report.read_text()

    assert isinstance(found, PlacesResult)
    assert finished.exit_status == 0
    assert [finished.tiles.n_regions(slide) for slide in SLIDES] == [4, 4, 4, 4]  # one on every place
    assert found.data.offset_um.max() < 0.1
    assert set(found.data.groups) == {"a", "b", "c"}
    assert {"context", "mem/cls", "mem/tokens", "random/cls", "random/tokens"} <= {one.arm.id for one in found.arms}
    for said in (found.sentences[0], "pretrain mem", "Tile encoder: filterbank", "none: random weights"):
        assert said in page.replace("&#8722;", "\u2212")
    told = json.loads(finished.report.with_name("results.json").read_text())["settings"]["study"]
    assert (finished.report.parent / told["places"]).resolve() == folder / "spots.csv"


def test_a_dry_run_counts_what_the_run_will_find_and_writes_nothing(finished: StudyResult, folder: Path) -> None:
    plan, done = plan_study(asked(folder), folder / "nothing"), plan_study(asked(folder), folder / "out")

    assert isinstance(finished.evaluation, PlacesResult)
    assert not (folder / "nothing").exists()
    for mpp, name in ((2.0, "2"), (1.0, "1")):
        assert plan.tiles.tiles[name] == sum(finished.tiles.n_tiles(slide)[mpp] for slide in SLIDES)
    assert plan.arms == done.arms == tuple(one.arm.id for one in finished.evaluation.arms)
    assert (plan.folds, plan.fits) == (3, 3 * len(plan.arms))
    assert [one.done for one in plan.models] == [False, False]
    assert [one.done for one in done.models] == [True, True]
    assert [one.folder for one in done.models] == [str(folder) for folder in finished.models.values()]
    uncounted = plan_study(asked(folder, encoder="virchow2,checkpoint=absent.bin"), folder / "nothing").tiles
    assert uncounted.tiles == plan.tiles.tiles


class Stopped(BaseException):
    """As a person's Ctrl-C."""


def test_a_study_that_is_stopped_in_every_stage_gives_the_same_numbers(finished: StudyResult, folder: Path) -> None:
    def stop_in(wanted: str) -> None:
        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.stage == wanted and event.done > 0:
                raise Stopped

        with pytest.raises(Stopped):
            run_study(asked(folder), folder / "stopped", on_event=tell)

    for stage in ("embed tiles", "pretrain mem", "represent by mem", "evaluate"):
        stop_in(stage)
    result = run_study(asked(folder), folder / "stopped")

    assert set(finished.seconds) >= {"embed tiles", "pretrain mem", "represent by mem", "evaluate"}
    assert tables(result.report.parent) == tables(finished.report.parent)


def test_an_arm_of_a_study_becomes_a_head_as_from_its_sets(
    finished: StudyResult, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["fit", str(folder / "out"), "--arm", "mem/cls", "-o", str(folder / "head"), "--json"])
    fitted = json.loads(capsys.readouterr().out)
    again = fit_places(
        [finished.tiles, *finished.regions],
        folder / "spots.csv",
        ["stripes", "level"],
        "mem/cls",
        folder / "again",
        load_place_settings(finished),
        group="patient",
        models=list(finished.models.values()),
        on_event=lambda _: None,
    )

    assert code == 0
    assert [one["name"] for one in fitted["targets"]] == ["stripes=yes", "level"]
    assert load_place_head(folder / "head").digest == again.digest
    with pytest.raises(ConfigError, match="a study at places inside slides"):
        read_finished_study(folder / "out")
    assert main(["fit", str(folder / "out"), "--arm", "mem/cls", "--labels", "l.csv", "-o", str(folder / "no")]) == 2
    assert "--labels" in capsys.readouterr().err


def load_place_settings(finished: StudyResult) -> PlaceFitSettings:
    said = json.loads(finished.report.with_name("results.json").read_text())["settings"]
    return PlaceFitSettings(**{name: said[name] for name in PlaceFitSettings.model_fields})


def test_places_take_the_place_of_labels_and_the_reverse(folder: Path) -> None:
    spots = folder / "spots.csv"
    paper = read_study("paper", {"slides": folder / "slides", "places.file": spots, "targets": ["level"]})

    assert paper.places is not None
    assert (paper.labels, paper.places.file, paper.places.targets) == (None, spots, ("level",))
    labelled = asked(folder, **{"labels.file": "labels.csv", "labels.targets": ["msi"]})
    assert labelled.places is None
    assert list(labelled.of_slides.targets) == ["msi"]


def test_more_can_be_set_of_what_a_flag_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["study", "paper", "--slides", str(folder / "slides"), "--places", str(folder / "spots.csv")]
    call += [
        "--target",
        "level",
        "-o",
        str(folder / "nothing"),
        "--dry-run",
        "--json",
        "--set",
        "run.device=cpu",
        "run.workers=0",
    ]
    call += ["encoder=filterbank", "slides.slide_mpp=0.5", "places.group=patient", "places.hold_out=[b, c]"]

    code = main(call)

    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (told["targets"], told["folds"], told["is_at_places"]) == (["level"], 2, True)
    assert told["fits"] == 2 * len(told["arms"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"places.targets": ["height"]}, "no target 'height'"),
        ({"places.group": "hospital"}, "no target 'hospital'"),
        ({"places.hold_out": ["d"]}, "no slide or group 'd' to hold out"),
        ({"evaluation.arms": ["contrast"]}, "there is no arm 'contrast'; at places there are"),
        ({"evaluation.primary": "contrast"}, "evaluation.primary is about labels of slides"),
        ({"evaluation.probes": {"sharpen": False}}, "evaluation.probes.sharpen is about labels of slides"),
        ({"finetune": ["mem"]}, "finetune is about labels of slides"),
        ({"places.file": None}, "places.file"),
        ({"grid.stride_um": 224.0}, "so grid.stride_um would do nothing. Leave it out"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    finished: StudyResult, folder: Path, changes: dict[str, Any], told: str
) -> None:
    def no_training(event: Event) -> None:
        assert not (isinstance(event, Progress) and event.stage.startswith("pretrain"))

    with pytest.raises(ConfigError, match=told):
        run_study(asked(folder, **changes), folder / "out", on_event=no_training)


def test_a_file_asks_one_question(folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(FILE + "labels: {file: labels.csv, targets: [msi]}\n")
    with pytest.raises(ConfigError, match="labels of slides, or places inside slides with their targets; both"):
        read_study(both)
    neither = tmp_path / "neither.yaml"
    neither.write_text("".join(line for line in FILE.splitlines(keepends=True) if not line.startswith("places")))
    with pytest.raises(ConfigError, match="neither is there"):
        read_study(neither)
