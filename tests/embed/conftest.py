"""Small slides with tissue in known places, for tests of the way into the store."""

import shutil
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.store import EmbeddingSet
from parfocal.store.layout import FILE_DIGEST

SlideMaker = Callable[..., Path]


@lru_cache(maxsize=64)
def slide_bytes(
    seed: int = 0,
    mpp: float | None = 0.4985,
    tissue: bool = True,
    width: int = 1900,
    color: tuple[int, int, int] = (190, 120, 175),
) -> bytes:
    """A tiled TIFF; the same slides are asked for again and again."""
    height = 1130
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 243, np.uint8)
    if tissue:
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (520, 480), (430, 390), 20, 0, 360, 1, -1)
        cv2.ellipse(mask, (1500, 700), (260, 330), 0, 0, 360, 1, -1)
        speckle = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 3)
        speckle = (speckle / speckle.std())[..., None]
        stained = np.clip(np.array(color) - 35 * speckle, 0, 255).astype(np.uint8)
        pixels = np.where(mask[..., None] > 0, stained, pixels)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    file = BytesIO()
    tifffile.imwrite(file, pixels, tile=(128, 128), photometric="rgb", compression="zlib", **resolution)
    return file.getvalue()


@pytest.fixture
def make_slide(tmp_path: Path) -> SlideMaker:
    """Write a tiled TIFF, wider than high, with two pieces of purple speckled tissue on glass."""

    def make(
        name: str = "one.tif",
        *,
        seed: int = 0,
        mpp: float | None = 0.4985,
        tissue: bool = True,
        width: int = 1900,
        color: tuple[int, int, int] = (190, 120, 175),
    ) -> Path:
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(slide_bytes(seed, mpp, tissue, width, color))
        return path

    return make


@pytest.fixture(scope="session")
def small_settings() -> EmbedSettings:
    """Regions of 128 um: one tile of 64 px at 2 mpp, four at 1, sixteen at 0.5."""
    encoder = f"python:{Path(__file__).with_name('colours.py')}:colours,tile_px=64"
    return EmbedSettings(grid=GridConfig(region_um=128.0, tile_px=64), encoder=encoder, batch=10, dtype="float32")


# Attributes that hold places or times, or the digest of a file with such, and differ between two stores of one content.
PLACES = {"savetodir", "slide_path", FILE_DIGEST}


def _content(set_path: Path) -> dict[str, object]:
    """Every dataset and attribute of a set, by file and name."""
    found: dict[str, object] = {}
    for file in sorted(set_path.rglob("*.h5")):
        name = file.relative_to(set_path).as_posix()
        with h5py.File(file) as opened:

            def visit(path: str, item: h5py.HLObject, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{name}:{path}"] = (item.shape, item.dtype.str, item.chunks, item[()].tobytes())
                for key, value in item.attrs.items():
                    if key not in PLACES:
                        found[f"{name}:{path}@{key}"] = str(value)

            visit("/", opened)
            opened.visititems(visit)
    return found


@pytest.fixture
def content() -> Callable[[Path], dict[str, object]]:
    """What a set holds, to compare two of them."""
    return _content


def _without_seals(folder: Path) -> None:
    for file in sorted(folder.rglob("*.h5")):
        older = file.with_name("older")
        with h5py.File(file) as before, h5py.File(older, "w") as after:
            for name in before:
                before.copy(name, after)
            for name, value in before.attrs.items():
                after.attrs[name] = value
            for one in (after, *after.values()):
                one.attrs.pop("file_digest", None)
        older.replace(file)


@pytest.fixture
def without_seals() -> Callable[[Path], None]:
    """Rewrites the files of a folder as they were before they had seals, and an index had digests."""
    return _without_seals


@pytest.fixture(scope="session")
def two_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides with levels of their own."""
    folder = tmp_path_factory.mktemp("scans") / "slides"
    for name, seed in (("a.tif", 1), ("b.tif", 2)):
        pixels = tifffile.imread(BytesIO(slide_bytes(seed)))[:796, :700]
        write_pyramid(folder / name, pixels, mpp=0.4985, n_levels=3)
    return folder


@pytest.fixture
def scans(two_scans: Path, tmp_path: Path) -> Path:
    """A copy of them that is the test's own."""
    return Path(shutil.copytree(two_scans, tmp_path / "slides", dirs_exist_ok=True))


@pytest.fixture
def assert_same(content: Callable[[Path], dict[str, object]]) -> Callable[[EmbeddingSet, EmbeddingSet], None]:
    """Dataset by dataset; how they came about may differ."""

    def compare(one: EmbeddingSet, other: EmbeddingSet) -> None:
        ours, theirs = (
            {key: value for key, value in content(found.path).items() if "@" not in key} for found in (one, other)
        )
        assert ours == theirs

    return compare
