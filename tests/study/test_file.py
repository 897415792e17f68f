"""A study file says what it means, and what is wrong with it, in one line that names the file and the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from parfocal.config import parse_yaml
from parfocal.errors import ConfigError
from parfocal.study.settings import packaged_studies, read_study

ROOT = Path(__file__).resolve().parents[2]
SMALL = """\
slides: scans
encoder: filterbank
pretraining: {size: T, steps: 7}
models:
  mem:
  wide: {size: S}
labels: {file: labels.csv, group: patient, targets: [msi]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(SMALL)
    return tmp_path / "study.yaml"


def test_paths_are_relative_to_the_file_and_those_of_overrides_to_the_working_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    plan = read_study(file, {"labels.splits": "splits.csv"})

    assert plan.slides is not None
    assert plan.slides.paths == (tmp_path / "scans",)
    assert plan.labels.file == tmp_path / "labels.csv"
    assert plan.labels.splits == elsewhere / "splits.csv"
    assert read_study(file, {"slides": ["a", "/b.csv"]}).slides.paths == (elsewhere / "a", Path("/b.csv"))  # type: ignore[union-attr]


def test_labels_say_how_their_table_is_read(file: Path) -> None:
    own = "labels: {file: labels.csv, patient_of: TCGA-..-...., missing: [pending, -999], not_missing: none, targets: "
    start = SMALL[: SMALL.index("labels:")]
    file.write_text(start + own + "{msi: {positive: 254637007}}}\n")
    labels = read_study(file).labels

    assert labels.columns.patient_of == "TCGA-..-...."
    assert labels.columns.missing == ("pending", "-999")
    assert labels.columns.not_missing == ("none",)
    assert labels.targets["msi"].positive == "254637007"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("file:net.onnx,tile_px=224", "file:{0}/net.onnx,tile_px=224"),
        ("python:colours.py:row", "python:{0}/colours.py:row"),
        ("python:colours:row", "python:colours:row"),
        ("virchow2,checkpoint=w.bin", "virchow2,checkpoint={0}/w.bin"),
        ({0.5: "virchow2", 2: "python:c.py:f"}, "0.5=virchow2,2=python:{0}/c.py:f"),
    ],
)
def test_paths_in_an_encoders_name_are_relative_to_the_file_too(file: Path, written: Any, read: str) -> None:
    file.write_text(SMALL.replace("filterbank", json.dumps(written)))

    assert read_study(file).encoder == read.format(file.parent)


def test_models_take_what_they_share_and_what_is_their_own(file: Path) -> None:
    models = read_study(file, {"models.mem.steps": 0, "pretraining.batch": 8}).models

    assert [(one.size, one.steps, one.batch) for one in models.values()] == [("T", 0, 8), ("S", 7, 8)]


def test_readouts_are_words_and_what_is_read_of_less(file: Path) -> None:
    coarse = {"readouts": ["decoded"], "read_mpps": [2.0]}
    file.write_text(f"{SMALL}readouts: {json.dumps(['cls', coarse, 'tokens'])}\n")
    plan = read_study(file, {"models.random": {"steps": 0}, "models.fine": {"mpps": [0.5]}})

    assert [(one.readouts, one.read_mpps) for one in plan.readouts] == [(("cls", "tokens"), ()), (("decoded",), (2.0,))]
    taken = {name: plan.read_out(model, model.mpps or (2.0, 0.5)) for name, model in plan.models.items()}
    assert taken["mem"] == taken["random"] == plan.readouts
    assert taken["fine"] == plan.readouts[:1]  # it does not see 2 mpp


def test_a_model_gives_no_predicted_tiles_that_it_was_not_trained_to_give(file: Path) -> None:
    readouts = ["cls", "decoded", "decoded-variance"]
    plan = read_study(
        file, {"readouts": readouts, "models.random": {"steps": 0}, "models.c": {"objective": "contrastive"}}
    )

    taken = {name: [one.readouts for one in plan.read_out(model, (2.0, 0.5))] for name, model in plan.models.items()}

    assert taken["mem"] == [("cls", "decoded", "decoded-variance")]
    assert taken["random"] == [("cls", "decoded")]
    assert taken["c"] == [("cls",)]


