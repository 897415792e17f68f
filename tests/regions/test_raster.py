"""Which level the tissue is taken from, and what stands for the tiles that cannot be decoded."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parfocal.errors import ParfocalWarning, UnreadableSlideError
from parfocal.regions import find_tissue
from parfocal.slides import Calibration, Gap, Slide
from parfocal.slides.reader import PixelReader, Window

GLASS = (243, 243, 243)
PINK = (214, 150, 190)
BROKEN_TILE = 128


class LevelsReader(PixelReader):
    """Levels in memory, each with rectangles that the file does not give."""

    def __init__(self, levels: list[np.ndarray], gaps: dict[int, list[Gap]] | None = None) -> None:
        self.path = Path("levels.tif")
        self.format = "array"
        self.levels = levels
        self.gaps = gaps or {}
        self.level_sizes = tuple((level.shape[1], level.shape[0]) for level in levels)
        self.mpp_claim = None
        self.objective_power = None
        self.read_px = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        self.read_px += width * height if level == 0 else 0
        pixels = self.levels[level][y : y + height, x : x + width].copy()
        found = []
        for gap in self.gaps.get(level, []):
            if gap.x < x + width and gap.x + gap.width > x and gap.y < y + height and gap.y + gap.height > y:
                found.append(gap)
                pixels[max(gap.y - y, 0) : gap.y + gap.height - y, max(gap.x - x, 0) : gap.x + gap.width - x] = 255
        return Window(pixels, tuple(found))

    def close(self) -> None:
        """Nothing is open."""


def slide_of(levels: list[np.ndarray], gaps: dict[int, list[Gap]] | None = None) -> Slide:
    reader = LevelsReader(levels, gaps)
    return Slide(reader, lambda: reader, Calibration(0.5, "test"), "levels.tif")


def read_px(slide: Slide) -> int:
    reader = slide._reader
    assert isinstance(reader, LevelsReader)
    return reader.read_px


def section(width: int, height: int, *discs: tuple[int, int, int]) -> np.ndarray:
    """Glass with round pieces of tissue at x, y, radius."""
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    for x, y, radius in discs:
        cv2.circle(pixels, (x, y), radius, PINK, -1)
    noise = np.random.default_rng(0).integers(-3, 4, (height, width, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def shrunk(pixels: np.ndarray, factor: int) -> np.ndarray:
    size = pixels.shape[1] // factor, pixels.shape[0] // factor
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


FULL = section(4096, 3072, (1200, 1000, 500), (3000, 2000, 700))
EMPTY = section(4096, 3072)
TRUE_SHARE = np.pi * (500**2 + 700**2) / (4096 * 3072)


def test_a_level_that_agrees_is_believed_and_little_of_level_0_is_read() -> None:
    slide = slide_of([FULL, shrunk(FULL, 4), shrunk(FULL, 16)])

    assert find_tissue(slide).tissue_share == pytest.approx(TRUE_SHARE, rel=0.03)
    assert read_px(slide) < 0.1 * FULL.shape[0] * FULL.shape[1]


@pytest.mark.parametrize(
    ("interpolation", "quality"), [(cv2.INTER_NEAREST, 40), (cv2.INTER_LINEAR, 90), (cv2.INTER_CUBIC, 40)]
)
def test_how_a_pyramid_was_made_is_no_contradiction(interpolation: int, quality: int) -> None:
    """Warnings are errors here."""
    coarse = cv2.resize(FULL, (256, 192), interpolation=interpolation)
    coarse = cv2.imdecode(cv2.imencode(".jpg", coarse, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)

    assert find_tissue(slide_of([FULL, np.asarray(coarse)])).tissue_share == pytest.approx(TRUE_SHARE, rel=0.05)


def wrong(kind: str, factor: int) -> np.ndarray:
    coarse = shrunk(FULL, factor)
    match kind:
        case "blank":
            return np.full_like(coarse, 243)
        case "black":
            return np.zeros_like(coarse)
        case "half":
            coarse[:, coarse.shape[1] // 2 :] = 255
            return coarse
        case "mirrored":
            return np.ascontiguousarray(coarse[:, ::-1])
        case "another":
            return shrunk(section(1024, 768, (525, 350, 225)), factor // 4)
        case _:
            # The whole slide squeezed into a part of the level, as where ratios are not what they seem.
            squeezed = np.full_like(coarse, 243)
            small = cv2.resize(coarse, (coarse.shape[1] * 4 // 5, coarse.shape[0] * 4 // 5))
            squeezed[: small.shape[0], : small.shape[1]] = small
            return squeezed


@pytest.mark.parametrize(
    ("kind", "whole_pyramid"),
    [(kind, False) for kind in ("blank", "black", "half", "mirrored", "another", "squeezed")]
    + [("black", True), ("mirrored", True)],
)
def test_a_level_that_shows_something_else_is_named_and_not_believed(kind: str, whole_pyramid: bool) -> None:
    middle = wrong(kind, 4) if whole_pyramid else shrunk(FULL, 4)
    slide = slide_of([FULL, middle, wrong(kind, 16)])

    with pytest.warns(ParfocalWarning) as told:
        mask = find_tissue(slide)

    texts = [str(one.message) for one in told]
    assert len(texts) == 1 + whole_pyramid
    assert all("shows something else than level 0 at" in text for text in texts)
    assert texts[0].startswith("levels.tif: level 2")
    assert mask.tissue_share == pytest.approx(TRUE_SHARE, rel=0.03)


@settings(max_examples=5, phases=[Phase.generate])
@given(x=st.integers(300, 3700), y=st.integers(300, 2700))
def test_a_blank_level_hides_no_small_piece(x: int, y: int) -> None:
    """A quarter of a millimetre of tissue, somewhere; 64 places would often miss it."""
    full = EMPTY.copy()
    cv2.circle(full, (x, y), 250, PINK, -1)
    slide = slide_of([full, shrunk(full, 4), np.full((192, 256, 3), 243, np.uint8)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        mask = find_tissue(slide)

    assert mask.tissue_share == pytest.approx(np.pi * 250**2 / (4096 * 3072), rel=0.1)


def test_a_slide_of_glass_is_read_coarsely_and_has_no_tissue() -> None:
    slide = slide_of([EMPTY, shrunk(EMPTY, 4), shrunk(EMPTY, 16)])

    assert find_tissue(slide).tissue_share == 0


def tile_gap(level: int, column: int, row: int, *, is_broken: bool) -> Gap:
    place = column * BROKEN_TILE, row * BROKEN_TILE
    return Gap(*place, BROKEN_TILE, BROKEN_TILE, f"tile {column}, {row} of level {level} is broken", is_broken)


def test_what_a_coarse_level_lacks_comes_from_a_finer_one() -> None:
    gaps = {2: [tile_gap(2, 0, 0, is_broken=True)], 1: [tile_gap(1, 2, 2, is_broken=True)]}
    whole = find_tissue(slide_of([FULL, shrunk(FULL, 4), shrunk(FULL, 16)]))
    patched = find_tissue(slide_of([FULL, shrunk(FULL, 4), shrunk(FULL, 16)], gaps))

    assert (whole.is_tissue != patched.is_tissue).mean() < 0.002


def test_what_no_level_gives_is_filled_from_its_neighbours() -> None:
    """A hole in tissue is tissue, so that its tiles are planned and then absent; one in glass is glass."""
    inside, outside = tile_gap(0, 23, 15, is_broken=True), tile_gap(0, 3, 20, is_broken=True)
    whole = find_tissue(slide_of([FULL]))
    patched = find_tissue(slide_of([FULL], {0: [inside, outside]}))

    assert (whole.is_tissue != patched.is_tissue).mean() < 0.002


@settings(max_examples=6)
@given(disc=st.integers(0, 4000), end=st.integers(200, 4000))
def test_tissue_behind_the_end_of_a_file_that_was_cut_is_planned_and_not_passed_over(disc: int, end: int) -> None:
    whole = section(2000, 4000, (1000, 3000, 400), (600, disc, 300))
    cut = slide_of([whole], {0: [Gap(0, end, 2000, 4000 - end, "the file ends before it", True)]})
    truth = find_tissue(slide_of([whole])).is_tissue
    try:
        found = find_tissue(cut).is_tissue
    except UnreadableSlideError as error:
        assert "cannot be decoded, and the rest shows none" in str(error)  # noqa: PT017
        return
    behind = np.arange(len(truth)) * 16 >= end + 16
    # The mask is smoothed, so its border may lie elsewhere beside the cut.
    assert (truth & ~found)[behind].sum() == 0 or 4000 - end < 560
    assert (truth & ~found).sum() <= 0.02 * truth.size


@pytest.mark.parametrize("beside", [False, True])
def test_a_small_place_that_cannot_be_decoded_is_tissue_only_beside_tissue(beside: bool) -> None:
    whole = section(2000, 2000, (700, 1000, 400))
    hole = Gap(1000 if beside else 1600, 900, 256, 256, "broken", True)

    found = find_tissue(slide_of([whole], {0: [hole]})).is_tissue

    rows, columns = np.s_[900 // 16 + 1 : 1156 // 16 - 1], np.s_[hole.x // 16 + 1 : (hole.x + 256) // 16 - 1]
    assert (found[rows, columns] == beside).all()


def test_what_was_not_scanned_is_no_tissue() -> None:
    sparse = find_tissue(slide_of([FULL], {0: [Gap(2300, 1300, 1400, 1400, "no data", False)]}))

    assert sparse.tissue_share == pytest.approx(np.pi * 500**2 / (4096 * 3072), rel=0.05)


def test_a_slide_of_which_nothing_can_be_decoded_says_so() -> None:
    with pytest.raises(UnreadableSlideError, match=r"levels\.tif: none of its tiles can be decoded"):
        find_tissue(slide_of([FULL], {0: [Gap(0, 0, 4096, 3072, "broken", True)]}))


def test_a_padded_level_ends_where_the_slide_does() -> None:
    coarse = np.full((256, 320, 3), 255, np.uint8)
    coarse[:192, :256] = shrunk(FULL, 16)
    reader = LevelsReader([FULL, coarse])
    reader.level_downsamples = (1.0, 16.0)
    mask = find_tissue(Slide(reader, lambda: reader, Calibration(0.5, "test"), "levels.tif"))

    assert mask.is_tissue.shape == (192, 256)
    assert mask.tissue_share == pytest.approx(TRUE_SHARE, rel=0.03)
