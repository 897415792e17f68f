"""A slide that is done is kept while its file is the same, and another file in its place is noticed."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from parfocal.embed import EmbeddedSlide, EmbedSettings, create_embedding_set, embed_slide, load_encoders
from parfocal.encoders import TileEncoder
from parfocal.errors import MismatchError, ParfocalWarning, UnreadableSlideError
from parfocal.files import file_fingerprint
from parfocal.slides import SlideSource
from parfocal.store import fingerprint as module
from parfocal.store import open_set
from parfocal.store.fingerprint import fingerprinting, slide_digest, slide_state
from parfocal.store.h5 import write_seal

Embed = Callable[..., EmbeddedSlide]


@pytest.fixture
def embed(tmp_path: Path, small_settings: EmbedSettings) -> Embed:
    settings = small_settings.model_copy(update={"grid": small_settings.grid.model_copy(update={"mpps": (2.0,)})})
    encoders = load_encoders(settings)
    set_path = create_embedding_set(tmp_path / "store", settings, encoders)

    def run(path: Path, *, encoder: TileEncoder | None = None, **changes: object) -> EmbeddedSlide:
        used = encoders if encoder is None else {2.0: encoder}
        return embed_slide(SlideSource("one", path), used, settings.model_copy(update=changes), set_path)

    return run


def index_of(tmp_path: Path) -> Path:
    return next((tmp_path / "store").rglob("index/one.h5"))


def change_a_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 255]))


def set_time(path: Path, ns: int) -> None:
    os.utime(path, ns=(ns, ns))


@pytest.fixture
def never_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def read(*_: object) -> str:
            raise AssertionError("the whole file was read")

        monkeypatch.setattr("parfocal.embed.kept.slide_digest", read)

    return forbid


def test_the_same_size_and_time_are_the_same_file_without_reading_it(make_slide, embed: Embed, never_read) -> None:
    path = make_slide()
    embed(path)
    never_read()

    assert embed(path).kept


def test_a_file_of_another_time_is_kept_where_every_byte_is_the_same(make_slide, embed: Embed) -> None:
    path = make_slide()
    embed(path)
    set_time(path, 10**18)

    assert embed(path).kept


def test_a_good_copy_over_a_bad_one_is_noticed(tmp_path: Path, make_slide, embed: Embed, never_read) -> None:
    path = make_slide()
    with path.open("ab") as file:
        file.write(b"0" * (3 << 20))
    embed(path)
    before = file_fingerprint(path), path.stat().st_size
    change_a_byte(path, at=path.stat().st_size // 2)
    assert (file_fingerprint(path), path.stat().st_size) == before  # what used to decide sees nothing
    set_time(path, 10**18)

    with pytest.raises(MismatchError, match=r"another file .* Remove .*index/one\.h5 to embed it anew"):
        embed(path)
    never_read()
    assert embed(path, trust_times=True).kept
    index_of(tmp_path).unlink()
    assert not embed(path).kept


def test_another_size_is_another_file_whatever_is_trusted(make_slide, embed: Embed, never_read) -> None:
    path = make_slide()
    embed(path)
    with path.open("ab") as file:
        file.write(b"\0")
    never_read()

    for trust in (False, True):
        with pytest.raises(MismatchError, match="another file"):
            embed(path, trust_times=trust)


def test_a_slide_that_moved_is_kept_and_one_that_is_gone_too(make_slide, embed: Embed) -> None:
    path = make_slide()
    embed(path)
    moved = path.with_name("elsewhere.tif")
    shutil.move(path, moved)

    assert embed(moved).kept
    assert embed(path).kept


def test_a_slide_that_changes_while_it_is_embedded_fails_and_leaves_nothing(
    tmp_path: Path, make_slide, embed: Embed, small_settings: EmbedSettings
) -> None:
    path = make_slide()
    encoder = next(iter(load_encoders(small_settings).values()))
    threads = threading.active_count()

    with pytest.raises(UnreadableSlideError, match=r"one\.tif: the file changed while it was read"):
        embed(path, encoder=_Touching(encoder, path))

    assert not list((tmp_path / "store").rglob("*.h5"))
    assert threading.active_count() == threads


class _Touching(TileEncoder):
    """An encoder that meets a file which somebody writes to."""

    def __init__(self, encoder: TileEncoder, path: Path) -> None:
        self.encoder, self.path = encoder, path
        self.name, self.spec, self.dim, self.tile_px = "toy", "toy", encoder.dim, encoder.tile_px
        self.trained_mpps, self.symmetry = None, encoder.symmetry

    def describe(self) -> dict[str, object]:
        return {}

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        set_time(self.path, self.path.stat().st_mtime_ns + 10**9)
        return self.encoder.encode(tiles)


def test_a_store_of_an_older_version_is_checked_as_it_was_and_says_so(tmp_path: Path, make_slide, embed: Embed) -> None:
    path = make_slide()
    embed(path)
    with h5py.File(index_of(tmp_path), "r+") as index:
        index.attrs["slide_fingerprint"] = file_fingerprint(path)
        for name in ("slide_sizes", "slide_times"):
            del index.attrs[name]
    write_seal(index_of(tmp_path))
    set_time(path, 10**18)

    with pytest.warns(ParfocalWarning, match="older version.*first and its last MiB"):
        assert embed(path).kept
    change_a_byte(path, at=100)
    with pytest.raises(MismatchError, match="another file"):
        embed(path)


def test_the_digest_of_the_whole_file_is_stored_with_the_rows(tmp_path: Path, make_slide, embed: Embed) -> None:
    path = make_slide()
    embed(path)
    store = open_set(tmp_path / "store")

    assert store.attributes("one")["slide_fingerprint"] == slide_digest(path)
    with h5py.File(store.path / "2" / "one.h5") as file:
        assert file.attrs["slide_fingerprint"] == slide_digest(path)


@pytest.mark.parametrize("suffix", [".mrxs", ".tif"])
def test_all_files_of_a_slide_count(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"head")
    beside = tmp_path / "a" / "Data0000.dat"
    beside.parent.mkdir()
    beside.write_bytes(b"pixels")
    before = slide_state(path), slide_digest(path)
    beside.write_bytes(b"pixelz")

    assert ((slide_state(path), slide_digest(path)) != before) == (suffix == ".mrxs")


def test_the_digest_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that fails does not wait for gigabytes."""
    (tmp_path / "a.tif").write_bytes(b"0123456789")
    started, calls = threading.Event(), []
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)

    def slow(path: Path, stop: Callable[[], bool]) -> str:
        started.set()
        while not stop():
            calls.append(1)
        return "sha256-none"

    monkeypatch.setattr(module, "slide_digest", slow)
    threads = threading.active_count()
    with pytest.raises(KeyError), fingerprinting(tmp_path / "a.tif"):  # noqa: PT012
        started.wait()
        raise KeyError

    assert threading.active_count() == threads


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlideError, match=r"gone\.tif: No such file"):
        slide_state(tmp_path / "gone.tif")
    with pytest.raises(UnreadableSlideError, match=r"gone\.tif: No such file"):
        slide_digest(tmp_path / "gone.tif")
