"""A study is the whole chain: once, again, after a kill, with a changed setting, with slides that fail."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.predict import fit_study
from parfocal.run import cache
from parfocal.run.events import Event, Progress
from parfocal.study import plan_study, read_study, run_study, stages
from parfocal.study.run import StudyResult
from parfocal.study.settings import Study

N_SLIDES, REGION_PX = 8, 896
N_WHOLE = 12  # regions that are not the strip
# One epoch of some twenty regions is what makes these studies quick, and what every one of them is warned of.
# Beside each slide's last region lies a strip of tissue that fine tiles mostly fit into and coarse ones do not.
pytestmark = [
    pytest.mark.filterwarnings("ignore:this pretraining is short:parfocal.errors.ParfocalWarning"),
    pytest.mark.filterwarnings("ignore:.*lack a tile of a coarser magnification:parfocal.errors.ParfocalWarning"),
]

whole_chain = sys.modules["parfocal.study.run"]  # the package has the function under this name
# What makes a study of an hour one of seconds; everything else is what the file says.
QUICK: dict[str, Any] = {
    "encoder": "filterbank",
    "pretraining.size": "T",
    "pretraining.batch": 8,
    "pretraining.epochs": 1,
    "pretraining.monitor_regions": 4,
    "pretraining.precision": "float32",
    "run.device": "cpu",
    "run.workers": 0,
    "evaluation.folds": 2,
    "evaluation.repeats": 1,
    "evaluation.probes": {
        "components": [4],
        "lifted": [],
        "sharpen": False,
        "inner_folds": 2,
        "attention_steps": 4,
        "attention_instances": 4,
        "mlp_steps": 4,
        "bilinear_steps": 4,
        "finetune_steps": 4,
        "growth": 1,
    },
}

FEW = {"evaluation.arms": ["mean", "0.5/gated-attention", "mem/cls/gated-attention"]}


def whole_regions(number: int) -> int:
    """Two of every other pair of slides, which an arm needs that compares the regions of a slide."""
    return 1 + number // 2 % 2


def write_slides(root: Path, numbers: range) -> Path:
    """Slides of one or two regions and a strip, every other one striped, with their labels, whose path comes back.

    The strip is 160 px wide: 71 % of a tile at 0.5 mpp, which is kept, and 36 % of one at 1 mpp, which is not.
    """
    for number in numbers:
        rng = np.random.default_rng([5, number])
        width_px = whole_regions(number) * REGION_PX + 160
        rgb = np.full((REGION_PX + 96, width_px, 3), 240, np.uint8)
        rows = np.arange(REGION_PX)[:, None] // 8 % 2 if number % 2 else np.zeros((REGION_PX, 1), np.int64)
        tissue = np.array([180, 110, 165]) - 40 * rows[..., None] + rng.integers(-9, 9, (REGION_PX, width_px, 1))
        rgb[:REGION_PX] = tissue
        write_pyramid(root / "slides" / f"case-{number:02d}.tif", rgb, mpp=0.5, n_levels=3)
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide", "patient", "striped"])
        table.writerows((f"case-{number:02d}", f"p{number}", number % 2) for number in numbers)
    return root / "labels.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_slides(root, range(N_SLIDES))
    return root


def the_paper(place: Path, **changes: Any) -> Study:
    given = {"labels.file": place / "labels.csv", "labels.targets": ["striped"], **QUICK, **changes}
    if not {"store", "features"} & given.keys():
        given = {"slides": place / "slides", **given}
    return read_study("paper", given)


@pytest.fixture(scope="module")
def finished(place: Path) -> StudyResult:
    """The paper's own file, end to end."""
    return run_study(the_paper(place), place / "out")


def changes_of_small(finished: StudyResult) -> dict[str, Any]:
    """What makes a study of seconds: the tiles that are there already, one model, few arms."""
    return {
        "store": finished.tiles.path,
        "models": {"mem": {"checkpoint_every": 1}},
        "readouts": ["cls"],
        "evaluation.arms": ["mean"],
    }


@pytest.fixture
def small(finished: StudyResult) -> dict[str, Any]:
    return changes_of_small(finished)


@pytest.fixture(scope="module")
def whole(finished: StudyResult, place: Path) -> StudyResult:
    """A small study with arms that draw random numbers too, which nothing disturbs."""
    return run_study(the_paper(place, **{**changes_of_small(finished), **FEW}), place / "whole")


