"""A store is the same whatever ran the jobs of its slides; a slide that hangs or crashes costs itself alone."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.embed.run import create_embedding_set, embedding_job
from parfocal.embed.settings import load_encoders
from parfocal.embed.summary import EmbeddedSlide
from parfocal.embed.workers import Encoders
from parfocal.run import read_failures
from parfocal.slides import SlideSource

HANGING = '''
import ctypes
import os
import numpy as np


def encode(tiles):
    """Hang or die on the tiles of a slide that is red, as its blue says."""
    if tiles[..., 0].mean() > 200 and tiles[..., 1].mean() < 60:
        if tiles[..., 2].mean() > 150:
            ctypes.PyDLL(None).sleep(600)
        os.abort()
    return np.asarray(tiles.mean(axis=(1, 2)), dtype=np.float32)
'''


def encoder_that_hangs(tmp_path: Path, settings: EmbedSettings, **more: object) -> EmbedSettings:
    (tmp_path / "hanging_encoder.py").write_text(HANGING)
    encoder = f"python:{tmp_path / 'hanging_encoder.py'}:encode,tile_px=64"
    return settings.model_copy(update={"encoder": encoder, **more})


@pytest.fixture
def slides(tmp_path: Path, make_slide) -> list[Path]:
    paths = [make_slide(f"slide-{number}.tif", seed=number) for number in range(2)]
    return [
        make_slide("hangs.tif", color=(230, 20, 220)),
        *paths,
        make_slide("crashes.tif", color=(230, 20, 60)),
    ]


def check_that_the_others_are_done(slides: list[Path], tmp_path: Path, settings: EmbedSettings, content) -> None:
    good = [path for path in slides if path.stem.startswith("slide")]
    here = embed_slides(
        good, tmp_path / "here", settings.model_copy(update={"executor": "serial", "timeout": None, "device": ("cpu",)})
    )
    store = tmp_path / "store"

    summary = embed_slides(slides, store, settings)

    assert {one.slide: one.error for one in summary.failed} == {"hangs": "TimedOut", "crashes": "WorkerDied"}
    assert {row.slide: row.error for row in read_failures(store)} == {"hangs": "TimedOut", "crashes": "WorkerDied"}
    assert summary.exit_status == 3
    assert content(summary.set_path) == content(here.set_path)
    assert not list(store.rglob(".*"))


def test_a_slide_past_the_timeout_is_named_and_the_others_are_done_on_two_devices(
    tmp_path: Path, slides: list[Path], small_settings: EmbedSettings, content
) -> None:
    more = {"workers": 1, "timeout": 3.0, "device": ("cpu", "cpu")}
    settings = encoder_that_hangs(tmp_path, small_settings, **more)

    check_that_the_others_are_done(slides, tmp_path, settings, content)


def test_ray_writes_the_same_store(tmp_path: Path, slides: list[Path], small_settings: EmbedSettings, content) -> None:
    pytest.importorskip("ray")
    settings = encoder_that_hangs(tmp_path, small_settings, executor="ray", workers=2, timeout=5.0)

    check_that_the_others_are_done(slides, tmp_path, settings, content)


SLOW = """
import time
import numpy as np


def encode(tiles):
    time.sleep(0.02)
    return np.asarray(tiles.mean(axis=(1, 2)), dtype=np.float32)
"""


def test_the_time_of_the_encoder_is_told_apart_from_the_time_it_waits(
    tmp_path: Path, make_slide, small_settings: EmbedSettings
) -> None:
    (tmp_path / "slow_encoder.py").write_text(SLOW)
    encoder = f"python:{tmp_path / 'slow_encoder.py'}:encode,tile_px=64"
    settings = small_settings.model_copy(update={"encoder": encoder, "batch": 64, "qc": False})

    summary = embed_slides([make_slide()], tmp_path / "store", settings)

    (done,) = summary.done
    n_batches = sum(-(-count // 64) for count in done.n_tiles.values())
    assert done.encode_seconds >= 0.02 * n_batches  # what sleeping alone takes
    assert done.encode_seconds + done.wait_seconds <= done.seconds
    assert summary.idle_share == pytest.approx(1 - done.encode_seconds / done.seconds)
    assert "waiting for tiles to be read" in summary.pace
    again = embed_slides([make_slide()], tmp_path / "store", settings)
    assert (again.idle_share, again.pace) == (None, "")  # nothing was encoded


def test_jobs_that_ask_for_their_rows_write_the_same_store(
    tmp_path: Path, make_slide, small_settings: EmbedSettings, content
) -> None:
    settings = small_settings.model_copy(update={"qc": False})
    path = make_slide()
    here = embed_slides([path], tmp_path / "here", settings)
    encoders = load_encoders(settings)
    set_path = create_embedding_set(tmp_path / "there", settings, encoders)
    served = Encoders(settings, partial(embedding_job, settings, set_path, None))
    asked: list[tuple[float, int]] = []

    def ask(mpp: float, tiles: np.ndarray) -> np.ndarray:
        asked.append((mpp, len(tiles)))
        return served.answer(encoders, mpp, tiles)

    stand_in = served.stand_in(pickle.loads(pickle.dumps(served.facts(encoders))), ask)
    result = served.work(stand_in)(SlideSource("one", path), lambda value: None)

    assert isinstance(result.outcome, EmbeddedSlide)
    assert content(set_path) == content(here.set_path)
    assert sum(count for _, count in asked) == sum(result.outcome.n_tiles.values())
    assert {mpp: one.describe() for mpp, one in stand_in.items()} == {
        mpp: one.describe() for mpp, one in encoders.items()
    }
