import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.slides import SlideSource, find_slides
from parfocal.slides.dicom import DicomHeader, read_dicom_header

from .dicom_files import CT_CLASS, SLIDE_CLASS, SYNTAXES, Syntax, write_dicom


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_header_is_read_in_every_transfer_syntax(tmp_path: Path, syntax: Syntax) -> None:
    path = write_dicom(tmp_path / "IM_0001", "1.2.3.4", syntax=syntax)

    assert read_dicom_header(path) == DicomHeader(SLIDE_CLASS, "SM", "1.2.3.4")


@settings(max_examples=50)
@given(st.integers(0, 700), st.sampled_from(sorted(SYNTAXES)), st.binary(max_size=40))
def test_a_header_that_is_cut_or_broken_ends_in_an_answer(
    tmp_path_factory: pytest.TempPathFactory, kept: int, syntax: Syntax, noise: bytes
) -> None:
    path = write_dicom(tmp_path_factory.mktemp("cut") / "x", "1.2.3.4", syntax=syntax)
    path.write_bytes(path.read_bytes()[:kept] + noise)

    header = read_dicom_header(path)
    assert header is None or isinstance(header, DicomHeader)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert read_dicom_header(tmp_path / "pipe") is None
    assert read_dicom_header(tmp_path) is None
    assert read_dicom_header(tmp_path / "absent") is None


NAMES = [
    "IM_0001",
    "1.2.840.113619.2.55.3.2831178355.123",
    "slide.dcm.1",
    "slide.DCM",
    "slide.dcm",
    "slide.ima",
    "2.25.3000_tif",
    "DCM",
]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(NAMES), min_size=1, unique=True), st.data())
def test_a_series_is_one_slide_whatever_its_files_are_called(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("series")
    for name in names:
        write_dicom(folder / name, "1.2.3.4", syntax=data.draw(st.sampled_from(sorted(SYNTAXES))))

    (found,) = find_slides([folder])
    assert found.path.name in names
    # The name that the first file with a suffix had is kept: stores of it exist.
    plain = sorted(name for name in names if name.lower().endswith(".dcm"))
    assert found.slide == (plain[0][:-4] if plain else sorted(names)[0])
    assert [source.slide for source in find_slides([found.path])] == [found.slide]


def test_two_series_in_one_folder_are_two_slides_and_so_are_two_folders_of_one(tmp_path: Path) -> None:
    for name, series in [("1.2.1", "7.1"), ("1.2.2", "7.2"), ("1.2.3", "7.1"), ("IM", "7.2"), ("below/IM", "7.2")]:
        write_dicom(tmp_path / name, series)

    assert [source.slide for source in find_slides([tmp_path])] == ["1.2.1", "1.2.2", "below/IM"]


def test_other_kinds_of_dicom_are_counted_and_only_taken_by_their_suffix(tmp_path: Path) -> None:
    write_dicom(tmp_path / "1.2.1", "7.1")
    write_dicom(tmp_path / "1.2.2", "7.2", sop_class=CT_CLASS, modality="CT")
    write_dicom(tmp_path / "ct.dcm", "7.3", sop_class=CT_CLASS, modality="CT")

    with pytest.warns(ParfocalWarning, match=r"1 file of other kinds .*DICOM of another kind 1"):
        assert [source.slide for source in find_slides([tmp_path])] == ["1.2.1", "ct"]


def test_files_of_one_series_with_two_resolutions_are_refused(tmp_path: Path) -> None:
    write_dicom(tmp_path / "IM_0001", "7.1")
    write_dicom(tmp_path / "IM_0002", "7.1", syntax="implicit")
    table = tmp_path / "slides.csv"
    table.write_text("slide,path,mpp\nIM_0002,IM_0002,0.25\n")

    with pytest.raises(ConfigError, match="one DICOM series"):
        find_slides([tmp_path / "IM_0001", table])
    assert find_slides([table]) == [SlideSource("IM_0002", tmp_path / "IM_0002", 0.25)]