def begun_as(study: str, out: Path) -> None:
    """Let a study begin with the models and regions of another one, and nothing evaluated."""
    for name in ("models", "store"):
        if (out.parent / study / name).is_dir():
            shutil.copytree(out.parent / study / name, out / name)


def files_of(report: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(report.iterdir()) if path.is_file()}


def without_times(report: Path) -> dict[str, Any]:
    """The tables of a report without the seconds in them."""
    tables = {}
    for path in sorted(report.glob("*.csv")):
        with path.open(newline="") as file:
            tables[path.name] = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]
    return tables


def test_the_papers_file_runs_from_slides_to_a_report_with_every_arm(finished: StudyResult) -> None:
    page = finished.report.read_text()
    labels = {run.arm.family for run in finished.evaluation.targets["striped"].runs}

    assert finished.exit_status == 0
    assert len(finished.tiles.slides) == N_SLIDES
    assert {f"Region encoder {name}" for name in ("mem", "cmem", "random", "mem-20x")} <= {
        label.split(",")[0].split(" (")[0] for label in labels
    }
    for said in ("none: random weights", "represent by cmem", "R2, held-out slides", "filterbank"):
        assert said in page
    assert [one.mpps for one in finished.regions if one.settings["model"] == "mem-20x"] == [(0.5,), (0.5,)]


def test_the_results_hold_what_is_needed_to_fit_an_arm_later(finished: StudyResult) -> None:
    report = finished.report.parent
    told = json.loads((report / "results.json").read_text())["settings"]["study"]

    assert (report / told["labels"]).is_file()
    assert len(told["sets"]) == 1 + len(finished.regions)
    assert all((report / one / "settings.json").is_file() for one in told["sets"])
    assert set(told["models"]) == {"mem", "cmem", "random", "mem-20x"}
    assert told["file"]["models"]["random"]["steps"] == 0


def test_a_finished_study_run_again_writes_the_same_bytes_and_does_nothing(finished: StudyResult, place: Path) -> None:
    before = files_of(finished.report.parent)
    models = {path: path.stat().st_mtime_ns for path in (place / "out" / "models").rglob("*.safetensors")}
    again = run_study(the_paper(place), place / "out")

    assert files_of(again.report.parent) == before
    assert {path: path.stat().st_mtime_ns for path in (place / "out" / "models").rglob("*.safetensors")} == models


def test_a_dry_run_counts_what_the_run_will_find_and_writes_nothing(finished: StudyResult, place: Path) -> None:
    out = place / "nothing"
    plan = plan_study(the_paper(place), out)
    tiles = finished.tiles
    done = plan_study(the_paper(place), place / "out")

    assert not out.exists()
    assert (plan.tiles.slides, plan.tiles.done, done.tiles.done) == (N_SLIDES, 0, N_SLIDES)
    for mpp, name in zip(tiles.mpps, ("2", "1", "0.5"), strict=True):
        assert plan.tiles.tiles[name] == sum(tiles.n_tiles(slide)[mpp] for slide in tiles.slides)
    assert sum(plan.tiles.to_encode.values()) == 21 * N_WHOLE + 4 * N_SLIDES
    assert plan.arms == done.arms == tuple(run.arm.id for run in finished.evaluation.targets["striped"].runs)
    assert plan.fits == len(plan.arms) * 2
    # Seven of eight slides, with two or three regions each, the strip among them, by eights.
    assert [one.steps for one in plan.models] == [one.steps for one in done.models] == [3, 3, 0, 3]
    assert [one.folder for one in done.models] == [str(folder) for folder in finished.models.values()]
    assert not any(one.done for one in plan.models)
    assert all(one.done for one in done.models)


def test_tiles_are_counted_where_the_encoder_cannot_be_loaded(place: Path) -> None:
    plan = plan_study(the_paper(place, encoder="virchow2,checkpoint=absent.bin"), place / "nothing")

    # And four fine tiles on the strip of each slide.
    assert plan.tiles.tiles == {"2": N_WHOLE, "1": 4 * N_WHOLE, "0.5": 16 * N_WHOLE + 4 * N_SLIDES}
    assert plan.tiles.gib == pytest.approx((21 * N_WHOLE + 4 * N_SLIDES) * 2560 * 2 / 2**30, abs=1e-4)
    assert "absent.bin" in plan.tiles.note


class Stopped(BaseException):
    """As a person's Ctrl-C, at a place of the test's choice."""


