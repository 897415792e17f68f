import subprocess
import sys
from pathlib import Path

import pytest

from parfocal.errors import CalibrationError, SlideError, UnreadableSlideError
from parfocal.slides import open_slide

# What each strange file must come to: None (opens and reads) or the part of the one line that helps.
ODD = {
    "boxes.tiff": "claims 352.8 microns per pixel",
    "small_HE_levels.tiff": "claims 352.9 microns per pixel",
    "boxes_0.dcm": None,
    "boxes_1.dcm": None,
    "broken.svs": "not a TIFF file",
    "kidney-48-5.tif": "does not say how many microns",
    "ojpeg-tile.tif": "compression 6",
    "small_dicom.dcm": "Couldn't get image flavor",
    "smalltif.tif": "its pixels are uint16, not 8 bit",
    "test_orient3.tif": "orientation tag says 3",
    "unopenable.tiff": "compression 52479",
    "unreadable.svs": "tile 0 of level 0 is broken",
}
# With a resolution given, these are slides like any other.
USABLE = {"boxes.tiff", "small_HE_levels.tiff", "boxes_0.dcm", "boxes_1.dcm", "kidney-48-5.tif"}


def read_all(path: Path, slide_mpp: float | None = None) -> None:
    with open_slide(path, slide_mpp=slide_mpp) as slide:
        for number, level in enumerate(slide.levels):
            slide.read_level(number, -3, -2, level.width_px + 5, level.height_px + 7)


@pytest.mark.parametrize("name", ODD)
def test_strange_files_open_or_say_why_not_in_one_line(real_data: Path, name: str) -> None:
    path = real_data / "odd-slides" / name
    try:
        read_all(path)
    except SlideError as error:
        message = str(error)
        assert ODD[name] is not None
        assert ODD[name] in message
        assert name in message
        assert "\n" not in message
    else:
        assert ODD[name] is None


@pytest.mark.parametrize("name", ODD)
def test_with_a_resolution_given_the_readable_ones_read(real_data: Path, name: str) -> None:
    path = real_data / "odd-slides" / name
    if name in USABLE:
        read_all(path, slide_mpp=0.499)
    else:
        with pytest.raises(UnreadableSlideError):
            read_all(path, slide_mpp=0.499)


def test_all_strange_files_are_tried(real_data: Path) -> None:
    assert {path.name for path in (real_data / "odd-slides").iterdir()} == set(ODD)


def test_libraries_below_write_nothing_of_their_own(real_data: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom parfocal.slides import open_slide\n"
        "from parfocal.errors import SlideError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n"
        "        with open_slide(path, slide_mpp=0.499) as slide:\n"
        "            slide.read_level(0, 0, 0, slide.width_px, slide.height_px)\n"
        "    except SlideError:\n"
        "        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(real_data / "odd-slides")], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_slide_without_resolution_opens_only_when_that_is_asked_for(real_data: Path) -> None:
    path = real_data / "slides" / "tcga-cr-7395-01a-01-ts1.svs"

    with pytest.raises(CalibrationError, match=r"does not say .*--slide-mpp"):
        open_slide(path)
    with open_slide(path, require_mpp=False) as slide:
        assert slide.calibration is None
        assert slide.read_level(1, 0, 0, 5, 4).shape == (4, 5, 3)
        with pytest.raises(CalibrationError, match="--slide-mpp"):
            _ = slide.mpp
    with open_slide(path, slide_mpp=0.5) as slide:
        assert slide.mpp == 0.5


def test_an_aperio_slide_tells_its_resolution_and_objective(real_data: Path) -> None:
    with open_slide(real_data / "slides" / "cmu-1-small-region.svs") as slide:
        assert (slide.format, slide.mpp, slide.objective_power) == ("aperio", 0.499, 20.0)
        assert slide.calibration is not None
        assert "Aperio" in slide.calibration.source


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlideError, match="no such file"):
        open_slide(tmp_path / "nothing.svs")
    with pytest.raises(UnreadableSlideError, match="it is a folder"):
        open_slide(tmp_path)
