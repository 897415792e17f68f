"""A head of predicted tiles reads the magnifications that its region encoder is given, and no others."""

import csv
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cohort import LabelColumns
from parfocal.predict import PredictSettings, fit_head, load_head, predict_slides
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.stats import auc
from parfocal.store import open_set
from parfocal.store.layout import features_path

from .scans import GRID, LEAN, Scanned

ARM = "both/decoded/from-2/mean"


@pytest.fixture(scope="module")
def head(scanned: Scanned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fitted on what a model with random weights predicts at 0.5 mpp from tiles at 2."""
    folder = tmp_path_factory.mktemp("decoded")
    digest = open_set(scanned.store).encoder_digest
    torch.manual_seed(3)
    model = RegionModel(
        RegionEncoderConfig(
            width=16, depth=1, heads=2, mpps=GRID.mpps, dims=(9, 9), encoders=(digest, digest),
            region_um=GRID.region_um, tile_px=GRID.tile_px, layer_scale=1.0,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder / "both")
    settings = RepresentSettings(readouts=("decoded",), read_mpps=(2.0,), dtype="float32")
    represent_regions(scanned.store, folder / "both", folder / "regions", settings)
    inputs, columns = [scanned.store, folder / "regions"], LabelColumns(group="patient")
    return fit_head(
        inputs, scanned.labels, "red", ARM, folder / "head", LEAN, columns=columns, models=[folder / "both"]
    ).path


def test_slides_are_embedded_at_the_magnifications_that_are_read(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    settings = PredictSettings(encoder=scanned.encoder)

    summary = predict_slides([scanned.new_slides], head, tmp_path / "new.csv", settings)

    probability = np.array([one.probability[1] for one in summary.predicted])
    assert auc(np.array([scanned.new_is_red[one.slide] for one in summary.predicted]), probability) > 0.8
    assert load_head(head).facts.tiles.mpps == summary.tiles.mpps == (2.0,)
    assert not list((tmp_path / "new-store").rglob("0.5"))
    with (tmp_path / "new.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    assert [name for name in columns if name.startswith("absent_share_")] == ["absent_share_2"]


def test_of_a_store_with_more_nothing_else_is_opened(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    from_slides = predict_slides(
        [scanned.new_slides], head, tmp_path / "slides.csv", PredictSettings(encoder=scanned.encoder)
    )
    shutil.copytree(scanned.new_store, tmp_path / "store")
    tiles = open_set(tmp_path / "store")
    for slide in tiles.slides:
        with h5py.File(features_path(tiles.path, slide, 0.5), "r+") as file:
            file["features"][...] = np.nan

    from_store = predict_slides([tmp_path / "store"], head, tmp_path / "store.csv")

    assert from_store.exit_status == 0
    one, other = (np.array([each.probability[1] for each in found.predicted]) for found in (from_slides, from_store))
    # A grey level: coarse tiles of the store were averaged in two steps, those of the slides in one.
    np.testing.assert_allclose(one, other, atol=0.02)