def test_a_study_that_is_stopped_in_every_stage_gives_the_report_of_one_that_is_not(
    whole: StudyResult, small: dict[str, Any], place: Path
) -> None:
    plan, stages = the_paper(place, **{**small, **FEW}), [*whole.seconds]

    def stop_in(wanted: str) -> None:
        def tell(event: Event) -> None:
            if isinstance(event, Progress) and event.stage == wanted and event.done > 0:
                raise Stopped

        with pytest.raises(Stopped):
            run_study(plan, place / "stopped", on_event=tell)

    for stage in stages[1:]:
        stop_in(stage)
    result = run_study(plan, place / "stopped")

    assert stages == ["open the store", "pretrain mem", "represent by mem", "evaluate"]
    assert without_times(result.report.parent) == without_times(whole.report.parent)
    predictions = [one.report.with_name("predictions.csv").read_bytes() for one in (result, whole)]
    assert predictions[0] == predictions[1]


def test_a_study_that_is_stopped_while_arms_are_fitted_keeps_those_that_are_done(
    whole: StudyResult, small: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = place / "between", cache.writing
    begun_as("whole", out)
    kept = out / "kept"

    @contextmanager
    def writing(path: Path) -> Iterator[Path]:
        with plain(path) as temporary:
            yield temporary
        if len(list(path.parent.glob("[!.]*.npz"))) >= 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(cache, "writing", writing)
        with pytest.raises(Stopped):
            run_study(the_paper(place, **{**small, **FEW}), out)
    assert not (out / "report" / "report.html").exists()
    before = {path.name: path.read_bytes() for path in kept.glob("[!.]*.npz")}
    result = run_study(the_paper(place, **{**small, **FEW}), out)

    assert len(before) >= 2
    assert all((kept / name).read_bytes() == content for name, content in before.items())
    assert without_times(result.report.parent) == without_times(whole.report.parent)
    pages = [re.sub(r">[\d,.]+<", "><", one.read_text()) for one in (result.report, whole.report)]
    assert len(pages[0]) == len(pages[1])


def test_a_changed_setting_makes_another_model_and_leaves_the_old_one(
    whole: StudyResult, small: dict[str, Any], place: Path
) -> None:
    out = place / "changing"
    shutil.copytree(place / "whole", out)
    old = out / whole.models["mem"].relative_to(place / "whole") / "model.safetensors"
    weights = old.read_bytes()
    second = run_study(the_paper(place, **{**small, **FEW, "pretraining.lr": 1e-2}), out)

    assert second.models["mem"] != old.parent
    assert old.read_bytes() == weights
    assert {one.name for one in second.regions}.isdisjoint(one.name for one in whole.regions)
    arms = [{run.arm.id: run.predictions for run in one.evaluation.targets["striped"].runs} for one in (whole, second)]
    moved = [arm for arm in arms[0] if not np.array_equal(arms[0][arm][0].score, arms[1][arm][0].score)]
    assert moved
    assert all(arm.startswith("mem/") for arm in moved)


def test_features_in_tridents_layout_are_a_source_too(
    finished: StudyResult, small: dict[str, Any], place: Path
) -> None:
    tiles = finished.tiles.path
    small |= {"models": {}}
    small.pop("store")
    features = {"paths": [tiles / "2", tiles / "0.5"], "slides": [place / "slides"], "encoder": "filterbank"}
    plan = the_paper(place, **small, features=features)
    counted = plan_study(plan, place / "indexed").tiles
    result = run_study(plan, place / "indexed")

    assert (counted.source, counted.slides, counted.regions) == ("features", N_SLIDES, N_WHOLE)
    assert result.tiles.mpps == (2.0, 0.5)
    assert result.tiles.slides == finished.tiles.slides


def test_predicted_tiles_of_coarse_ones_are_read_out_where_a_model_can_give_them(
    small: dict[str, Any], place: Path
) -> None:
    """Of the model that sees the finest magnification alone there is none, and the run has the arms of its plan."""
    small |= {
        "models": {"mem": {}, "mem-20x": {"mpps": [0.5]}},
        "readouts": ["cls", {"readouts": ["decoded"], "read_mpps": [2.0, 1.0]}],
        "evaluation.arms": ["2/mean", "cls/mean", "decoded/from-2+1/mean"],
    }
    plan = the_paper(place, **small)
    shutil.copytree(place / "out" / "models", place / "decoding" / "models")

    planned = plan_study(plan, place / "decoding")
    result = run_study(plan, place / "decoding")

    arms = ("2/mean", "mem/cls/mean", "mem/decoded/from-2+1/mean", "mem-20x/cls/mean")
    assert planned.arms == tuple(run.arm.id for run in result.evaluation.targets["striped"].runs) == arms
    assert [one.settings["readout"] for one in result.regions] == ["cls", "decoded", "cls"]
    (decoded,) = [one for one in result.regions if one.settings["readout"] == "decoded"]
    assert (decoded.mpps, decoded.settings["predict_mpp"]) == ((2.0, 1.0), 0.5)
    sizes = {one.name: one.gib for one in planned.models}
    row = 2 * result.tiles.dims[0.5]
    assert sizes["mem"] - sizes["mem-20x"] == pytest.approx((N_WHOLE + N_SLIDES) * row / 2**30, abs=1e-4)


def test_an_external_cohort_is_embedded_represented_and_tested(small: dict[str, Any], place: Path) -> None:
    theirs = place / "theirs"
    labels = write_slides(theirs, range(20, 26))
    small |= {"encoder": "filterbank", "models": {"mem": {}}}
    small.pop("store")
    begun_as("out", place / "external")
    result = run_study(
        the_paper(place, **small, test={"slides": str(theirs / "slides"), "labels": str(labels)}), place / "external"
    )
    found = result.evaluation.targets["striped"]

    assert found.external_cohort is not None
    assert found.external_cohort.slides == tuple(f"case-{number}" for number in range(20, 26))
    assert all(run.external is not None for run in found.runs)
    assert {"embed tiles of the test cohort", "represent of the test cohort by mem"} <= set(result.seconds)


def test_a_slide_that_the_file_no_longer_names_is_no_part_of_the_study(
    finished: StudyResult, small: dict[str, Any], place: Path
) -> None:
    shutil.copytree(place / "out" / "store", place / "fewer" / "store")
    slides = sorted((place / "slides").iterdir())[:-2]
    small |= {"models": {}, "encoder": "filterbank", "slides": slides, "evaluation.folds": 3}
    small.pop("store")
    with pytest.warns(ParfocalWarning, match="2 slides with a label have no embeddings"):
        result = run_study(the_paper(place, **small), place / "fewer")

    assert result.evaluation.targets["striped"].cohort.slides == tuple(
        f"case-{number:02d}" for number in range(N_SLIDES - 2)
    )
    with pytest.warns(ParfocalWarning, match="2 slides with a label have no embeddings"):
        head = fit_study(place / "fewer", "0.5/mean", place / "fewer" / "head")
    assert head.facts.trained_on.slides == N_SLIDES - 2


def test_a_slide_that_fails_is_named_on_the_page_and_the_rest_goes_on(
    finished: StudyResult, small: dict[str, Any], place: Path
) -> None:
    broken = place / "broken"
    shutil.copytree(place / "slides", broken / "slides")
    (broken / "slides" / "case-03.tif").write_bytes(b"not a slide")
    shutil.copytree(place / "out" / "store", broken / "out" / "store")
    (index,) = (broken / "out" / "store").rglob("index/case-03.h5")
    index.unlink()
    small |= {"models": {}, "evaluation.folds": 3}
    small.pop("store")
    with pytest.warns(ParfocalWarning, match="case-03"):
        result = run_study(
            the_paper(place, **{**small, "slides": broken / "slides", "encoder": "filterbank"}), broken / "out"
        )

    assert result.exit_status == 3
    assert [one.slide for one in result.failed] == ["case-03"]
    assert "case-03" in result.report.read_text()


def test_a_model_whose_training_diverges_takes_only_its_own_arms_with_it(
    whole: StudyResult, small: dict[str, Any], place: Path
) -> None:
    begun_as("whole", place / "diverged")
    changes = {
        **small,
        "models": {"wild": {"lr": 1e30}, **small["models"]},
        "evaluation.arms": ["0.5/gated-attention", "cls/gated-attention"],
    }
    with pytest.warns(ParfocalWarning) as caught:
        result = run_study(the_paper(place, **changes), place / "diverged")
    target = result.evaluation.targets["striped"]

    assert result.exit_status == 3
    assert "the loss is nan" in result.failed_models["wild"]
    assert list(result.models) == ["mem"]
    assert [run.arm.id for run in target.runs] == ["0.5/gated-attention", "mem/cls/gated-attention"]
    assert [one.arm.id for one in target.failed] == ["wild/cls/gated-attention"]
    assert "its region encoder failed: ParfocalError: pretraining stopped" in target.failed[0].reason
    # The first model that learns is what the comparison was to be about, and no other takes its place.
    assert target.primary is None
    assert "wild" in target.missing_primary
    assert any("the model wild failed, and its arms with it" in str(one.message) for one in caught)
    page = result.report.read_text()
    assert "Models that are missing" in page
    assert "no other arm takes its place" in page


def test_the_device_of_a_study_reaches_every_stage_and_its_workers_those_that_embed(
    finished: StudyResult, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, str] = {}
    workers: list[int] = []

    def on_cpu(owner: ModuleType, name: str, place_of_settings: int) -> None:
        real = getattr(owner, name)

        def run(*given: Any, **named: Any) -> Any:
            arguments = list(given)
            settings = arguments[place_of_settings]
            if name == "evaluate_arms":
                told[name] = settings.probes.device
                arguments[place_of_settings] = settings.model_copy(
                    update={"probes": settings.probes.model_copy(update={"device": "cpu"})}
                )
            else:
                several = isinstance(settings.device, tuple)
                told[name] = settings.device[0] if several else settings.device
                changes: dict[str, Any] = {"device": ("cpu",) if several else "cpu"}
                if name == "embed_slides":
                    workers.append(settings.workers)
                    changes["workers"] = 0
                arguments[place_of_settings] = settings.model_copy(update=changes)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, run)

    for owner in (stages, whole_chain):
        monkeypatch.setattr(owner, "find_device", lambda name: {"auto": "cpu"}.get(name, name))
    for owner, name, at in (
        (stages, "embed_slides", 2),
        (stages, "pretrain_encoder", 2),
        (stages, "represent_regions", 3),
    ):
        on_cpu(owner, name, at)
    on_cpu(whole_chain, "evaluate_arms", 4)
    shutil.copytree(place / "out" / "store", place / "placed" / "store")
    changes = {"models": {"mem": {}}, "readouts": ["cls"], "evaluation.arms": ["2/mean"]}
    changes |= {"run.device": "cuda:7", "run.workers": 3}
    run_study(the_paper(place, **changes), place / "placed")
    assert told == dict.fromkeys(("embed_slides", "pretrain_encoder", "represent_regions", "evaluate_arms"), "cuda:7")
    assert workers == [3]

    # What the file says of the evaluation's own networks stands.
    changes["evaluation.probes"] = {**QUICK["evaluation.probes"], "device": "cuda:1"}
    run_study(the_paper(place, **changes), place / "placed")
    assert told["evaluate_arms"] == "cuda:1"


