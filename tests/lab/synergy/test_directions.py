from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.lab.synergy.directions import open_as_embedded
from parfocal.store import open_set


@pytest.mark.filterwarnings("ignore:.*scan")
def test_pictures_are_of_the_scan_that_was_embedded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(90, 190, (300, 500, 3), dtype=np.uint8)
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "two.tif") as tiff:
        for one in (pixels, pixels[:, :400]):
            tiff.write(one, photometric="rgb", tile=(128, 128), metadata=None, **resolution)
    (tmp_path / "slides.csv").write_text("slide,path,scan\nfirst,two.tif,0\nsecond,two.tif,1\n")
    grid = GridConfig(region_um=128.0, tile_px=64, min_tissue=0.0)
    settings = EmbedSettings(grid=grid, encoder="filterbank,tile_px=64", workers=0)
    made = open_set(embed_slides([tmp_path / "slides.csv"], tmp_path / "store", settings).set_path)

    widths = {}
    for slide in made.slides:
        with open_as_embedded(made, made.read(slide), tmp_path / "two.tif") as opened:
            widths[slide] = opened.width_px
    assert widths == {"first": 500, "second": 400}
