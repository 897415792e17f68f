"""Which files a slide consists of."""

from pathlib import Path

import pytest

from parfocal.slides import slide_files

from .dicom_files import write_dicom


def test_a_slide_of_one_file_is_that_file(tmp_path: Path) -> None:
    for name in ("a.svs", "b.svs", "a/x.dat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")

    assert slide_files(tmp_path / "a.svs") == (tmp_path / "a.svs",)


def test_a_dicom_series_is_all_of_its_files_in_the_folder(tmp_path: Path) -> None:
    names = ["IM_0002", "1.2.840.3", "IM_0001.dcm"]
    mine = sorted(write_dicom(tmp_path / name, "1.2.3") for name in names)
    other = write_dicom(tmp_path / "other.dcm", "1.2.4")
    write_dicom(tmp_path / "below" / "IM_0003", "1.2.3")

    assert {slide_files(path) for path in mine} == {tuple(mine)}
    assert slide_files(other) == (other,)
    later = write_dicom(tmp_path / "later", "1.2.3")
    assert slide_files(mine[0]) == tuple(sorted([*mine, later]))


def test_an_mrxs_slide_is_the_folder_of_its_name_too(tmp_path: Path) -> None:
    files = [tmp_path / "a.mrxs", tmp_path / "a" / "Data0000.dat", tmp_path / "a" / "Slidedat.ini"]
    for path in [*files, tmp_path / "b" / "Data0000.dat"]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0")

    assert slide_files(files[0]) == tuple(sorted(files))


@pytest.mark.parametrize("suffix", [".vms", ".VMU"])
def test_a_hamamatsu_slide_is_what_it_lists(tmp_path: Path, suffix: str) -> None:
    names = ["a.jpg", "a_map2.jpg", "a.opt"]
    for name in [*names, "b.jpg"]:
        (tmp_path / name).write_bytes(b"0")
    path = tmp_path / f"a{suffix}"
    path.write_text(
        "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=a.jpg\r\nMapFile=a_map2.jpg\r\n"
        "OptimisationFile=a.opt\r\nMacroImage=gone.jpg\r\nAuthCode=\r\n"
    )

    assert slide_files(path) == tuple(sorted([path, *(tmp_path / name for name in names)]))
