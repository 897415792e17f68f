"""`run.jsonl` holds a line for each slide, whoever writes, and no fault of it ends a run."""

import os
from pathlib import Path

import pytest

from parfocal.run import FailedSlide
from parfocal.run.records import RunRecords, read_records
from parfocal.slides import SlideSource


def records_of(path: Path, shard: str | None = None) -> RunRecords:
    return RunRecords(path, command="embed", sets=["set-1"], settings="abc", shard=shard)


def test_a_record_says_what_came_of_a_slide_by_whom_and_how_long_it_took(tmp_path: Path) -> None:
    source = SlideSource("a/b", Path("/scans/a/b.svs"))
    with records_of(tmp_path / "run.jsonl", "1/4") as records:
        records.given([source])
        records.ended(source, "done", seconds=2.5, tiles=30, n_bytes=400)
        records.failed(FailedSlide("c", Path("/scans/c.svs"), "CalibrationError", "it has\nno mpp", seconds=0.25))

    (given, done, failed), damaged = read_records(tmp_path / "run.jsonl")
    assert damaged == 0
    assert (given.slide, given.status, given.seconds) == ("a/b", "given", None)
    assert (done.file, done.seconds, done.tiles, done.bytes) == ("/scans/a/b.svs", 2.5, 30, 400)
    assert (done.command, done.sets, done.settings, done.shard) == ("embed", ("set-1",), "abc", "1/4")
    assert (done.pid, done.run) == (os.getpid(), given.run)
    assert done.start is not None
    assert done.start < (done.end or "")
    assert (failed.status, failed.reason, failed.seconds) == ("failed", "CalibrationError: it has no mpp", 0.25)


def test_a_damaged_line_is_counted_and_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with records_of(path) as records:
        records.ended(SlideSource("a", Path("a.svs")), "done")
        with path.open("ab") as torn:
            torn.write(b'{"slide": "torn", "fi')
        records.ended(SlideSource("b", Path("b.svs")), "done")
    with path.open("ab") as odd:
        odd.write(b'[1]\n\xff\xfe\n{"slide": 3, "file": "x", "status": "done"}\n{"slide": "late"}\n\n')
        odd.write(b'{"slide": "newer", "file": "x", "status": "done", "mood": "good"}\n')

    found, damaged = read_records(path)
    assert [one.slide for one in found] == ["a", "b", "newer"]
    assert damaged == 5


def test_a_line_is_written_at_once_however_long_its_reason_and_path(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    long = FailedSlide("s" * 200, Path("/".join(["ß" * 80] * 12)), "SlideError", "\x1bodd " * 2000 + "the end")
    with records_of(path) as records:
        records.failed(long)

    assert path.stat().st_size < 4096
    (found,), _ = read_records(path)
    assert found.slide == "s" * 200
    assert found.reason.startswith("SlideError")
    assert found.reason.endswith("the end")


def test_a_full_disk_and_a_folder_in_its_place_end_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").mkdir()
    with records_of(tmp_path / "run.jsonl") as records:
        records.ended(SlideSource("a", Path("a.svs")), "done")
    assert "run.jsonl is not complete: Is a directory" in (records.problem or "")

    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    with records_of(tmp_path / "full.jsonl") as records:
        assert records.problem is None
        records.ended(SlideSource("a", Path("a.svs")), "done")
    assert "No space left" in (records.problem or "")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_nothing_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.jsonl").write_text(text)

    assert read_records(tmp_path / "run.jsonl") == ([], 0)
    assert read_records(tmp_path / "absent.jsonl") == ([], 0)
