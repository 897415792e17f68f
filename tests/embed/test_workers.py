"""Whatever ends a process of a run, or the run: it costs at most the slide under way, and the next one completes it."""

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from parfocal.embed import EmbedSettings, EmbedSummary, embed_slides, estimate_run
from parfocal.errors import EncoderError
from parfocal.run import read_failures
from parfocal.run.events import Progress
from parfocal.store import open_set

from ..run import fresh
from .held import held_encoder, wait_for_slides

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from parfocal.config import GridConfig
    from parfocal.embed import EmbedSettings, embed_slides

    if __name__ == "__main__":
        grid = GridConfig(region_um=128.0, tile_px=64)
        settings = EmbedSettings(grid=grid, encoder=sys.argv[4], batch=10, dtype="float32", workers=int(sys.argv[3]))
        embed_slides([Path(sys.argv[1])], Path(sys.argv[2]), settings)
    """
)


@pytest.fixture
def held(tmp_path: Path) -> str:
    return held_encoder(tmp_path)


def start(tmp_path: Path, store: Path, encoder: str, workers: int) -> subprocess.Popen:
    script = tmp_path / "embed.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "slides"), str(store), str(workers), encoder]
    return fresh.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_is_completed_by_the_next_one(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, content, held: str, workers: int
) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number)
    settings, hold, store = small_settings.model_copy(update={"encoder": held}), tmp_path / "hold", tmp_path / "killed"
    process = start(tmp_path, store, held, workers)
    wait_for_slides(store, process)
    process.kill()
    process.communicate()
    leftovers = list(store.rglob(".*.partial-*"))
    hold.unlink()
    process = start(tmp_path, store, held, workers)  # and at any moment
    wait_for_slides(store, process)
    time.sleep(random.Random(5).uniform(0.0, 0.1))
    process.kill()
    process.communicate()
    whole = embed_slides([tmp_path / "slides"], tmp_path / "whole", settings)

    last = embed_slides([tmp_path / "slides"], store, settings)

    assert leftovers or workers  # workers remove their own when they see that the run is gone
    assert last.exit_status == 0
    assert content(last.set_path) == content(whole.set_path)
    assert_no_leftovers(store)


def assert_no_leftovers(store: Path) -> None:
    """None is there, or none soon: the workers of a run that was killed end by themselves."""
    deadline = time.monotonic() + 60
    while list(store.rglob(".*")):
        assert time.monotonic() < deadline, list(store.rglob(".*"))
        time.sleep(0.01)


def test_worker_processes_write_the_same_store(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, content, interpreters: None
) -> None:
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


DEADLY = '''
import ctypes
import numpy as np


def encode(tiles):
    """Die on the tiles of one slide, which is red."""
    if tiles[..., 0].mean() > 200 and tiles[..., 1].mean() < 60:
        ctypes.string_at(0)
    return np.asarray(tiles.mean(axis=(1, 2)), dtype=np.float32)
'''


def test_a_crash_costs_only_its_slide_now_and_in_the_next_run(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    (tmp_path / "deadly_encoder.py").write_text(DEADLY)
    paths = [make_slide(f"slide-{number}.tif", seed=number) for number in range(2)]
    paths.insert(1, make_slide("crashed.tif", color=(230, 20, 220)))
    settings = small_settings.model_copy(
        update={"encoder": f"python:{tmp_path / 'deadly_encoder.py'}:encode,tile_px=64"}
    )

    for workers in (1, 2):  # the same call again does not die there either
        summary = embed_slides(paths, tmp_path / "store", settings.model_copy(update={"workers": workers}))

        assert {failed.slide: failed.error for failed in summary.failed} == {"crashed": "WorkerDied"}
        assert "SIGSEGV" in summary.failed[0].message
        assert {row.slide for row in read_failures(tmp_path / "store")} == {"crashed"}
        assert open_set(summary.set_path).slides == ("slide-0", "slide-1")
        assert summary.exit_status == 3
        assert not list((tmp_path / "store").rglob(".*"))


def test_a_dry_run_survives_a_crash_and_has_the_status_of_the_run(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    (tmp_path / "deadly_encoder.py").write_text(DEADLY)
    paths = [make_slide("crashed.tif", color=(230, 20, 220)), make_slide("good.tif"), make_slide("g.tif", tissue=False)]
    settings = small_settings.model_copy(
        update={"encoder": f"python:{tmp_path / 'deadly_encoder.py'}:encode,tile_px=64", "workers": 1}
    )

    estimate = estimate_run(paths, tmp_path / "store", settings)

    assert [one.slide for one in estimate.slides] == ["crashed", "good", "g"]
    assert ["SIGSEGV" in (one.problem or "") for one in estimate.slides] == [True, False, False]
    assert estimate.seconds is not None
    assert estimate.exit_status == 3
    assert estimate_run(paths[2:], tmp_path / "store", small_settings).exit_status == 1
    assert not (tmp_path / "store").exists()


UNLOADABLE = """
import multiprocessing
import os
import numpy as np

