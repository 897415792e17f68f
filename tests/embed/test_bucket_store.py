"""A store in a bucket: written slide by slide, read by another machine, and dataset by dataset that of a disk."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from parfocal.cli import main
from parfocal.embed import EmbedSettings, Zoom, embed_slides
from parfocal.errors import ConfigError, StoreError
from parfocal.slides import remote
from parfocal.store import EmbeddingSet, open_set, read_status
from parfocal.store.mirror import Mirror, publish
from parfocal.zoom import POLICIES

from ..slides.bucket import serving_bucket

Same = Callable[[EmbeddingSet, EmbeddingSet], None]
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with serving_bucket("stores") as files:
        yield files


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to another machine, which has mirrors of its own; what comes back is where they lie."""
    monkeypatch.setattr(remote, "_WAITS", ())

    def go(name: str) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / name))
        return tmp_path / name / ".cache" / "parfocal" / "stores"

    return go


@pytest.fixture
def settings(small_settings: EmbedSettings) -> EmbedSettings:
    return small_settings.model_copy(update={"grid": small_settings.grid.model_copy(update={"mpps": (2.0, 1.0)})})


def names(bucket: Any, store: str) -> set[str]:
    bucket.invalidate_cache()
    return {name.split("/", 3)[-1] for name in bucket.find(f"stores/{store}")}


def features(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.rglob("*.h5") if one.parent.name != "index")


