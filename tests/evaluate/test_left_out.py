"""Rows that cannot be used cost a cohort one slide, by name, in every command; what is said is that of the others."""

import csv
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.bags import RepresentSettings, read_bags, represent_regions
from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.errors import NotFiniteError, ParfocalWarning, StoreError
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.heads import ProbeSettings
from parfocal.lab.explore.design import Design
from parfocal.lab.explore.run import ExploreSettings, explore_designs
from parfocal.lab.prove.run import ProveSettings, prove_encoder
from parfocal.lab.synergy.analysis import SynergySettings
from parfocal.lab.synergy.run import measure_synergy
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, fit_head, predict_slides
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.run.events import Progress
from parfocal.store import EmbeddingSet, LeftOut, open_set
from parfocal.store.h5 import write_seal
from parfocal.store.layout import FILE_DIGEST, features_path, index_path
from parfocal.study.plan_tiles import plan_tiles
from parfocal.study.settings import Study
from parfocal.study.stages import make_tiles

from ..region_encoder.toy import tiny_models

N_SLIDES = 20
PROBES = ProbeSettings(components=(4,), inner_folds=2, attention_validation=1, attention_steps=4, growth=1)
TRAIN = PretrainSettings(size="T", steps=2, batch=16, precision="float32", holdout=0.25, read_threads=0)
LEFT_OUT = pytest.mark.filterwarnings("ignore::parfocal.errors.ParfocalWarning")


def not_finite(tiles: EmbeddingSet, slide: str) -> None:
    """As an encoder's overflow was stored before rows were checked: the files belong together."""
    features, index = features_path(tiles.path, slide, tiles.mpps[-1]), index_path(tiles.path, slide)
    with h5py.File(features, "r+") as file:
        file["features"][5, 3] = np.nan
    with h5py.File(index, "r+") as file:
        file[f"{tiles.mpps[-1]:g}"].attrs[FILE_DIGEST] = write_seal(features)
    write_seal(index)