if multiprocessing.parent_process() is not None:
    {how}


def encode(tiles):
    return np.zeros((len(tiles), 3), np.float32)
"""


@pytest.mark.parametrize(("how", "said"), [("os.abort()", "SIGABRT"), ("raise OSError('no card')", "no card")])
def test_an_encoder_that_no_worker_can_load_is_told_once(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, how: str, said: str
) -> None:
    (tmp_path / "unloadable.py").write_text(UNLOADABLE.format(how=how))
    encoder = f"python:{tmp_path / 'unloadable.py'}:encode,tile_px=64"

    with pytest.raises(EncoderError, match=said):
        embed_slides(
            [make_slide()], tmp_path / "store", small_settings.model_copy(update={"encoder": encoder, "workers": 2})
        )
    assert read_failures(tmp_path / "store") == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_ends_its_workers_and_stays_resumable(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, held: str, workers: int
) -> None:
    for number in range(3):
        make_slide(f"slide-{number}.tif", seed=number)
    store = tmp_path / "store"
    process = start(tmp_path, store, held, workers)
    # Every slide holds in its middle, so the run cannot be over before it is interrupted.
    wait_for_slides(store, process, max(1, workers))
    process.send_signal(signal.SIGINT)
    (tmp_path / "hold").unlink()
    _, said = process.communicate()

    assert process.returncode not in {0, 1}, said
    assert said.count("Traceback") == 1, said  # none of a library that could not pass the interrupt on
    assert not list(store.rglob(".*"))
    summary = embed_slides([tmp_path / "slides"], store, small_settings.model_copy(update={"encoder": held}))
    assert len(open_set(summary.set_path).slides) == 3


def test_two_runs_on_the_same_slides_report_no_failure(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, content, held: str
) -> None:
    for number in range(2):
        make_slide(f"slide-{number}.tif", seed=number)
    store = tmp_path / "store"
    settings = small_settings.model_copy(update={"encoder": held})
    processes = [start(tmp_path, store, held, workers) for workers in (0, 1)]
    for process in processes:  # both are in the middle of the first slide
        wait_for_slides(store, process, 2)
    (tmp_path / "hold").unlink()
    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert [process.returncode for process in processes] == [0, 0]

    assert not (store / "failures.csv").exists()
    assert not list(store.rglob(".*"))
    summary = embed_slides([tmp_path / "slides"], store, settings)
    assert all(outcome.kept for outcome in summary.done)
    whole = embed_slides([tmp_path / "slides"], tmp_path / "whole", settings)
    assert content(summary.set_path) == content(whole.set_path)


def test_a_failure_on_a_slide_that_another_run_has_finished_is_none(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    path = make_slide()
    store = tmp_path / "store"
    other: list[EmbedSummary] = []

    def on_event(event: object) -> None:
        if isinstance(event, Progress) and event.stage == "tiles" and not other:
            other.append(embed_slides([path], store, small_settings))
            raise OSError("the connection was lost")

    summary = embed_slides([path], store, small_settings, on_event=on_event)

    assert other[0].exit_status == 0
    assert [(one.slide, one.kept) for one in summary.done] == [("one", True)]
    assert not (store / "failures.csv").exists()