def test_pretraining_of_a_study_holds_out_whole_patients(
    finished: StudyResult, small: dict[str, Any], place: Path
) -> None:
    alone = the_paper(place, **small)
    shared = the_paper(place, **small, **{"labels.group": None, "labels.patient_of": r"case-\d"})
    tiles, root = finished.tiles, Path("models")
    groups = {name: stages.groups_of(plan, tiles) for name, plan in (("alone", alone), ("shared", shared))}
    folders = {name: stages.model_folder(root, "mem", alone.models["mem"], tiles, own) for name, own in groups.items()}

    assert groups["alone"]["case-03"] == "p3"
    assert set(groups["shared"].values()) == {"case-0"}
    assert folders["alone"] == stages.model_folder(root, "mem", alone.models["mem"], tiles, {})
    assert folders["shared"] != folders["alone"]


@pytest.mark.parametrize("plan", [run_study, plan_study])
def test_a_device_that_is_not_there_is_refused_before_anything_is_done(
    finished: StudyResult, small: dict[str, Any], place: Path, plan: Callable[[Study, Path], object]
) -> None:
    changes = {**small, "models": {}, "run.device": "cuda:93"}  # not a single network
    with pytest.raises(ConfigError, match="no device 'cuda:93'"):
        plan(the_paper(place, **changes), place / "undone")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"labels.targets": ["stripes"]}, "no column 'stripes'"),
        (
            {"models": {"m": {"mpps": [0.5]}}, "readouts": [{"readouts": ["decoded"], "read_mpps": [2.0]}]},
            "no model of this study can give decoded",
        ),
        ({"evaluation.primary": "nothing"}, "the primary comparison is about 'nothing'"),
        ({"slides": "nowhere"}, "cannot find"),
        ({"evaluation.scheme": "leave-one-group-out"}, "test slides of both classes"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    finished: StudyResult, place: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        run_study(the_paper(place, **changes), place / "out", on_event=_no_training)


def _no_training(event: Event) -> None:
    assert not (isinstance(event, Progress) and event.stage.startswith("pretrain"))
