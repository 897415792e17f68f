"""Slides on a web server: the same pixels as from the disk, few bytes, and one line for whatever goes wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from parfocal.addresses import address_of, below, shown_path
from parfocal.errors import ConfigError, UnreadableSlideError
from parfocal.slides import find_slides, open_slide, read_manifest, remote, slide_exists
from parfocal.slides.on_disk import check_openable, path_problem

from .web import Web, serving

pytest.importorskip("aiohttp", reason="reading over http needs aiohttp (the extra `cloud`)")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))
    with serving(tmp_path) as web:
        yield web


@pytest.fixture
def noise() -> np.ndarray:
    """RGB that no codec makes small, 1403 rows of 2131 columns."""
    return np.random.default_rng(0).integers(0, 255, (1403, 2131, 3), np.uint8)


def test_an_address_is_known_as_a_path_and_as_text() -> None:
    for text in ("s3://bucket/a/b.svs", "gs://b/c.tif", "https://host:8/x.svs", "http://h/x.svs"):
        assert address_of(text) == address_of(Path(text)) == shown_path(Path(text)) == text
        assert below(Path("/folder"), text) == Path(text)
    assert address_of("/s3:/bucket/a.svs") is None
    assert address_of("C:/scans/a.svs") is None
    assert below(Path("/folder"), "a.svs") == Path("/folder/a.svs")


def test_pixels_are_those_of_the_local_file_and_only_their_bytes_are_read(
    write_tiff: Callable[..., Path], web: Web, noise: np.ndarray
) -> None:
    path = write_tiff(noise, levels=3)

    with open_slide(path) as local, open_slide(f"{web.address}/{path.name}") as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 2.0, 4.0]
        assert slide.mpp == local.mpp
        opened = web.n_bytes
        for level, window in ((0, (301, 211, 333, 222)), (1, (-7, 100, 90, 50)), (2, (400, 300, 200, 200))):
            assert np.array_equal(slide.read_level(level, *window), local.read_level(level, *window))
        # Six tiles by six of 9,216 bytes are needed of level 0, in whole blocks.
        assert 0 < web.n_bytes - opened < path.stat().st_size / 3
        assert opened < 5 * remote.BLOCK_BYTES


def test_a_row_of_tiles_is_one_request_and_nothing_comes_twice(
    write_tiff: Callable[..., Path], web: Web, noise: np.ndarray
) -> None:
    path = write_tiff(noise)
    with open_slide(f"{web.address}/{path.name}") as slide:
        before = len(web.ranges)
        slide.read_level(0, 0, 480, 2131, 48)  # 34 tiles, 313,344 bytes
        assert len(web.ranges) == before + 1

        slide.read_level(0, 100, 480, 500, 48)
        assert len(web.ranges) == before + 1
        slide.read_level(0, 0, 0, 2131, 1403)

    blocks = [n for start, end in web.ranges for n in range(start // remote.BLOCK_BYTES, -(-end // remote.BLOCK_BYTES))]
    assert len(blocks) == len(set(blocks))
    assert web.n_bytes == path.stat().st_size


@pytest.mark.parametrize(("status", "why"), [(404, "there is no such file"), (403, "access is denied"), (500, "500")])
def test_what_the_server_refuses_is_one_line(
    write_tiff: Callable[..., Path], web: Web, pixels: np.ndarray, status: int, why: str
) -> None:
    web.answers["made.tif"] = status
    write_tiff(pixels)

    with pytest.raises(UnreadableSlideError, match=rf"^cannot read {web.address}/made.tif: .*{why}") as told:
        open_slide(f"{web.address}/made.tif")

    assert "\n" not in str(told.value)
    assert type(told.value) is UnreadableSlideError


def test_nobody_at_home_is_one_line(web: Web) -> None:
    with pytest.raises(UnreadableSlideError, match=r"the server cannot be reached"):
        open_slide("http://127.0.0.1:1/made.tif")


def test_a_server_without_ranges_or_tags_is_refused_before_the_file_comes(
    write_tiff: Callable[..., Path], web: Web, noise: np.ndarray
) -> None:
    address = f"{web.address}/{write_tiff(noise).name}"
    web.with_ranges = False
    with pytest.raises(UnreadableSlideError, match=r"no ranges of bytes. Copy it first"), open_slide(address) as slide:
        slide.read_level(0, 1000, 700, 300, 300)
    web.with_ranges, web.with_tags = True, False
    with pytest.raises(UnreadableSlideError, match=r"neither an ETag nor"):
        open_slide(address)


def test_a_request_that_is_lost_is_sent_again(write_tiff: Callable[..., Path], web: Web, pixels: np.ndarray) -> None:
    path = write_tiff(pixels)
    web.lost = 2

    with open_slide(f"{web.address}/{path.name}") as slide:
        assert np.array_equal(slide.read_level(0, 0, 0, 331, 203), pixels)


def test_a_file_that_changes_while_it_is_read_is_refused(
    write_tiff: Callable[..., Path], web: Web, noise: np.ndarray
) -> None:
    path = write_tiff(noise)
    with open_slide(f"{web.address}/{path.name}") as slide:
        write_tiff(noise[::-1])
        with pytest.raises(UnreadableSlideError, match=r"the file changed while it was read"):
            slide.read_level(0, 0, 700, 300, 300)


def test_other_formats_are_copied_first(web: Web, tmp_path: Path, write_tiff, pixels: np.ndarray) -> None:
    (tmp_path / "scan.svs").write_bytes(b"no slide" * 4000)
    write_tiff(pixels, "strips.tif", tile=None, rowsperstrip=9)
    (tmp_path / "empty.svs").touch()

    for name in ("scan.svs", "strips.tif"):
        with pytest.raises(UnreadableSlideError, match=r"other formats can be read from a disk only; copy it first"):
            open_slide(f"{web.address}/{name}")
    with pytest.raises(UnreadableSlideError, match=r"it is empty"):
        open_slide(f"{web.address}/empty.svs")


def test_what_needs_a_disk_says_so_and_what_asks_for_a_file_gets_a_reason(web: Web, write_tiff, pixels) -> None:
    address = Path(f"{web.address}/{write_tiff(pixels).name}")

    assert path_problem(address) is None
    assert path_problem(address.with_name("absent.tif")) == "it cannot be reached (there is no such file)"
    assert slide_exists(address)
    assert not slide_exists(address.with_name("absent.tif"))
    with pytest.raises(
        UnreadableSlideError, match=r"^cannot open http://\S+: it can be read from a disk only; copy it"
    ):
        check_openable(address)


def test_addresses_are_slides_by_themselves_and_in_manifests(tmp_path: Path) -> None:
    manifest = tmp_path / "slides.csv"
    manifest.write_text("slide,path\na,s3://bucket/x/1.svs\nb,https://host/2.svs\nc,3.svs\n")

    assert [shown_path(one.path) for one in read_manifest(manifest)] == [
        "s3://bucket/x/1.svs",
        "https://host/2.svs",
        str(tmp_path / "3.svs"),
    ]
    found = find_slides(["https://host/scans/case1.svs", "s3://bucket/scans/case2.ome.tif"])
    assert [one.slide for one in found] == ["case1", "case2.ome"]
    with pytest.raises(ConfigError, match=r"two slides have the id 'case1'"):
        find_slides(["https://host/scans/case1.svs", "s3://bucket/case1.svs"])
    for wrong, why in (
        ("https://host", "expected is an address such as"),
        ("https://host/a.svs?key=1", "signature"),
        ("https://me:secret@host/a.svs", "a name or a password"),
    ):
        with pytest.raises(ConfigError, match=why):
            find_slides([wrong])
        manifest.write_text(f"slide,path\na,{wrong}\n")
        with pytest.raises(ConfigError, match=f"line 2: .*{why}"):
            read_manifest(manifest)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", absent)
    with pytest.raises(UnreadableSlideError, match=r"the package s3fs is not installed. Install .*parfocal\[cloud\]"):
        open_slide("s3://bucket/a.svs")