def test_a_source_of_tiles_that_is_set_takes_the_place_of_the_files(file: Path) -> None:
    plan = read_study(file, {"store": "/store"})

    assert (plan.store, plan.slides, plan.encoder) == (Path("/store"), None, "")


def test_what_is_set_beside_paths_in_short_keeps_them(file: Path) -> None:
    for overrides in ({"slides.ids": "name"}, {"slides": ["a"], "slides.ids": "name", "slides.slide_mpp": 0.5}):
        plan = read_study(file, overrides)
        assert plan.slides is not None
        assert plan.slides.ids == plan.embed_settings(plan.slides, "cpu").ids == "name"
        assert plan.slides.paths == ((file.parent / "scans") if "slides" not in overrides else Path.cwd() / "a",)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("models.mem.lr", -1, "models.mem.lr: Input should be greater than 0"),
        ("models.mem.learning_rate", 1, "models.mem.learning_rate: there is no such setting"),
        ("models.a/b", {}, "models.a/b: use letters"),
        ("models.mem.device", ["cuda:0", "cuda:1"], "models.mem.device: a study is one process"),
        ("seed", 1, "seed: there is no such setting"),
        ("evaluation.probes.componentz", 1, "evaluation.probes.componentz: there is no such setting"),
        ("grid.region_um", 500, "grid: region_um=500 is not a whole number"),
        ("labels.targets", {"msi": {"kind": "tall"}}, "labels.targets.msi.kind: Input should be 'auto', 'binary'"),
        ("labels.file", None, "labels.file: "),
        ("features", "jobs", "name exactly one of slides, features and store; found is slides and features"),
        ("encoder", "", "slides need an encoder"),
        ("encoder", "nets:x", "encoder: cannot read the encoder spec"),
        ("readouts", ["mean"], "readouts.0.readouts.0: Input should be 'cls'"),
        ("readouts", [{"readouts": ["cls"], "predict_mpp": 1}], "readouts.0: predict_mpp=1 is for what the decoder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_file_and_the_place(
    file: Path, place: str, value: Any, told: str
) -> None:
    content = parse_yaml(SMALL)
    *parents, last = place.split(".")
    inside = content
    for name in parents:
        inside[name] = inside.get(name) or {}
        inside = inside[name]
    inside[last] = value
    file.write_text(json.dumps(content))

    with pytest.raises(ConfigError) as refused:
        read_study(file)
    assert str(refused.value).startswith(f"{file}: {told}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (SMALL + "models: {}\n", "'models' stands here twice"),
        ("- a\n", "it must hold sections"),
        ("slides: [", "cannot read the study"),
        (SMALL.replace("labels:", "label:"), "label"),
    ],
)
def test_a_file_that_is_no_study_is_refused(file: Path, content: str, told: str) -> None:
    file.write_text(content)

    with pytest.raises(ConfigError, match=told):
        read_study(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, no, on]", ["yes", "no", "on"]),
        ("012", "012"),
        ("3e-4", 3e-4),
        ("2024-03-02", "2024-03-02"),
        ("true", True),
        ("0.50", 0.5),
    ],
)
def test_a_value_is_what_a_person_reads(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_aliases_in_aliases_are_refused_and_not_worked_out(file: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    for content in ("\n".join(lines), "a: &a [*a]"):
        file.write_text(content)
        with pytest.raises(ConfigError, match="more than 100,000 values"):
            read_study(file)


def test_an_absent_file_names_the_studies_that_come_along() -> None:
    with pytest.raises(ConfigError, match="comes with demo, paper"):
        read_study("papper")


@pytest.mark.parametrize("name", packaged_studies())
def test_a_study_that_comes_along_stands_in_the_folder_of_studies_too(name: str) -> None:
    assert (ROOT / "studies" / f"{name}.yaml").read_text() == (
        ROOT / "src" / "parfocal" / "study" / f"{name}.yaml"
    ).read_text()
    assert read_study(name).models


def test_a_misspelt_key_is_named_and_not_the_one_that_it_is_missing_for(file: Path) -> None:
    file.write_text(file.read_text().replace("targets:", "targest:"))

    with pytest.raises(ConfigError, match="targest: there is no such setting"):
        read_study(file)