def test_a_store_in_a_bucket_is_that_of_a_disk_and_another_machine_reads_and_continues_it(
    bucket: Any, machine: Callable[[str], Path], make_slide: Callable[..., Path], settings: EmbedSettings,
    tmp_path: Path, assert_same: Same, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    slides = [make_slide("a.tif", seed=1), make_slide("b.tif", seed=2)]
    broken = tmp_path / "slides" / "broken.tif"
    broken.write_bytes(b"no slide")
    embed_slides(slides, tmp_path / "local", settings)
    here = machine("first")

    found = embed_slides([slides[0], broken], Path("s3://stores/cohort"), settings)

    assert [one.slide for one in found.done] == ["a"]
    assert {"index/a.h5", "1/a.h5", "2/a.h5", "settings.json"} <= names(bucket, "cohort")
    assert not features(here)  # they are in the bucket

    there = machine("second")
    again = embed_slides(slides, Path("s3://stores/cohort"), settings.model_copy(update={"workers": 1}))
    assert [one.kept for one in again.done] == [True, False]
    assert not features(there)
    stored = open_set("s3://stores/cohort")
    assert stored.slides == ("a", "b")
    stored.read("b")
    assert features(there) == ["b.h5", "b.h5"]  # of two magnifications, as they are asked for
    stored.read("a")
    assert_same(open_set(tmp_path / "local"), stored)

    machine("third")
    status = read_status("s3://stores/cohort", [*slides, broken])
    (one,) = status.sets
    assert (one.done, dict(one.failed), one.missing) == (("a", "b"), {"UnreadableSlideError": ("broken",)}, ())
    n_bytes = sum(info["size"] for name, info in bucket.find("stores/cohort", detail=True).items() if ".h5" in name)
    assert n_bytes <= one.bytes < n_bytes + 5000
    assert main(["status", "s3://stores/cohort"]) == 3
    assert "done: 2    failed: 1" in capsys.readouterr().out


def test_the_index_comes_last_and_what_was_not_uploaded_is_uploaded_by_the_next_run(
    bucket: Any, machine: Callable[[str], Path], make_slide: Callable[..., Path], settings: EmbedSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    slide, store = make_slide("a.tif", seed=1), Path("s3://stores/broken-off")
    machine("first")
    put, sent, is_closed = bucket.put_file, list[str](), True

    def falters(path: str, address: str) -> None:
        if is_closed and "/1/" in address:
            raise PermissionError("the bucket is closed")
        sent.append(address)
        put(path, address)

    monkeypatch.setattr(bucket, "put_file", falters)
    (failed,) = embed_slides([slide], store, settings).failed
    assert failed.message.startswith("cannot write to s3://stores/broken-off/")
    assert "access is denied" in failed.message
    assert not any("index/" in name for name in names(bucket, "broken-off"))

    is_closed = False
    sent.clear()
    (done,) = embed_slides([slide], store, settings).done
    assert done.kept
    written = ["/".join(name.split("/")[-2:]) for name in sent if name.endswith(".h5")]
    assert sorted(written[:-1]) == ["1/a.h5", "2/a.h5"]
    assert written[-1] == "index/a.h5"
    machine("second")
    assert open_set(store).read("a").n_regions == done.n_regions


def test_a_slide_that_gets_more_of_it_read_replaces_itself_in_the_bucket(
    bucket: Any, machine: Callable[[str], Path], scans: Path, small_settings: EmbedSettings, tmp_path: Path,
    assert_same: Same,
) -> None:  # fmt: skip
    settings, store = small_settings.model_copy(update={"coarse": "native"}), Path("s3://stores/grown")
    few, more = (Zoom("stride", lambda: POLICIES.get("stride"), budget) for budget in (0.25, 0.75))
    embed_slides([scans / "a.tif"], tmp_path / "local", settings, zoom=more)
    machine("first")
    embed_slides([scans / "a.tif"], store, settings, zoom=few)
    early = open_set(store)
    before = early.n_rows("a")
    machine("second")

    embed_slides([scans / "a.tif"], store, settings, zoom=more)

    machine("first")
    late = open_set(store)
    assert late.read("a").features[0.5].shape[0] > before[0.5]
    assert_same(open_set(tmp_path / "local"), late)


def test_a_slide_that_somebody_removed_is_done_anew(
    bucket: Any, machine: Callable[[str], Path], make_slide: Callable[..., Path], settings: EmbedSettings
) -> None:
    slide, store = make_slide("a.tif", seed=1), Path("s3://stores/removed")
    machine("first")
    found = embed_slides([slide], store, settings)
    bucket.rm(f"stores/removed/{found.set_path.name}/index/a.h5")

    assert not embed_slides([slide], store, settings).done[0].kept
    assert open_set(store).slides == ("a",)


def test_of_two_machines_that_did_one_slide_the_first_one_counts(
    bucket: Any,
    machine: Callable[[str], Path],
    make_slide: Callable[..., Path],
    settings: EmbedSettings,
    tmp_path: Path,
) -> None:
    slide, store = make_slide("a.tif", seed=1), Path("s3://stores/twice")
    machine("first")
    embed_slides([slide], store, settings)
    sent = bucket.find("stores/twice", detail=True)
    own = embed_slides([slide], tmp_path / "own", settings).set_path
    machine("second")
    mirror = Mirror.of("s3://stores/twice")
    shutil.copytree(own, mirror.folder / own.name)  # done here, before anything was known of the bucket

    publish(mirror.folder / own.name, "a")

    bucket.invalidate_cache()
    assert bucket.find("stores/twice", detail=True) == sent
    assert not features(mirror.folder)
    assert open_set(store).read("a").n_regions


def test_an_object_whose_name_leads_out_of_the_store_is_not_fetched(
    bucket: Any, machine: Callable[[str], Path], make_slide: Callable[..., Path], settings: EmbedSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store, mirrors = Path("s3://stores/crafted"), machine("first")
    embed_slides([make_slide("a.tif", seed=1)], store, settings)
    find = bucket.find

    def crafted(path: str, **more: Any) -> Any:
        found = find(path, **more)
        index = next(name for name in found if "/index/" in name)
        return {**found, index.replace("/a.h5", "/../../../evil.h5"): found[index]}

    monkeypatch.setattr(bucket, "find", crafted)

    assert open_set(store).slides == ("a",)
    assert not list(mirrors.rglob("evil*"))


def test_what_cannot_be_a_store_is_refused_in_one_line(
    bucket: Any,
    machine: Callable[[str], Path],
    make_slide: Callable[..., Path],
    settings: EmbedSettings,
    tmp_path: Path,
) -> None:
    slide = make_slide()
    machine("first")

    with pytest.raises(StoreError, match=r"s3://stores/nothing holds no embeddings"):
        open_set("s3://stores/nothing")
    with pytest.raises(ConfigError, match=r"added from a disk to a disk, and s3://stores/more is in a bucket"):
        embed_slides([slide], Path("s3://stores/more"), settings.model_copy(update={"add_to": tmp_path}))
