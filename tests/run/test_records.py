"""The table of failures survives several writers at once, killed ones and old ones."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.errors import StoreError
from parfocal.files import read_csv
from parfocal.run import FailedSlide, failures, read_failures
from parfocal.run.failures import RunLog, update_failures
from parfocal.run.records import read_records

from . import fresh


def failed(slide: str, message: str = "no mpp") -> FailedSlide:
    return FailedSlide(slide, Path(f"/scans/{slide}.svs"), "CalibrationError", message)


# The writers are forks of one process, which has imported everything before they begin.
WRITERS = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from parfocal.run import FailedSlide
    from parfocal.run.failures import update_failures
    from parfocal.run.records import RunRecords
    store, names, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    waiting, go = os.pipe()
    for name in names:
        if not os.fork():
            break
    else:
        os.close(waiting)
        os.close(go)
        raise SystemExit(any(os.wait()[1] for _ in names))
    os.close(go)
    os.read(waiting, 1)  # until all of them are there
    with RunRecords(store / "run.jsonl", command="embed", sets=["set"], settings="") as records:
        for number in range(count):
            failed = FailedSlide(f"{name}{number}", Path("x"), "E", "m")
            update_failures(store, "set", [failed], [])
            records.failed(failed)
    update_failures(store, "set", [], [f"{name}{number}" for number in range(0, count, 4)])
    """
)


def test_of_four_writers_with_fifteen_failures_each_no_row_and_no_record_is_lost(tmp_path: Path) -> None:
    count, names = 20, "abcd"  # a quarter of each is mended
    fresh.run([sys.executable, "-c", WRITERS, str(tmp_path), names, str(count)], check=True)

    expected = {f"{name}{number}" for name in names for number in range(count) if number % 4}
    assert {row.slide for row in read_failures(tmp_path)} == expected
    # The table for people is whole too, whoever came last.
    columns, *rows = read_csv(tmp_path / "failures.csv")
    assert columns == ["slide", "path", "error", "message", "time", "set"]
    assert {row[0] for row in rows} == expected
    assert len(rows) == len(expected)
    found, damaged = read_records(tmp_path / "run.jsonl")
    assert damaged == 0
    assert sorted(one.slide for one in found) == sorted(f"{name}{number}" for name in names for number in range(count))


def test_what_another_writer_reports_while_the_table_is_made_stays_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, write = ["b", "c"], failures.write_csv

    def write_late(*given: Any) -> None:
        if others:
            update_failures(tmp_path, "set", [failed(others.pop())], [])
        write(*given)

    monkeypatch.setattr(failures, "write_csv", write_late)
    update_failures(tmp_path, "set", [failed("a")], [])

    _, *rows = read_csv(tmp_path / "failures.csv")
    assert {row[0] for row in rows} == {"a", "b", "c"}


def test_the_table_goes_with_its_last_row(tmp_path: Path) -> None:
    update_failures(tmp_path, "set", [failed("a"), failed("b")], [])
    update_failures(tmp_path, "other", [failed("a")], [])
    update_failures(tmp_path, "set", [], ["a", "b", "c"])
    assert [(row.set, row.slide) for row in read_failures(tmp_path)] == [("other", "a")]
    assert (tmp_path / "failures.csv").is_file()

    update_failures(tmp_path, "other", [], ["a"])
    assert read_failures(tmp_path) == []
    assert not (tmp_path / "failures.csv").exists()


def test_a_run_without_failures_writes_nothing(tmp_path: Path) -> None:
    update_failures(tmp_path, "set", [], ["a", "b"])

    assert list(tmp_path.iterdir()) == []


def test_a_table_of_an_earlier_version_counts_and_is_mended(tmp_path: Path) -> None:
    (tmp_path / "failures.csv").write_text(
        "slide,path,error,message,time,set\n"
        "a,/a.svs,CalibrationError,no mpp,2024-05-01T10:00:00+00:00,set\n"
        "b,/b.svs,CalibrationError,no mpp,2024-05-01T10:00:01+00:00,set\n"
    )
    assert [row.slide for row in read_failures(tmp_path)] == ["a", "b"]

    update_failures(tmp_path, "set", [failed("c")], [])
    update_failures(tmp_path, "set", [], ["a"])
    assert [row.slide for row in read_failures(tmp_path)] == ["b", "c"]


def test_a_line_that_was_not_finished_is_passed_over_and_swallows_nothing(tmp_path: Path) -> None:
    update_failures(tmp_path, "set", [failed("a")], [])
    (file,) = (tmp_path / "failures").iterdir()
    with file.open("a") as text:
        text.write('{"slide": "torn", "pa')
    update_failures(tmp_path, "set", [failed("b")], [])

    assert [row.slide for row in read_failures(tmp_path)] == ["a", "b"]


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "failures.csv").write_text("patient,grade\np,3\n")

    with pytest.raises(StoreError, match="its columns are not slide, path"):
        read_failures(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("=\n\r\x1b\udcfe"), min_size=1))
def test_any_name_is_told_as_it_is_and_runs_in_no_spreadsheet(tmp_path: Path, slide: str) -> None:
    update_failures(tmp_path, "set", [failed(slide)], [])

    assert [row.slide for row in read_failures(tmp_path)] == [slide]
    update_failures(tmp_path, "set", [], [slide])
    assert read_failures(tmp_path) == []


def test_a_log_that_cannot_be_written_says_so_and_ends_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.line("one \x1b[31m red")
        assert log.problem is None
        log._file.close()
        log._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        log.line("two")
    assert "No space left" in (log.problem or "")
    assert "\\x1b[31m red" in log.path.read_text()