def cut(tiles: EmbeddingSet, slide: str) -> None:
    path = features_path(tiles.path, slide, tiles.mpps[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def absent(tiles: EmbeddingSet, slide: str) -> None:
    features_path(tiles.path, slide, tiles.mpps[-1]).unlink()


def exchanged(tiles: EmbeddingSet, slide: str) -> None:
    other = next(one for one in tiles.slides if one != slide)
    shutil.copyfile(features_path(tiles.path, other, tiles.mpps[0]), features_path(tiles.path, slide, tiles.mpps[0]))


def no_index(tiles: EmbeddingSet, slide: str) -> None:
    index_path(tiles.path, slide).write_bytes(b"")


SPOIL: dict[str, Callable[[EmbeddingSet, str], None]] = {
    one.__name__: one for one in (not_finite, cut, absent, exchanged, no_index)
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twenty slides with a label."""
    return write_store(tmp_path_factory.mktemp("whole"), N_SLIDES)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides."""
    return write_store(tmp_path_factory.mktemp("few"), 4)


@pytest.fixture(autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_models(depth=1):
        yield


def write_store(root: Path, n_slides: int) -> Path:
    model = FeatureModel(dim=32)
    write_cohort(draw_cohort(StratSettings(n_slides=n_slides, n_types=1, product=False, model=model)), root)
    return root


def tiles_in(root: Path) -> EmbeddingSet:
    return open_set(root)


@pytest.fixture(scope="module")
def spoilt(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store; its second slide has a row that is not finite and its ninth one lost a features file."""
    root = tmp_path_factory.mktemp("copy") / "spoilt"
    shutil.copytree(whole, root)
    tiles = tiles_in(root)
    not_finite(tiles, bad_slides(tiles)[0])
    absent(tiles, bad_slides(tiles)[1])
    return root


@pytest.fixture(scope="module")
def without(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same store as if these slides had never been in it."""
    root = tmp_path_factory.mktemp("copy") / "without"
    shutil.copytree(whole, root)
    tiles = tiles_in(root)
    for slide in bad_slides(tiles):
        index_path(tiles.path, slide).unlink()
    return root


def bad_slides(tiles: EmbeddingSet) -> list[str]:
    return [tiles.slides[1], tiles.slides[8]]


def said_of(caught: list[warnings.WarningMessage]) -> str:
    return "\n".join(str(one.message) for one in caught if issubclass(one.category, ParfocalWarning))


@settings(max_examples=15)
@given(how=st.sampled_from(sorted(SPOIL)), which=st.integers(0, 3), most=st.sampled_from([3, 1000]))
@LEFT_OUT
def test_bags_are_those_of_the_other_slides(
    tmp_path_factory: pytest.TempPathFactory, few: Path, how: str, which: int, most: int
) -> None:
    root = tmp_path_factory.mktemp("bags") / "store"
    shutil.copytree(few, root)
    tiles = tiles_in(root)
    others = [slide for number, slide in enumerate(tiles.slides) if number != which]
    expected = read_bags(tiles, others, most_instances=most)
    SPOIL[how](tiles, tiles.slides[which])

    left_out = LeftOut()
    found = read_bags(tiles_in(root), tiles.slides, most_instances=most, left_out=left_out)

    assert list(left_out.reasons) == [tiles.slides[which]]
    for one, other in zip(found, expected, strict=True):
        assert one.slides == other.slides == tuple(others)
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.region_mean, other.region_mean)
    with pytest.raises(StoreError, match=tiles.slides[which]):
        read_bags(tiles_in(root), tiles.slides)


def test_a_row_that_is_not_finite_has_an_error_of_its_own(spoilt: Path) -> None:
    tiles = tiles_in(spoilt)
    with pytest.raises(NotFiniteError, match=bad_slides(tiles)[0]):
        tiles.read(bad_slides(tiles)[0])


def test_an_evaluation_is_that_of_the_other_slides(spoilt: Path, without: Path, tmp_path: Path) -> None:
    quick = EvaluateSettings(repeats=1, folds=2, arms=("mean", "gated-attention"), probes=PROBES)
    tables = []
    for root in (spoilt, without):
        out = tmp_path / f"out-{root.name}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluate_arms([root], root / "labels.csv", ["pairing"], out, quick, columns=LabelColumns(group="patient"))
        with (out / "predictions.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
        if root == spoilt:
            assert all(f"{slide} (" in said_of(caught) for slide in bad_slides(tiles_in(root)))
            assert "2 slides cannot be read and are left out" in (out / "report.html").read_text()

    assert tables[0] == tables[1]
    assert len({row["slide"] for row in tables[0]}) == N_SLIDES - 2


@LEFT_OUT
def test_a_test_cohort_loses_the_slides_too(whole: Path, spoilt: Path, tmp_path: Path) -> None:
    quick = EvaluateSettings(repeats=1, folds=2, arms=("mean",), probes=PROBES)

    tiles, other = tiles_in(whole), tiles_in(spoilt)

    evaluate_arms(
        [replace(tiles, slides=tiles.slides[9:])], whole / "labels.csv", ["pairing"], tmp_path / "out", quick,
        columns=LabelColumns(group="patient"),
        test=[replace(other, slides=other.slides[:9])], test_labels=spoilt / "labels.csv",
    )  # fmt: skip

    assert all(f"{slide} (" in "\n".join(cohort_notes(tmp_path / "out")) for slide in bad_slides(tiles))


def cohort_notes(out: Path) -> list[str]:
    """What the results say of the test cohort."""
    return json.loads((out / "results.json").read_text())["targets"]["pairing"]["external_cohort"]["notes"]


def test_synergy_is_that_of_the_other_slides(spoilt: Path, without: Path, tmp_path: Path) -> None:
    fast = SynergySettings(components=(4,), permutations=99, types=(), power_permutations=0, main_repeats=0)
    answers = []
    for root in (spoilt, without):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = measure_synergy(
                root, root / "labels.csv", "pairing", tmp_path / root.name, fast, columns=LabelColumns(group="patient")
            )
        answers.append(result.describe()["labels"])
        if root == spoilt:
            assert all(f"{slide} (" in said_of(caught) for slide in bad_slides(tiles_in(root)))

    assert answers[0] == answers[1]


@LEFT_OUT
def test_pretraining_leaves_them_out_goes_on_without_them_and_can_be_proven(spoilt: Path, tmp_path: Path) -> None:
    tiles = tiles_in(spoilt)
    bad = bad_slides(tiles)
    held_out = (bad[1], tiles.slides[4], tiles.slides[5])
    training = TRAIN.model_copy(update={"holdout_slides": held_out, "checkpoint_every": 1})
    once = pretrain_encoder(tiles, tmp_path / "once", training)

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.result is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_encoder(tiles, tmp_path / "twice", training.model_copy(update={"log_every": 1}), on_event=stop)
    twice = pretrain_encoder(tiles_in(spoilt), tmp_path / "twice", training.model_copy(update={"log_every": 1}))

    assert all(f"{slide} (" in once.holdout for slide in bad)
    assert once.metrics["loss"] == pytest.approx(twice.metrics["loss"], rel=0.5)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "twice")]
    assert weights[0] == weights[1]
    facts = json.loads((tmp_path / "once" / "config.json").read_text())
    assert sorted(facts["pretraining"]["left_out"]) == sorted(bad)
    quick = ProveSettings(
        eval_regions=24, random_regions=8, train_regions=64, network_steps=2, control_steps=0, draws=100, queries=8
    )
    proof = prove_encoder(tmp_path / "once", spoilt, tmp_path / "proof", quick)
    assert all(slide in " ".join(proof.remarks) for slide in bad)


def test_a_slide_that_breaks_while_a_model_is_trained_ends_the_run_with_its_name(few: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(few, root)
    tiles = tiles_in(root)

    def spoil(event: object) -> None:
        if isinstance(event, Progress) and event.done == 0:
            for slide in tiles.slides:
                cut(tiles, slide)

    with pytest.raises(StoreError, match="slide-0") as caught:
        pretrain_encoder(tiles, tmp_path / "model", TRAIN.model_copy(update={"cache_mib": 0}), on_event=spoil)
    assert "begin in another folder" in "".join(caught.value.__notes__)


def test_a_study_and_its_plan_name_the_slides_whose_index_is_damaged(few: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(few, root)
    tiles = tiles_in(root)
    no_index(tiles, tiles.slides[2])
    study = Study.model_validate({"store": root, "labels": {"file": root / "labels.csv", "targets": {"pairing": {}}}})

    made = make_tiles(study, study, tmp_path, lambda done, total: None)
    planned = plan_tiles(study, study, tmp_path, "cpu")

    assert [one.slide for one in made.failed] == list(planned.tiles.problems) == [tiles.slides[2]]
    assert planned.made is not None
    assert made.sets[0].slides == planned.made.slides == (*tiles.slides[:2], tiles.slides[3])


@LEFT_OUT
def test_every_cell_of_an_exploration_leaves_the_same_slides_out(spoilt: Path, tmp_path: Path) -> None:
    design = Design(seeds=(0,), base={"size": "T", "steps": 1, "batch": 16, "precision": "float32"}, axes={})
    how = ExploreSettings(device=("cpu",), regions=16, folds=2, holdout=0.25, probes=PROBES)

    result = explore_designs(design, spoilt, tmp_path / "out", how)

    assert result.exit_status == 0
    page = result.report.read_text()
    assert all(slide in page for slide in bad_slides(tiles_in(spoilt)))


@LEFT_OUT
def test_regions_and_predictions_have_a_row_for_each_of_them(whole: Path, spoilt: Path, tmp_path: Path) -> None:
    tiles = tiles_in(spoilt)
    bad = bad_slides(tiles)
    quick = FitSettings(repeats=1, folds=2, probes=PROBES)
    made = fit_head([spoilt], spoilt / "labels.csv", "pairing", "concat", tmp_path / "head", quick)
    pretrain_encoder(tiles_in(whole), tmp_path / "model", TRAIN)

    regions = represent_regions(tiles, tmp_path / "model", tmp_path / "regions", RepresentSettings())
    predictions = predict_slides([spoilt], tmp_path / "head", tmp_path / "out.csv")

    assert made.facts.trained_on.slides == N_SLIDES - 2
    assert regions.exit_status == predictions.exit_status == 3
    assert [one.slide for one in regions.failed] == [one.slide for one in predictions.failed] == bad
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert len(rows) == N_SLIDES
    assert "not finite" in rows[bad[0]]["problem"]
    for slide, row in rows.items():
        said = [value for name, value in row.items() if name.startswith("probability")]
        assert said == [""] if slide in bad else np.isfinite(float(said[0]))


def test_a_prediction_that_is_not_finite_is_a_row_with_the_reason(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit_head(
        [whole], whole / "labels.csv", "pairing", "concat", tmp_path / "head",
        FitSettings(repeats=1, folds=2, probes=PROBES),
    )  # fmt: skip
    scores = iter([float("nan"), float("inf"), -float("inf")])
    monkeypatch.setattr("parfocal.predict.head.Head.score", lambda *_: np.array([[next(scores, 0.5)]]))

    summary = predict_slides([whole], tmp_path / "head", tmp_path / "out.csv")

    assert len(summary.failed) >= 1
    assert "nan" not in (tmp_path / "out.csv").read_text().lower().replace(summary.failed[0].message.lower(), "")
    assert all("is not finite" in one.message for one in summary.failed)


def test_a_store_without_a_slide_that_can_be_read_is_one_line(whole: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / "store"
    shutil.copytree(whole, root)
    tiles = tiles_in(root)
    for slide in tiles.slides:
        cut(tiles, slide)
    labels = ["--labels", str(root / "labels.csv"), "--target", "pairing"]

    for command in (
        ["evaluate", str(root), *labels, "-o", str(tmp_path / "evaluated")],
        ["pretrain", str(root), "-o", str(tmp_path / "model"), "--size", "T"],
        ["synergy", str(root), *labels, "-o", str(tmp_path / "synergy")],
    ):
        status = main(command)
        said = capsys.readouterr().err.strip().splitlines()
        assert status == 1, said
        assert "can be read" in said[-1]
        assert "Traceback" not in "\n".join(said)
