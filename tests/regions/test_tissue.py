from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from parfocal.errors import SlideError, UnreadableSlideError
from parfocal.geometry import Box
from parfocal.regions import TissueMask, find_tissue, read_thumbnail
from parfocal.slides import Calibration, Slide, open_slide
from parfocal.slides.reader import PixelReader, Window

GLASS = (243, 243, 243)
PINK = (224, 176, 208)
PALE = (226, 205, 222)


class ArrayReader(PixelReader):
    """A picture in memory; remembers the largest window that was read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.path = Path("array.tif")
        self.format = "array"
        self.pixels = pixels
        self.level_sizes = ((pixels.shape[1], pixels.shape[0]),)
        self.mpp_claim = None
        self.objective_power = None
        self.largest = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Window:
        self.largest = max(self.largest, width * height)
        return Window(self.pixels[y : y + height, x : x + width].copy())

    def close(self) -> None:
        """Nothing is open."""


def slide_of(pixels: np.ndarray, mpp: float = 8.0) -> Slide:
    reader = ArrayReader(pixels)
    return Slide(reader, lambda: reader, Calibration(mpp, "test"), "array.tif")


def picture(background: tuple[int, int, int], tissue: tuple[int, int, int] | None, noise: float = 1.5) -> np.ndarray:
    """A disc of tissue, 120 px in diameter about (90, 110), on 230 rows of 310 columns."""
    pixels = np.empty((230, 310, 3))
    pixels[:] = background
    if tissue is not None:
        y, x = np.mgrid[:230, :310]
        pixels[(x - 90) ** 2 + (y - 110) ** 2 < 60**2] = tissue
    # One number for the three colours of a pixel: a scanner's noise is mostly in brightness.
    pixels += np.random.default_rng(0).normal(0, noise, (230, 310, 1))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("background", [GLASS, (255, 255, 255), (236, 231, 235)])
@pytest.mark.parametrize("tissue", [PINK, PALE])
def test_tissue_is_found_on_glass_on_white_and_on_a_tint(
    background: tuple[int, int, int], tissue: tuple[int, int, int]
) -> None:
    mask = find_tissue(slide_of(picture(background, tissue)))

    assert (mask.x_mpp, mask.y_mpp) == (8.0, 8.0)
    y, x = np.mgrid[:230, :310]
    distance = np.hypot(x - 90, y - 110)
    assert mask.is_tissue[distance < 57].all()
    assert not mask.is_tissue[distance > 64].any()


@pytest.mark.parametrize("background", [GLASS, (255, 255, 255), (212, 212, 212)])
def test_an_empty_slide_has_no_tissue(background: tuple[int, int, int]) -> None:
    assert find_tissue(slide_of(picture(background, None))).tissue_share == 0


def test_a_slide_full_of_tissue_is_all_tissue() -> None:
    assert find_tissue(slide_of(picture(PINK, (150, 80, 150)))).tissue_share == 1


def test_grey_shadows_and_padding_are_not_tissue() -> None:
    pixels = picture(GLASS, PINK)
    pixels[:, 250:] = 255  # white padding of a scanner
    pixels[10:40, 170:240] = 190  # a shadow
    mask = find_tissue(slide_of(pixels))

    assert not mask.is_tissue[:, 160:].any()
    assert mask.is_tissue[110, 90]


def test_specks_go_and_small_holes_close_and_large_ones_stay() -> None:
    pixels = picture(GLASS, PINK)
    pixels[200:205, 250:255] = PINK  # 40 um square
    pixels[100:108, 60:68] = GLASS  # 64 um square
    pixels[80:140, 95:130] = GLASS  # 480 x 280 um
    mask = find_tissue(slide_of(pixels))

    assert not mask.is_tissue[190:215, 240:265].any()
    assert mask.is_tissue[104, 64]
    assert not mask.is_tissue[110, 112]


def test_a_greyscale_slide_is_judged_by_its_darkness() -> None:
    mask = find_tissue(slide_of(picture(GLASS, (150, 150, 150))))

    assert mask.is_tissue[110, 90]
    assert not mask.is_tissue[10, 300]


def textured(rng: np.random.Generator, colour: tuple[int, int, int], depth: float = 1.0) -> np.ndarray:
    """230 x 310 px of tissue: fibres and nuclei as absorbance of one stain, so that its colour is the stain's."""
    absorbance = -np.log(np.array(colour) / 243.0)
    blobs = cv2.GaussianBlur(rng.random((230, 310)), (0, 0), 1.5)
    amount = np.clip(1 + 6 * (blobs - 0.5), 0.15, 2.5)[..., None] * depth
    return 243.0 * np.exp(-absorbance * amount)


def disc(x: int = 90, y: int = 110, radius: int = 60) -> np.ndarray:
    rows, columns = np.mgrid[:230, :310]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


