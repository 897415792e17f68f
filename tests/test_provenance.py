"""A file is whole or not there, and only what a dead writer has left is removed."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import StoreError
from parfocal.files import check_permission, remove_leftovers, sweep_leftovers, writing

LIVING = """
import sys
from pathlib import Path
from parfocal.files import writing
with writing(Path(sys.argv[1])) as temporary:
    temporary.write_text("mine")
    print(temporary, flush=True)
    sys.stdin.readline()
print("done", flush=True)
"""


def writer(path: Path) -> tuple[subprocess.Popen, Path]:
    """Another process that has begun to write `path` and waits for a line before it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("name", ["a.h5", "a[1]*.b.h5", "n" * 240 + ".h5"])
def test_a_living_writers_file_is_no_leftover_and_a_dead_ones_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "folder" / name
    process, temporary = writer(path)
    try:
        remove_leftovers(path)
        sweep_leftovers(tmp_path)
        assert temporary.read_text() == "mine"
    finally:
        process.kill()
        process.communicate()
    remove_leftovers(path.with_name("other.h5"))
    assert temporary.exists()
    remove_leftovers(path)
    assert not temporary.exists()


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    process, temporary = writer(path)
    remove_leftovers(path)
    with writing(path) as mine:
        mine.write_text("ours")
    assert path.read_text() == "ours"
    said, _ = process.communicate("\n")

    assert said == "done\n"
    assert process.returncode == 0
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
    assert not temporary.exists()


@pytest.mark.parametrize("age_hours", [1, 30])
def test_a_leftover_of_another_machine_is_left_alone_for_a_day(tmp_path: Path, age_hours: int) -> None:
    other = tmp_path / f".a.partial-00000000-{os.getpid()}-1-0123abcd.h5"
    older = tmp_path / ".a.partial-0123abcd.h5"
    for file in (other, older):
        file.touch()
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 3600 * age_hours))

    remove_leftovers(tmp_path / "a.h5")

    assert other.exists() == older.exists() == (age_hours < 24)


def test_a_number_of_a_process_that_is_used_again_is_not_taken_for_the_writer(tmp_path: Path) -> None:
    with writing(tmp_path / "a.h5") as mine:
        mine.touch()
        machine, pid, birth, token = mine.stem.rpartition(".partial-")[2].split("-")
        reused = tmp_path / f".a.partial-{machine}-{pid}-{int(birth) + 1}-{token}.h5"
        reused.touch()
        sweep_leftovers(tmp_path)
        assert mine.exists()
        assert reused.exists() == (birth == "0")


FORKED = """
import os, time
from parfocal.files import writer_name
print(writer_name(), flush=True)
time.sleep(0.1)
if os.fork() == 0:
    print(writer_name(), flush=True)
    os._exit(0)
os.wait()
"""


def test_a_fork_of_a_process_that_has_written_is_a_writer_of_its_own() -> None:
    said = subprocess.run([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True, check=True).stdout
    (machine, pid, birth), (same_machine, own_pid, own_birth) = (name.split("-") for name in said.split())

    assert machine == same_machine
    assert pid != own_pid
    assert int(own_birth) > int(birth) or own_birth == birth == "0"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60))
def test_any_name_of_a_file_can_be_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.h5"
    if len(os.fsencode(path.name)) > 255:
        return
    with writing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    path.unlink()
    assert list(tmp_path.iterdir()) == []


SMALL = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    import h5py
    import numpy as np
    from parfocal.files import writing
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        with writing(Path(sys.argv[1])) as temporary:
            if sys.argv[2] == "text":
                temporary.write_text("0" * 100_000)
            else:
                with h5py.File(temporary, "w") as file:
                    file.create_dataset("features", data=np.random.default_rng(0).random(100_000))
    except OSError as error:
        print(error.errno, error.filename, flush=True)
    """
)


@pytest.mark.parametrize("kind", ["text", "hdf5"])
def test_where_no_space_is_left_the_error_names_the_file_and_nothing_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out" / "a.h5"
    done = subprocess.run([sys.executable, "-c", SMALL, str(path), kind], capture_output=True, text=True)

    assert done.stdout.split() == [str(errno.EFBIG), str(path)], done.stderr
    assert list(path.parent.iterdir()) == []


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing(tmp_path / "a.h5"):
        raise KeyError("x")
    with pytest.raises(OSError, match="unable to open"), writing(tmp_path / "a.h5") as temporary:
        h5py.File(temporary.with_name("absent"), "r")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("puts_another_there", [False, True])
def test_a_file_has_the_permissions_that_the_umask_gives(
    tmp_path: Path, umask: int, mode: int, puts_another_there: bool
) -> None:
    before = os.umask(umask)
    try:
        with writing(tmp_path / "a.txt") as temporary:
            if puts_another_there:  # as safetensors does
                own = tmp_path / "own"
                own.touch(0o600)
                own.replace(temporary)
            temporary.write_text("x")
    finally:
        os.umask(before)

    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_a_file_without_permission_is_told_apart_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.touch()
    check_permission(ValueError("damaged"), file)
    check_permission(ValueError("absent"), tmp_path / "gone")
    with pytest.raises(StoreError, match="no permission to read it"):
        check_permission(PermissionError(13, "Permission denied"), file)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="no permission to read it"):
        check_permission(ValueError("I/O error"), file)
