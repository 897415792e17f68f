"""What released versions wrote is read, continued and predicted with; see `data/archives/make_format_1.py`."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from parfocal import load_head, open_set, predict_slides, pretrain_encoder, represent_regions
from parfocal.bags import RepresentSettings
from parfocal.pretrain import PretrainSettings
from parfocal.region_encoder import config

ARCHIVES = Path(__file__).parent / "data" / "archives"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    zipfile.ZipFile(ARCHIVES / "format-1.zip").extractall(tmp_path)
    return tmp_path


@pytest.fixture
def golden(archive: Path) -> dict[str, dict[str, list[list[float]]]]:
    content: dict[str, dict[str, list[list[float]]]] = json.loads((archive / "golden.json").read_text())
    return content


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("folder", "key"), [("store", "s0"), ("indexed", "indexed")])
def test_sets_hold_the_numbers_that_were_written(archive: Path, golden: dict, folder: str, key: str) -> None:
    tokens = open_set(archive / folder).read("s0")

    assert {f"{mpp:g}": rows.astype(float).tolist() for mpp, rows in tokens.features.items()} == golden[key]


def test_regions_are_those_that_the_model_gives_again(archive: Path, golden: dict) -> None:
    before = open_set(archive / "regions").read_regions("s0").features
    assert before.astype(float).tolist() == golden["regions"]

    settings = RepresentSettings(readouts=("cls",), device="cpu")
    summary = represent_regions(archive / "store", archive / "model", archive / "again", settings)

    assert not summary.failed
    again = open_set(archive / "again").read_regions("s0").features
    np.testing.assert_allclose(again.astype(float), before.astype(float), atol=1e-3)  # rows are float16
    assert open_set(archive / "again").name == open_set(archive / "regions").name


def test_a_pretraining_that_was_stopped_goes_on_to_the_same_model(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(config.SIZES, "T", {"width": 8, "depth": 1, "heads": 2})
    settings = PretrainSettings(
        size="T", steps=6, batch=4, device="cpu", precision="float32", checkpoint_every=3, holdout=0.2, monitor_every=3,
        monitor_regions=8, log_every=1, decoder_bias="none", bottleneck=0.5,  # what was usual then
    )  # fmt: skip

    result = pretrain_encoder(archive / "store", archive / "halfway", settings)

    done, whole = (table(archive / name / "metrics.csv") for name in ("halfway", "model"))
    assert not result.was_finished
    assert [float(row["loss"]) for row in done] == pytest.approx([float(row["loss"]) for row in whole], rel=1e-5)


@pytest.mark.parametrize("name", ["head-concat", "head-mlp"])
def test_heads_predict_what_they_predicted(archive: Path, name: str) -> None:
    assert load_head(archive / name).probes

    predict_slides([archive / "store"], archive / name, archive / "again.csv")

    before, again = table(archive / f"{name}.csv"), table(archive / "again.csv")
    assert [row["slide"] for row in again] == [row["slide"] for row in before]
    for column in ("probability_b", "distance", "cut"):
        numbers = [[float(row[column]) for row in rows] for rows in (before, again)]
        assert numbers[1] == pytest.approx(numbers[0], abs=1e-5)