STAINS = {
    "H&E": (190, 120, 170),
    "haematoxylin": (140, 120, 185),
    "DAB": (165, 115, 80),
    "silver": (120, 120, 120),
    "brownish silver": (128, 122, 114),
    "pale H&E": (228, 208, 222),
}
CASTS = {
    "none": (243, 243, 243),
    "yellow": (246, 236, 200),
    "blue": (205, 222, 246),
    "pink": (246, 222, 234),
    "green": (222, 240, 214),
    "dim": (150, 148, 146),
}


@settings(max_examples=40)
@given(
    stain=st.sampled_from(sorted(STAINS)),
    cast=st.sampled_from(sorted(CASTS)),
    strength=st.floats(0.2, 1.0),
    noise=st.floats(0.3, 1.5),
    seed=st.integers(0, 99),
)
def test_any_stain_is_found_under_any_lamp(stain: str, cast: str, strength: float, noise: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.full((230, 310, 3), 243.0)
    where = disc()
    pixels[where] = textured(rng, STAINS[stain])[where]
    pixels *= (1 - strength) + strength * np.array(CASTS[cast]) / 243.0
    pixels += rng.normal(0, noise, (230, 310, 1))
    mask = find_tissue(slide_of(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))

    assert overlap(mask.is_tissue, where) > 0.85


@settings(max_examples=30)
@given(
    stain=st.sampled_from([*sorted(STAINS), None]),
    cast=st.sampled_from(sorted(CASTS)),
    loss=st.floats(0, 0.25),
    x=st.integers(0, 310),
    y=st.integers(0, 230),
)
def test_an_uneven_lamp_makes_no_tissue_and_hides_none(
    stain: str | None, cast: str, loss: float, x: int, y: int
) -> None:
    assume((stain, cast) != ("pale H&E", "dim"))
    pixels = np.full((230, 310, 3), 243.0)
    if stain is not None:
        pixels[disc()] = textured(np.random.default_rng(1), STAINS[stain])[disc()]
    rows, columns = np.mgrid[:230, :310]
    lamp = 1 - loss * ((columns - x) ** 2 + (rows - y) ** 2) / (310**2 + 230**2)
    pixels *= np.array(CASTS[cast]) / 243.0 * lamp[..., None]
    pixels += np.random.default_rng(2).normal(0, 0.5, (230, 310, 1))
    mask = find_tissue(slide_of(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))

    if stain is None:
        assert mask.tissue_share == 0
    else:
        assert overlap(mask.is_tissue, disc()) > 0.85


@settings(max_examples=30)
@given(
    stain=st.sampled_from(sorted(STAINS)),
    cast=st.sampled_from(sorted(CASTS)),
    depth=st.floats(0.9, 1.3),
    seed=st.integers(0, 99),
)
def test_a_field_without_glass_is_all_tissue(stain: str, cast: str, depth: float, seed: int) -> None:
    assume((stain, cast) != ("pale H&E", "dim"))  # smooth and nearly grey: nothing tells it from dim glass
    pixels = textured(np.random.default_rng(seed), STAINS[stain], depth) * np.array(CASTS[cast]) / 243.0
    mask = find_tissue(slide_of(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))

    assert mask.tissue_share > 0.9


def dirty_glass(cast: str, seed: int, noise: float, white: bool) -> np.ndarray:
    """Glass with dust, a shadow and a line."""
    rng = np.random.default_rng(seed)
    pixels = np.full((230, 310, 3), CASTS[cast], float)
    for _ in range(12):
        x, y, radius = rng.integers(5, 300), rng.integers(5, 220), rng.integers(1, 5)
        pixels[disc(x, y, radius)] *= rng.uniform(0.3, 0.9)
    pixels[:, 120:150] *= 0.85  # the shadow of an edge
    pixels[40:42] *= 0.5  # the edge itself
    pixels += rng.normal(0, noise, (230, 310, 1))
    if white:
        pixels[:, 270:] = 255
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@settings(max_examples=20)
@given(cast=st.sampled_from(sorted(CASTS)), seed=st.integers(0, 99), noise=st.floats(0, 2), white=st.booleans())
@example(cast="none", seed=0, noise=0.25, white=False)
@example(cast="blue", seed=17, noise=2.0, white=False)
def test_glass_with_dust_and_shadows_under_any_lamp_is_no_tissue(
    cast: str, seed: int, noise: float, white: bool
) -> None:
    """But for dust that lies in a clump as large as a small piece of tissue, which nothing tells from one."""
    mask = find_tissue(slide_of(dirty_glass(cast, seed, noise, white)))

    assert mask.tissue_share <= 0.02


@pytest.mark.parametrize(("seed", "noise", "white"), [(0, 0.25, False), (28, 0.25, False), (18, 0.25, True)])
def test_dust_on_a_line_is_no_tissue_in_a_picture_without_colour(seed: int, noise: float, white: bool) -> None:
    assert find_tissue(slide_of(dirty_glass("none", seed, noise, white))).tissue_share == 0


@settings(max_examples=20)
@given(
    colour=st.sampled_from([(1, 1, 1), (0.1, 0.3, 1), (0.1, 1, 0.2)]),
    offset=st.integers(0, 40),
    gain=st.floats(600, 3000),
    seed=st.integers(0, 99),
)
def test_a_dark_background_is_refused_as_no_brightfield(
    colour: tuple[float, float, float], offset: int, gain: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    signal = cv2.GaussianBlur(rng.random((230, 310)), (0, 0), 1.5)
    signal = np.clip(gain * (signal - 0.47), 0, 255) * disc()
    pixels = offset + signal[..., None] * np.array(colour)
    with pytest.raises(SlideError, match=r"array\.tif: its background is dark"):
        find_tissue(slide_of(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)))


def test_black_gaps_are_neither_tissue_nor_a_reason_to_refuse() -> None:
    rng = np.random.default_rng(3)
    tissue = textured(rng, STAINS["H&E"])
    on_glass = np.where(disc()[..., None], tissue, 243.0)
    for pixels in (on_glass, tissue):
        pixels[:, 160:300] = 0
        mask = find_tissue(slide_of(np.rint(pixels).astype(np.uint8)))
        assert not mask.is_tissue[:, 165:295].any()
        assert mask.is_tissue[60:160, 60:120].all()


def test_ink_beside_grey_tissue_does_not_hide_it() -> None:
    rng = np.random.default_rng(3)
    pixels = np.where(disc()[..., None], textured(rng, STAINS["silver"]), 243.0)
    pixels[180:220, 240:300] = (40, 60, 170)
    mask = find_tissue(slide_of(np.rint(pixels).astype(np.uint8)))

    assert overlap(mask.is_tissue[:, :200], disc()[:, :200]) > 0.9


def test_a_slide_of_one_level_is_read_in_pieces_and_by_area() -> None:
    """Memory must not grow with the slide: no window has more than the block, and the raster is bounded."""
    pixels = cv2.resize(picture(GLASS, PINK), (9300, 5003), interpolation=cv2.INTER_NEAREST)
    slide = slide_of(pixels, mpp=0.25)

    thumbnail = read_thumbnail(slide)

    assert thumbnail.shape == (157, 291, 3)
    for row, column in [(0, 0), (77, 84), (155, 289), (64, 63), (63, 64)]:
        cell = pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].mean(axis=(0, 1))
        assert np.abs(thumbnail[row, column] - cell).max() <= 0.5
    # 11 of the 32 rows of the last one are on the slide, and they are what it shows.
    assert np.abs(thumbnail[156, 0] - pixels[4992:, :32].mean(axis=(0, 1))).max() <= 1.5
    reader = slide._reader
    assert isinstance(reader, ArrayReader)
    assert reader.largest <= 2048**2


