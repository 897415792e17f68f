"""The cohort of `scans`, embedded once for all tests of this folder."""

import csv

import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.store import open_set

from .scans import ENCODER, GRID, N_NEW, N_TRAIN, Native, Scanned, draw_slide


@pytest.fixture(scope="session")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    """16 slides of 8 patients in a store, labelled red (1) or not (0), and four new ones as files only."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "quick.py").write_text(ENCODER)
    encoder = f"python:{folder / 'quick.py'}:quick,tile_px={GRID.tile_px}"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(N_TRAIN):
        is_red = number % 4 < 2  # both slides of a patient are alike
        write_pyramid(folder / "slides" / f"s{number:02d}.tif", draw_slide(rng, is_red=is_red), mpp=0.5, n_levels=3)
        rows.append([f"s{number:02d}", f"p{number // 2:02d}", int(is_red), f"{10 * is_red + rng.normal():.3f}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["slide", "patient", "red", "amount"], *rows])
    new_is_red = {}
    for number in range(N_NEW):
        new_is_red[f"n{number}"] = number % 2 == 0
        picture = draw_slide(rng, is_red=number % 2 == 0)
        write_pyramid(folder / "new" / f"n{number}.tif", picture, mpp=0.5, n_levels=3)
    settings = EmbedSettings(encoder=encoder, grid=GRID, dtype="float32")
    summary = embed_slides([folder / "slides"], folder / "store", settings)
    new = embed_slides([folder / "new"], folder / "new-store", settings)
    assert not summary.failed + new.failed
    tiles = open_set(summary.set_path)
    digest = tiles.encoder_digest
    config = RegionEncoderConfig(
        width=8, depth=1, heads=2, mpps=GRID.mpps, dims=(9, 9), encoders=(digest, digest),
        region_um=GRID.region_um, tile_px=GRID.tile_px,
    )  # fmt: skip
    torch.manual_seed(0)  # its weights stay random, and are the same in every run
    RegionEncoder(config).save_pretrained(folder / "mem")
    represent_regions(
        tiles, folder / "mem", folder / "regions", RepresentSettings(readouts=("cls", "tokens"), dtype="float32")
    )
    return Scanned(
        folder, encoder, folder / "labels.csv", folder / "store", folder / "new", new_is_red,
        folder / "new-store", folder / "mem", folder / "regions",
    )  # fmt: skip


@pytest.fixture(scope="session")
def native(scanned: Scanned, tmp_path_factory: pytest.TempPathFactory) -> Native:
    """Only read: who adds to a store makes one."""
    folder = tmp_path_factory.mktemp("native")
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", coarse="native")
    slides = embed_slides([scanned.folder / "slides"], folder / "store", settings)
    new = embed_slides([scanned.new_slides], folder / "new", settings)
    assert not slides.failed + new.failed
    brief = PretrainSettings(size="T", steps=2, batch=8, device="cpu", cache_mib=64, monitor_regions=8)
    pretrain_encoder(open_set(slides.set_path), folder / "model", brief)
    return Native(folder / "store", folder / "new", folder / "model")
