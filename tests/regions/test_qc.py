from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.config import GridConfig
from parfocal.regions import TissueMask, draw_qc, plan_regions, qc_path, write_qc
from parfocal.slides import Calibration, Slide
from parfocal.slides.reader import PixelReader, Window


class PinkReader(PixelReader):
    """Counts what is read."""

    def __init__(self, width: int, height: int) -> None:
        self.path = Path("pink.tif")
        self.format = "pink"
        self.level_sizes = ((width, height), (-(-width // 4), -(-height // 4)))
        self.mpp_claim = None
        self.objective_power = None
        self.n_reads = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        self.n_reads += 1
        return Window(np.full((height, width, 3), (210, 150, 190), np.uint8))

    def close(self) -> None:
        """Nothing is open."""


def pink(width: int, height: int) -> tuple[Slide, PinkReader]:
    reader = PinkReader(width, height)
    return Slide(reader, lambda: reader, Calibration(0.5, "test"), "pink.tif"), reader


@settings(max_examples=12)
@given(width=st.integers(180, 9000), height=st.integers(180, 9000))
def test_a_picture_is_small_and_reads_nothing_again(width: int, height: int) -> None:
    slide, reader = pink(width, height)
    plan = plan_regions(slide, GridConfig())
    before = reader.n_reads

    picture = draw_qc(slide, plan)

    assert reader.n_reads == before
    assert max(picture.shape) <= 1500
    assert min(picture.shape[:2]) >= 20


def test_tissue_and_regions_are_drawn_where_they_are() -> None:
    slide, _ = pink(896 * 4, 896 * 3)
    is_tissue = np.zeros((12, 16), bool)
    is_tissue[4:8, 4:8] = True  # the second region of the second row
    thumbnail = np.full((336, 448, 3), 243, np.uint8)
    plan = plan_regions(slide, GridConfig(), tissue=TissueMask(is_tissue, 112.0, 112.0, thumbnail))

    picture = draw_qc(slide, plan).astype(int)

    drawn = np.argwhere(np.abs(picture - [30, 60, 200]).max(axis=2) < 30)
    words = picture.shape[0] - round(picture.shape[1] * 3 / 4)
    scale = picture.shape[1] / 4
    top, left = drawn.min(axis=0)
    bottom, right = drawn.max(axis=0)
    assert (top - words, left, bottom - words, right) == pytest.approx((scale, scale, 2 * scale, 2 * scale), abs=2)


def test_a_slide_without_tissue_has_its_picture_too(tmp_path: Path) -> None:
    slide, _ = pink(5000, 3000)
    plan = plan_regions(slide, GridConfig(), tissue=TissueMask(np.zeros((12, 20), bool), 125.0, 125.0))
    path = qc_path(tmp_path, "folder/pink.1")
    write_qc(path, slide, plan, slide_id="folder/pink.1")

    assert path == tmp_path / "qc" / "folder" / "pink.1.jpg"
    picture = cv2.imread(str(path))
    assert picture is not None
    assert np.abs(picture[-20:, -20:].astype(int) - [190, 150, 210]).max() < 12
