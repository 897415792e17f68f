"""Of a file that holds several scans, the one that is asked for is embedded, and another one is another slide."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ParfocalWarning
from parfocal.store import open_set


@pytest.fixture
def two_scans(make_slide, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A file of two scans, and a file for each of them."""
    alone = [make_slide("first.tif", seed=1), make_slide("second.tif", seed=2, width=1500)]
    path = tmp_path / "both.tif"
    with tifffile.TiffWriter(path) as tiff:
        for one in alone:
            resolution = {"resolution": (1e4 / 0.4985, 1e4 / 0.4985), "resolutionunit": "CENTIMETER"}
            tiff.write(
                tifffile.imread(one),
                tile=(128, 128),
                photometric="rgb",
                compression="zlib",
                metadata=None,
                **resolution,
            )
    return path, alone


def rows(store: Path, slide: str) -> np.ndarray:
    return open_set(store).read(slide).features[0.5]


@pytest.mark.filterwarnings("ignore:.*scan")
def test_each_scan_can_be_chosen_by_a_flag_or_a_manifest(
    tmp_path: Path, two_scans: tuple[Path, list[Path]], small_settings: EmbedSettings
) -> None:
    path, alone = two_scans
    manifest = tmp_path / "both.csv"
    manifest.write_text("slide,path,scan\nfirst,both.tif,0\nsecond,both.tif,1\n")
    embed_slides(alone, tmp_path / "alone", small_settings)
    embed_slides([manifest], tmp_path / "manifest", small_settings)
    for number, slide in enumerate(("first", "second")):
        expected = rows(tmp_path / "alone", slide)
        flag = tmp_path / f"flag-{number}"
        embed_slides([path], flag, small_settings.model_copy(update={"scan": number}))

        assert np.array_equal(rows(flag, "both"), expected)
        assert np.array_equal(rows(tmp_path / "manifest", slide), expected)
        assert open_set(flag).attributes("both")["slide_scan"] == number
    assert "slide_scan" not in open_set(tmp_path / "alone").attributes("first")


@pytest.mark.filterwarnings("ignore:.*scan")
def test_another_scan_of_a_finished_file_is_refused(
    tmp_path: Path, two_scans: tuple[Path, list[Path]], small_settings: EmbedSettings
) -> None:
    path, _ = two_scans
    second = small_settings.model_copy(update={"scan": 1})
    embed_slides([path], tmp_path / "store", second)

    (again,) = embed_slides([path], tmp_path / "store", second).outcomes
    (other,) = embed_slides([path], tmp_path / "store", small_settings).outcomes

    assert again.kept  # type: ignore[union-attr]
    assert "as scan 1 of its file, and scan 0 is asked now" in other.message  # type: ignore[union-attr]


def test_the_first_scan_is_taken_with_a_word_where_none_is_asked(
    tmp_path: Path, two_scans: tuple[Path, list[Path]], small_settings: EmbedSettings
) -> None:
    path, alone = two_scans
    with pytest.warns(ParfocalWarning, match="scan"):
        embed_slides([path], tmp_path / "store", small_settings)
    embed_slides([shutil.copy(alone[0], tmp_path / "one.tif")], tmp_path / "alone", small_settings)

    assert np.array_equal(rows(tmp_path / "store", "both"), rows(tmp_path / "alone", "one"))
