"""A full disk: what is done is kept, one line names the file, and nothing crashes."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from parfocal.store import open_set

from ..run import fresh

FULL = textwrap.dedent(
    """
    import resource, sys, warnings
    from pathlib import Path
    from parfocal.config import GridConfig
    from parfocal.embed import EmbedSettings, embed_slides

    if __name__ == "__main__":
        warnings.simplefilter("always")
        settings = EmbedSettings(
            grid=GridConfig(region_um=128.0, tile_px=64), encoder="filterbank,tile_px=64", workers=int(sys.argv[3])
        )
        if sys.argv[4] == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, 45_000))
        summary = embed_slides([Path(sys.argv[1])], Path(sys.argv[2]), settings)
        print(summary.exit_status)
        for failed in summary.failed:
            print(failed.slide, failed.error, failed.message)
    """
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for two or three slides, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def run_full(tmp_path: Path, store: Path, workers: int, kind: str) -> tuple[list[str], str]:
    script = tmp_path / "full.py"
    script.write_text(FULL)
    command = [sys.executable, str(script), str(tmp_path / "slides"), str(store), str(workers), kind]
    done = fresh.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_stops_the_run_in_one_line_and_keeps_what_is_done(
    tmp_path: Path, make_slide, small_disk: Path, workers: int
) -> None:
    make_slide("a.tif", width=400)
    for number in range(3):
        make_slide(f"b{number}.tif", seed=number)
    store = small_disk / "store"

    lines, said = run_full(tmp_path, store, workers, "disk")

    status, *failed = lines
    assert status == "3"
    full = [line for line in failed if " DiskFull " in line]
    not_tried = [line for line in failed if " NotTried " in line]
    assert len(full) == 1, lines
    assert f"cannot write {store}" in full[0]
    assert "No space left" in full[0]
    assert ".partial-" not in full[0]
    assert len(full) + len(not_tried) == len(failed)
    assert not not_tried or f"the disk is full: {len(not_tried)} slides were not tried" in said
    assert not list(store.rglob(".*"))
    assert open_set(next(store.glob("filterbank*"))).slides[0] == "a"


def test_a_file_that_may_not_be_so_large_is_its_slides_failure(tmp_path: Path, make_slide) -> None:
    make_slide("a.tif")
    make_slide("b.tif", width=400)

    lines, _ = run_full(tmp_path, tmp_path / "store", 1, "limit")

    status, failed = lines
    assert status == "3"
    assert failed.startswith(f"a OSError cannot write {tmp_path / 'store'}")
    assert "File too large" in failed


MANY = textwrap.dedent(
    """
    import random, resource, sys, tempfile
    from contextlib import ExitStack
    from pathlib import Path
    import numpy as np
    from parfocal.store.disk import new_file

    draw = random.Random(3)
    for _ in range(60):
        rows, dim = draw.randint(1, 3000), draw.randint(1, 200)
        limit = int(rows * dim * 4 * draw.choice([0, 0.01, 0.5, 1, 2])) + draw.randint(0, 5000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with tempfile.TemporaryDirectory() as folder:
            path, told = Path(folder, "a.h5"), ""
            try:
                with ExitStack() as stack:
                    file = new_file(stack, path)
                    chunk = (draw.randint(1, rows), dim)
                    data = file.create_dataset("x", shape=(rows, dim), maxshape=(None, dim), chunks=chunk, dtype="f4")
                    for number in range(draw.randint(0, 30)):
                        file.attrs[str(number)] = "x" * draw.randint(0, 500)
                    for start in range(0, rows, 100):
                        data[start : start + 100] = 1.0
                        if draw.random() < 0.1:
                            file.check()
            except OSError as error:
                assert str(path) == error.filename, error
                told = error.strerror
                assert list(Path(folder).iterdir()) == []
            else:
                assert path.stat().st_size <= limit
            print(told or "whole")
    """
)


def test_no_size_of_a_file_crashes_where_no_space_is_left() -> None:
    done = fresh.run([sys.executable, "-c", MANY], capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 60
    assert set(lines) == {"File too large", "whole"}
