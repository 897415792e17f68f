"""Runs that stay in the middle of a slide, so that a test decides what happens to them then."""

import subprocess
import time
from pathlib import Path

ENCODER = """
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def encode(tiles):
    if len(tiles) > 1:
        while (HERE / "hold").exists():
            time.sleep(0.01)
    return np.asarray(tiles.mean(axis=(1, 2)), dtype=np.float32)
"""


def held_encoder(folder: Path) -> str:
    """An encoder that waits as long as there is a file `hold` in the folder, and that file."""
    (folder / "held_encoder.py").write_text(ENCODER)
    (folder / "hold").touch()
    return f"python:{folder / 'held_encoder.py'}:encode,tile_px=64"


def wait_for_slides(store: Path, process: subprocess.Popen, count: int = 1) -> None:
    """Until so many slides are under way, which have temporary files from the first row on, or the run is over."""
    deadline = time.monotonic() + 300
    while process.poll() is None and len(list(store.glob("*/0.5/.*.partial-*"))) < count:
        assert time.monotonic() < deadline, "the run does not begin"
        time.sleep(0.01)
