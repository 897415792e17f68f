"""Several runs share a folder of slides and write to one store, and it becomes that of one run."""

import signal
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from parfocal import read_status
from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, Zoom, embed_slides
from parfocal.errors import ConfigError, StoreError
from parfocal.run.records import read_records
from parfocal.run.shards import Shard

from ..run import fresh

NAMES = [f"s{number}" for number in range(7)]
SETTINGS = EmbedSettings(
    grid=GridConfig(region_um=64.0, tile_px=32, mpps=(2.0, 1.0)), encoder="filterbank,tile_px=32", qc=False
)


def draw_slide(path: Path, number: int) -> None:
    """Purple speckle on glass, of another width for each slide, so that no two have the same rows."""
    noise = np.random.default_rng(number).normal(size=(330, 410 + 30 * number)).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), 3)
    pixels = np.full((*noise.shape, 3), 243, np.uint8)
    stained = np.clip(np.array((190, 120, 175)) - 35 * (speckle / speckle.std())[..., None], 0, 255).astype(np.uint8)
    pixels[20:300, 30:380] = stained[20:300, 30:380]
    resolution = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="zlib", **resolution)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven slides, a file that is none, and the store of one run over all of them."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "scans").mkdir()
    for number, name in enumerate(NAMES):
        draw_slide(folder / "scans" / f"{name}.tif", number)
    (folder / "scans" / "odd.svs").write_bytes(b"no slide")
    embed_slides([folder / "scans"], folder / "single", SETTINGS)
    return folder


# The runs are forks of one process, which has imported everything before they begin; it prints their statuses.
SHARDS = textwrap.dedent(
    """
    import os, signal, sys, warnings
    from pathlib import Path
    from parfocal.embed import EmbedSettings, embed_slides
    from parfocal.store.write import SlideWriter

    scans, store, settings, killed = sys.argv[1:]
    warnings.simplefilter("ignore")
    waiting, go = os.pipe()
    shards = {}
    for number in range(4):
        if not (shard := os.fork()):
            break
        shards[shard] = number
    else:
        os.close(waiting)
        os.close(go)  # all of them are there, and begin at once
        ended = dict(os.wait() for _ in shards)
        print(*(os.waitstatus_to_exitcode(ended[shard]) for shard in shards))
        raise SystemExit(0)
    os.close(go)
    os.read(waiting, 1)
    if number == int(killed):
        SlideWriter.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    settings = EmbedSettings.model_validate_json(settings).model_copy(update={"shard": f"{number}/4"})
    embed_slides([Path(scans)], Path(store), settings)
    """
)


def test_four_shards_at_once_of_which_one_is_killed_and_a_rerun_make_the_store_of_one_run(
    folder: Path, tmp_path: Path, content: Callable[[Path], dict[str, object]]
) -> None:
    store, killed = tmp_path / "store", next(n for n in range(4) if sum(map(Shard(n, 4).holds, NAMES)) >= 2)
    call = [sys.executable, "-c", SHARDS, folder / "scans", store, SETTINGS.model_dump_json(), str(killed)]
    said = fresh.run(call, capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(-signal.SIGKILL) if n == killed else "0" for n in range(4)]

    lost = tuple(name for name in NAMES if Shard(killed, 4).holds(name))
    (before,) = read_status(store, [folder / "scans"]).sets
    assert set(before.missing) - {"odd"} == set(lost)
    assert set(read_status(store).sets[0].missing) == set(before.missing)  # the killed run had said what it was given
    embed_slides([folder / "scans"], store, SETTINGS.model_copy(update={"shard": f"{killed}/4"}))

    (single,), (joined,) = ([path.parent for path in one.glob("*/settings.json")] for one in (folder / "single", store))
    assert content(joined) == content(single)
    (after,) = read_status(store, [folder / "scans"]).sets
    assert (after.done, dict(after.failed), after.missing) == (tuple(NAMES), {"UnreadableSlideError": ("odd",)}, ())
    assert not list(store.rglob(".*"))


def test_a_record_of_each_slide_agrees_with_the_store_and_a_second_run_keeps(folder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"shard": "0/2"})
    own = {name for name in NAMES if Shard(0, 2).holds(name)}
    summaries = [embed_slides([folder / "scans"], tmp_path, settings) for _ in range(2)]

    found, damaged = read_records(tmp_path / "run.jsonl")
    assert damaged == 0
    by_status = {
        status: {one.slide for one in found if one.status == status and one.slide != "odd"}
        for status in ("given", "done", "kept")
    }
    assert by_status == {"given": own, "done": own, "kept": own}
    done = {one.slide: one for one in found if one.status == "done"}
    for one in summaries[0].done:
        record = done[one.slide]
        files = list(summaries[0].set_path.rglob(f"{one.slide}.h5"))
        assert record.tiles == sum(one.n_tiles.values())
        assert record.bytes == sum(file.stat().st_size for file in files)
        assert record.seconds == pytest.approx(one.seconds, abs=1e-3)
        assert (record.shard, record.sets) == ("0/2", (summaries[0].set_path.name,))

    (status,) = read_status(tmp_path, [folder / "scans" / f"{name}.tif" for name in sorted(own)[:1]]).sets
    assert (len(status.done), status.missing) == (1, ())
    assert status.rate is not None
    assert status.rate.slides == len(own)
    assert status.rate.tiles == sum(one.tiles or 0 for one in done.values())


def test_a_shard_without_a_slide_is_done_at_once(folder: Path, tmp_path: Path) -> None:
    empty = next(n for n in range(100) if not any(map(Shard(n, 100).holds, [*NAMES, "odd"])))

    summary = embed_slides([folder / "scans"], tmp_path, SETTINGS.model_copy(update={"shard": f"{empty}/100"}))

    assert (summary.outcomes, summary.exit_status) == ((), 0)


def test_a_budget_of_all_slides_together_is_of_no_shard(folder: Path, tmp_path: Path) -> None:
    zoom = Zoom("random", lambda: lambda glance: glance.order, 0.5)
    settings = SETTINGS.model_copy(update={"shard": "0/2"})

    with pytest.raises(ConfigError, match="needs all slides in one run"):
        embed_slides([folder / "scans"], tmp_path, settings, zoom=replace(zoom, shares={}))


def test_the_status_of_what_is_no_store_is_refused_in_a_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreError, match=r"is no store|no such store"):
            read_status(path)


def test_the_status_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "single").rglob("*")}

    (status,) = read_status(folder / "single").sets

    assert {path: path.stat().st_mtime_ns for path in (folder / "single").rglob("*")} == before
    assert status.bytes == sum(
        path.stat().st_size for path in (folder / "single" / status.name).rglob("*") if path.is_file()
    )
