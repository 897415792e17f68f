"""Many slides: one that fails does not stop the rest, and whatever ends a run, the next one completes the store."""

import csv
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from parfocal.embeddings import (
    EmbedSettings,
    EmbedSummary,
    FailedSlide,
    Notice,
    RunProgress,
    RunStarted,
    SlideFinished,
    TilesDone,
    embed_slides,
    estimate_run,
    estimate_table,
    open_set,
    read_failures,
    summary_table,
)
from parfocal.errors import ConfigError

# Attributes that hold places or times, and differ between two stores of one content.
PLACES = {"savetodir", "slide_path"}


def content(set_path: Path) -> dict[str, object]:
    """Every dataset and attribute of a set, by file and name."""
    found: dict[str, object] = {}
    for file in sorted(set_path.rglob("*.h5")):
        name = file.relative_to(set_path).as_posix()
        with h5py.File(file) as opened:

            def visit(path: str, item: h5py.HLObject, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    found[f"{name}:{path}"] = (item.shape, item.dtype.str, item.chunks, item[()].tobytes())
                for key, value in item.attrs.items():
                    if key not in PLACES:
                        found[f"{name}:{path}@{key}"] = str(value)

            visit("/", opened)
            opened.visititems(visit)
    return found


def test_a_broken_slide_is_one_row_and_the_rest_goes_on(
    tmp_path: Path, real_data: Path, make_slide, small_settings: EmbedSettings
) -> None:
    good = make_slide("good.tif")
    odd = sorted(path for path in (real_data / "odd-slides").iterdir() if path.suffix != ".md")
    store, events = tmp_path / "store", []

    alone = embed_slides([good], tmp_path / "alone", small_settings)
    summary = embed_slides([good, *odd], store, small_settings, on_event=events.append)

    assert {one.slide for one in summary.failed} >= {"broken", "unreadable", "unopenable", "boxes", "small_HE_levels"}
    assert "good" in {one.slide for one in summary.done}
    assert summary.exit_status == 3
    for failed in summary.failed:
        assert "\n" not in failed.message
        assert failed.error in {"UnreadableSlideError", "CalibrationError", "ResolutionError"}, failed
    rows = read_failures(store)
    assert {row.slide for row in rows} == {one.slide for one in summary.failed}
    assert all(row.path and row.message and row.time for row in rows)
    mine = {name: value for name, value in content(summary.set_path).items() if "/good.h5" in name}
    assert mine == content(alone.set_path)
    assert [event for event in events if isinstance(event, RunStarted)] == [
        RunStarted(summary.set_path, len(summary.outcomes))
    ]
    assert len([event for event in events if isinstance(event, SlideFinished)]) == len(summary.outcomes)
    log = summary.log.read_text()
    assert "done good" in log
    assert "failed broken: UnreadableSlideError" in log


def test_a_slide_that_is_mended_leaves_the_table_of_failures(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    make_slide("good.tif")
    unknown = make_slide("unknown.tif", mpp=None)
    store = tmp_path / "store"

    first = embed_slides([tmp_path / "slides"], store, small_settings)
    assert first.exit_status == 3
    assert [row.slide for row in read_failures(store)] == ["unknown"]
    with (store / "failures.csv").open() as text:
        assert next(csv.reader(text)) == ["slide", "path", "error", "message", "time", "set"]
    assert "--slide-mpp" in read_failures(store)[0].message

    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"slide,path,mpp\ngood,slides/good.tif,\nunknown,{unknown},0.5\n")
    second = embed_slides([manifest], store, small_settings)

    assert second.exit_status == 0
    assert [one.kept for one in second.done] == [True, False]
    assert not (store / "failures.csv").exists()
    assert open_set(store).slides == ("good", "unknown")
    assert open_set(store).read("unknown").slide_mpp == 0.5


def test_nothing_done_is_status_1_and_glass_is_done(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    unknown, glass = make_slide("unknown.tif", mpp=None), make_slide("glass.tif", tissue=False)

    assert embed_slides([unknown], tmp_path / "a", small_settings).exit_status == 1
    done = embed_slides([glass], tmp_path / "b", small_settings)

    assert done.exit_status == 0
    assert done.describe()["slides"][0]["status"] == "done (no tissue)"


def test_two_slides_of_one_name_are_refused(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    slides = [make_slide("a/one.tif"), make_slide("b/one.tif", seed=1)]

    with pytest.raises(ConfigError, match="'one'"):
        embed_slides(slides, tmp_path / "store", small_settings)
    summary = embed_slides([tmp_path / "slides"], tmp_path / "store", small_settings)
    assert open_set(summary.set_path).slides == ("a/one", "b/one")


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from parfocal.config import GridConfig
    from parfocal.embeddings import EmbedSettings, embed_slides

    if __name__ == "__main__":
        grid = GridConfig(region_um=128.0, tile_px=64)
        settings = EmbedSettings(
            grid=grid, encoder="filterbank,tile_px=64", batch=10, dtype="float32", workers=int(sys.argv[3])
        )
        embed_slides([Path(sys.argv[1])], Path(sys.argv[2]), settings)
    """
)


def start(tmp_path: Path, store: Path, workers: int = 1) -> subprocess.Popen:
    script = tmp_path / "embed.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "slides"), str(store), str(workers)]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for(pattern: str, store: Path, process: subprocess.Popen) -> None:
    """Until a file of the store has this name, or the run is over."""
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(store.glob(pattern)):
        assert time.monotonic() < deadline, "the run does not begin"
        time.sleep(0.01)


def test_a_killed_run_is_completed_by_the_next_one(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number)
    whole = embed_slides([tmp_path / "slides"], tmp_path / "whole", small_settings)
    store = tmp_path / "killed"
    draw = random.Random(5)
    states = []
    for _ in range(4):
        process = start(tmp_path, store)
        # The temporary files of a slide are there from its first row on.
        wait_for("*/0.5/.*.partial-*", store, process)
        time.sleep(draw.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        states.append((len(list(store.rglob("index/*.h5"))), len(list(store.rglob(".*.partial-*")))))

    last = embed_slides([tmp_path / "slides"], store, small_settings)

    # At least one kill came in the middle of a slide, or the test has shown nothing.
    assert any(leftovers for _, leftovers in states), states
    assert last.exit_status == 0
    assert content(last.set_path) == content(whole.set_path)
    assert not list(store.rglob(".*"))


def test_worker_processes_write_the_same_store(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number)
    (tmp_path / "slides" / "broken.svs").write_text("this is no slide")
    one = embed_slides([tmp_path / "slides"], tmp_path / "one", small_settings)
    events: list[object] = []

    two = embed_slides(
        [tmp_path / "slides"],
        tmp_path / "two",
        small_settings.model_copy(update={"workers": 2}),
        on_event=events.append,
    )

    assert content(two.set_path) == content(one.set_path)
    assert [outcome.slide for outcome in two.outcomes] == [outcome.slide for outcome in one.outcomes]
    assert [failed.slide for failed in two.failed] == ["broken"]
    assert two.set_path.name == one.set_path.name


KILLER = '''
import os, signal
import numpy as np

def encode(tiles):
    """Die on the tiles of one slide, which is red."""
    if tiles[..., 0].mean() > 200 and tiles[..., 1].mean() < 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.asarray(tiles.mean(axis=(1, 2)), dtype=np.float32)
'''


def test_a_worker_that_is_killed_costs_only_its_slide(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_encoder.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    paths = [make_slide(f"slide-{number}.tif", seed=number) for number in range(2)]
    paths.insert(1, make_slide("deadly.tif", color=(230, 20, 60)))
    settings = small_settings.model_copy(update={"encoder": "python:deadly_encoder:encode,tile_px=64", "workers": 2})

    summary = embed_slides(paths, tmp_path / "store", settings)

    assert [failed.slide for failed in summary.failed] == ["deadly"]
    assert summary.failed[0].error == "WorkerDied"
    assert open_set(summary.set_path).slides == ("slide-0", "slide-1")
    assert summary.exit_status == 3


def test_an_interrupted_run_ends_its_workers_and_stays_resumable(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number)
    store = tmp_path / "store"
    process = start(tmp_path, store, workers=2)
    wait_for("*/0.5/.*.partial-*", store, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0

    assert not list(store.rglob(".*"))
    summary = embed_slides([tmp_path / "slides"], store, small_settings)
    assert len(open_set(summary.set_path).slides) == 3


def test_a_dry_run_counts_what_the_run_does(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    make_slide("a.tif")
    make_slide("b.tif", mpp=None)
    store = tmp_path / "store"

    estimate = estimate_run([tmp_path / "slides"], store, small_settings)

    assert not store.exists()
    assert estimate.slides[1].problem is not None
    assert "--slide-mpp" in estimate.slides[1].problem
    assert estimate.seconds is not None
    assert estimate.seconds > 0
    summary = embed_slides([tmp_path / "slides"], store, small_settings)
    assert summary.set_path == estimate.set_path
    assert estimate.n_tiles == summary.done[0].n_tiles
    written = sum(file.stat().st_size for file in summary.set_path.rglob("*.h5"))
    assert written == pytest.approx(estimate.n_bytes, rel=0.25)
    after = estimate_run([tmp_path / "slides"], store, small_settings)
    assert after.slides[0].done
    assert after.n_bytes == 0


def test_a_dry_run_tells_what_the_run_would_say_of_a_finished_slide(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    one, two = make_slide("a.tif"), make_slide("b.tif", seed=1)
    store = tmp_path / "store"
    set_path = embed_slides([one, two], store, small_settings).set_path
    (set_path / "0.5" / "b.h5").unlink()

    estimate = estimate_run([one, two], store, small_settings)

    assert [slide.done for slide in estimate.slides] == [True, False]
    assert "index/b.h5 and embed" in (estimate.slides[1].problem or "")
    assert estimate.exit_status == 3
    assert estimate_run([one], store, small_settings).exit_status == 0
    assert estimate_run([two], store, small_settings).exit_status == 1
    assert embed_slides([one, two], store, small_settings).exit_status == 3


@pytest.mark.parametrize("mpp", [0.0, float("nan"), 352.8])
def test_a_resolution_for_all_slides_that_none_has_is_refused_at_once(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, mpp: float
) -> None:
    settings = small_settings.model_copy(update={"slide_mpp": mpp})
    for call in (embed_slides, estimate_run):
        with pytest.raises(ConfigError, match=r"--slide-mpp .* cannot be"):
            call([make_slide()], tmp_path / "store", settings)
    assert not (tmp_path / "store").exists()


def test_progress_and_tables_say_what_happened(tmp_path: Path) -> None:
    console = Console(file=(tmp_path / "text").open("w"), width=80)
    failed = FailedSlide("b", Path("b.svs"), "CalibrationError", "no mpp")
    with RunProgress(console) as progress:
        for event in (RunStarted(tmp_path, 1), TilesDone("b", 1, 10), Notice("look"), SlideFinished(failed)):
            progress(event)
    console.print(summary_table(EmbedSummary(tmp_path, (failed,), 1.0, tmp_path / "log")))
    console.file.close()

    text = (tmp_path / "text").read_text()
    assert "[1/1] b failed: CalibrationError: no mpp" in text
    assert "warning: look" in text
    assert text.count("no mpp") == 1
    assert "failed: CalibrationError" in " ".join(text.split())


def test_the_dry_run_has_a_table(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    estimate = estimate_run([make_slide("a.tif")], tmp_path / "store", small_settings)
    with (tmp_path / "text").open("w") as file:
        Console(file=file, width=150).print(estimate_table(estimate))

    text = (tmp_path / "text").read_text()
    assert f"{estimate.slides[0].n_tiles[0.5]}" in text
    assert "about" in text


def test_rows_do_not_depend_on_the_batch(tmp_path: Path, make_slide, small_settings: EmbedSettings) -> None:
    path = make_slide()
    first = embed_slides([path], tmp_path / "a", small_settings)
    second = embed_slides([path], tmp_path / "b", small_settings.model_copy(update={"batch": 33}))

    a, b = open_set(first.set_path).read("one"), open_set(second.set_path).read("one")
    assert all(np.array_equal(a.features[mpp], b.features[mpp]) for mpp in a.mpps)


def test_a_warning_that_every_slide_gives_is_said_once_and_counted(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number, mpp=0.5015)
    events: list[object] = []

    summary = embed_slides([tmp_path / "slides"], tmp_path / "store", small_settings, on_event=events.append)

    texts = [event.text for event in events if isinstance(event, Notice)]
    assert len(texts) == 2
    assert "slide-0.tif: 0.5 mpp is 0.3% finer" in texts[0]
    assert "2 more warnings" in texts[1]
    assert "slide-2.tif: 0.5 mpp is 0.3% finer" in summary.log.read_text()