@given(st.data())
def test_the_share_of_a_box_is_its_area_of_tissue(data: st.DataObject) -> None:
    """Against a count on a raster sixteen times as fine, where every drawn edge falls on a cell's edge."""
    is_tissue = np.random.default_rng(7).random((11, 17)) < 0.4
    mask = TissueMask(is_tissue, 8.0, 8.0)
    fine = np.kron(np.pad(is_tissue, 4), np.ones((16, 16)))
    x, y = (data.draw(st.integers(-64, limit)) for limit in (17 * 16, 11 * 16))
    width, height = (data.draw(st.integers(1, 200)) for _ in range(2))
    expected = fine[y + 64 : y + 64 + height, x + 64 : x + 64 + width].sum() / (width * height)

    share = mask.share([Box(x / 2, y / 2, width / 2, height / 2)])

    assert share[0] == pytest.approx(expected, abs=1e-9)


def test_no_boxes_have_no_shares() -> None:
    assert TissueMask(np.ones((3, 4), bool), 8.0, 8.0).share([]).shape == (0,)


def test_a_broken_slide_says_so(real_data: Path) -> None:
    with (
        open_slide(real_data / "odd-slides" / "unreadable.svs") as slide,
        pytest.raises(UnreadableSlideError, match=r"unreadable\.svs"),
    ):
        find_tissue(slide)


def test_the_colon_section_is_outlined(colon: Path) -> None:
    """Places that a look at the section settles: glands, the lumen between the parts, blank tiles."""
    with open_slide(colon) as slide:
        mask = find_tissue(slide)
        thumbnail = read_thumbnail(slide)

    assert 0.28 < mask.tissue_share < 0.38
    assert mask.is_tissue.shape == (1936, 960)
    for x, y in [(250, 400), (500, 1100), (800, 700), (640, 1350)]:
        assert mask.is_tissue[y, x]
    for x, y in [(100, 100), (900, 1500), (100, 1100), (660, 1210)]:
        assert not mask.is_tissue[y, x]
    assert thumbnail[mask.is_tissue].mean() < 215 < 235 < thumbnail[~mask.is_tissue].mean()
