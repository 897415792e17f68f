"""Slides on a web server are embedded as those of the disk, and an object that changed is never taken for another."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import StoreError
from parfocal.files import writable_folder
from parfocal.slides import remote
from parfocal.store import EmbeddingSet, open_set

from ..slides.web import Web, serving

pytest.importorskip("aiohttp", reason="reading over http needs aiohttp (the extra `cloud`)")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "_WAITS", (0.0,))
    (tmp_path / "slides").mkdir()
    with serving(tmp_path / "slides") as web:
        yield web


def test_rows_are_those_of_the_local_file_and_a_change_is_noticed(
    tmp_path: Path,
    make_slide: Callable[..., Path],
    small_settings: EmbedSettings,
    web: Web,
    assert_same: Callable[[EmbeddingSet, EmbeddingSet], None],
) -> None:
    settings = small_settings.model_copy(update={"grid": small_settings.grid.model_copy(update={"mpps": (2.0,)})})
    path = make_slide()
    address, absent = f"{web.address}/one.tif", f"{web.address}/absent.svs"
    local = embed_slides([path], tmp_path / "local", settings)

    first = embed_slides([address, absent], tmp_path / "store", settings)

    assert [(one.slide, one.message.split(": ", 1)[-1]) for one in first.failed] == [
        ("absent", "there is no such file.")
    ]
    stored = open_set(tmp_path / "store")
    assert stored.attributes("one")["slide_path"] == address
    assert_same(open_set(tmp_path / "local"), stored)

    before = len(web.ranges)
    again = embed_slides([address], tmp_path / "store", settings)
    assert again.done[0].kept
    assert len(web.ranges) == before
    # From the disk to the web the bytes decide; the other way round nobody has read them all.
    assert embed_slides([address], tmp_path / "local", settings).done[0].kept
    assert "another file" in embed_slides([path], tmp_path / "store", settings).failed[0].message
    trusting = settings.model_copy(update={"trust_times": True})
    assert embed_slides([path], tmp_path / "store", trusting).done[0].kept

    make_slide(seed=1)
    changed = embed_slides([address], tmp_path / "store", settings)
    assert f"{address} is another file than the one that was embedded" in changed.failed[0].message
    assert local.done[0].n_regions > 0


def test_what_is_written_to_an_address_is_refused_and_makes_no_folder(
    make_slide: Callable[..., Path], small_settings: EmbedSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make_slide()

    with pytest.raises(StoreError, match=r"cannot use https://host/store as a store: a web server cannot be listed"):
        embed_slides([path], Path("https://host/store"), small_settings)
    with pytest.raises(StoreError, match=r"cannot use https://host/store as a store: a web server cannot be listed"):
        open_set("https://host/store")
    with pytest.raises(StoreError, match=r"cannot write to s3://bucket/out: results are written to a disk only"):
        writable_folder(Path("s3://bucket/out"))
    assert [one.name for one in tmp_path.iterdir()] == ["slides"]
