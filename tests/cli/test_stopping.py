"""A command that is told to end says so in one line and by its status, and leaves nothing half done."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from parfocal import cli
from parfocal.signals import raised

from ..embed.held import held_encoder, wait_for_slides
from ..run import fresh


def make_slide(path: Path) -> Path:
    """Purple speckled tissue on glass, wider than high."""
    noise = np.random.default_rng(0).normal(size=(530, 900)).astype(np.float32)
    speckle = cv2.GaussianBlur(noise, (0, 0), 3)
    pixels = np.full((530, 900, 3), 243, np.uint8)
    stained = np.clip(np.array((190, 120, 175)) - 35 * (speckle / speckle.std())[..., None], 0, 255).astype(np.uint8)
    pixels[90:420, 110:700] = stained[90:420, 110:700]
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = {"resolution": (1e4 / 0.5, 1e4 / 0.5), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="zlib", **resolution)
    return path


# A worker does not hear Ctrl-C and ends at SIGTERM, whether it comes from the terminal or from its run.
@pytest.mark.parametrize(
    ("number", "workers", "to_all", "start"),
    [
        (signal.SIGINT, "0", False, fresh.Popen),
        (signal.SIGTERM, "0", False, fresh.Popen),
        (signal.SIGTERM, "1", False, fresh.Popen),
        (signal.SIGINT, "1", True, subprocess.Popen),  # as users start it, and its worker
        (signal.SIGTERM, "1", True, fresh.Popen),
    ],
)
def test_a_signal_ends_a_run_with_its_status_and_leaves_no_temporary_file(
    tmp_path: Path, number: signal.Signals, workers: str, to_all: bool, start: type[subprocess.Popen]
) -> None:
    for name in "ab":
        make_slide(tmp_path / "scans" / f"{name}.tif")
    store = tmp_path / "store"
    call = ["embed", str(tmp_path / "scans"), "-o", str(store), "--region-um", "128", "--tile-px", "64"]
    call += ["--encoder", held_encoder(tmp_path), "--workers", workers]
    process = start(
        [sys.executable, "-m", "parfocal", *call], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_slides(store, process, max(1, int(workers)))

    if to_all:  # as a terminal and a batch system do
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    (tmp_path / "hold").unlink()
    _, said = process.communicate()

    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("parfocal embed: stopped; what is done is kept")
    assert not list(store.rglob(".*"))
    assert not (store / "failures.csv").exists()


STUCK = """
import threading
import time
import cv2
import numpy as np
import parfocal.cli

picture = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)
begun = threading.Event()


def work():
    while True:  # a library of C++ that gives the interpreter's lock up and takes it again
        cv2.GaussianBlur(picture, (31, 31), 0)
        begun.set()


def run(argv):
    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    {end}


parfocal.cli._main = run
raise SystemExit(parfocal.cli.main())
"""


@pytest.mark.parametrize(("end", "status"), [("return 3", 3), ("return 143", 143)])
def test_a_thread_that_is_left_in_a_library_does_not_change_the_status(tmp_path: Path, end: str, status: int) -> None:
    (tmp_path / "stuck.py").write_text(STUCK.replace("{end}", end))

    for _ in range(2):
        ended = subprocess.run([sys.executable, tmp_path / "stuck.py"], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (status, "")


class Finalised:
    """Told to end while Python is in its finaliser, where no exception can be passed on."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_during_a_finaliser_is_raised_again_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with raised() as came:
        Finalised()
        first = list(came)
        with pytest.raises(KeyboardInterrupt):
            threading.Event().wait(60)  # the signal ends it

    assert first == [signal.SIGTERM]
    assert set(came) == {signal.SIGTERM}
    assert capsys.readouterr().err == ""


def test_of_two_signals_the_first_alone_is_raised_where_one_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with raised(lambda: SystemExit(143), (signal.SIGTERM,), once=True):
        Finalised()
        with pytest.raises(SystemExit):
            threading.Event().wait(60)
        signal.raise_signal(signal.SIGTERM)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "says"), [("evaluate", "what is done is kept"), ("inspect", "parfocal inspect: stopped.")]
)
def test_a_stopped_command_says_that_work_is_kept_only_where_it_is(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stopped)

    assert cli.main([name]) == 128 + signal.SIGINT
    assert says in capsys.readouterr().err.splitlines()[-1]
