import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.slides import open_slide
from parfocal.slides.dicom import dicom_spacings


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def write_level(path: Path, series: str, size: tuple[int, int], spacing: str | None) -> None:
    data = bytes(128) + b"DICM" + element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    data += element(8, 0x60, b"CS", b"SM") + element(0x20, 0xE, b"UI", series.encode())
    if spacing is not None:
        data += element(0x28, 0x30, b"DS", spacing.encode())
    data += element(0x48, 6, b"UL", struct.pack("<I", size[0])) + element(0x48, 7, b"UL", struct.pack("<I", size[1]))
    path.write_bytes(data + bytes(3000))


@given(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True), st.integers(10, 5000), st.integers(10, 5000))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_level_of_the_series_has_its_own_spacing(
    tmp_path: Path, steps: list[int], width: int, height: int
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    expected = {}
    for number, step in enumerate(steps):
        size = (width * 64 // step, height * 64 // step)
        write_level(tmp_path / f"IM_{number}", "1.2.3", size, rf"{step * 0.00025:.8g}\{step * 0.00025:.8g}")
        expected[size] = pytest.approx(step * 0.00025)
    write_level(tmp_path / "other", "1.2.4", (7, 7), r"0.1\0.1")
    write_level(tmp_path / "silent", "1.2.3", (9, 9), None)
    write_level(tmp_path / "oblong", "1.2.3", (8, 8), r"0.1\0.2")

    assert dicom_spacings(tmp_path / "IM_0") == expected


def test_other_files_have_no_spacing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("nothing")
    assert dicom_spacings(tmp_path / "text") == {}


def test_the_spacings_of_a_real_series_are_its_ratios(real_data: Path) -> None:
    path = real_data / "cases" / "24-dicom-names" / "no-suffix" / "IM_0001"
    with open_slide(path) as slide:
        spacings = dicom_spacings(path)
        assert [spacings[level.width_px, level.height_px] * 1000 / level.downsample for level in slide.levels] == [
            pytest.approx(slide.mpp)
        ] * len(slide.levels)
