"""A table is the same whatever program wrote it, or one line says why it cannot be read."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.cohort import read_cohort
from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.table import Table, read_table

# What cells hold: letters of several scripts, blanks inside, separators, quotes and line ends.
CELLS = st.text(st.sampled_from('abzÄéß0159 ,;|\t"\n.-'), max_size=8)


def workbook(path: Path, rows: Sequence[Sequence[object]], **sheets: Sequence[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    for name, content in {"labels": rows, **sheets}.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    del book["Sheet"]
    book.save(path)
    return path


def content_of(table: Table) -> list[list[str]]:
    return [list(table.columns), *(list(row.cells.values()) for row in table.rows)]


@given(
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5),
    separator=st.sampled_from(",;\t|"),
    coding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    empty_columns=st.integers(0, 2),
    empty_rows=st.integers(0, 2),
    head=st.sampled_from(["", "# made by hand\n", "#one\tcomment\n#another;one\n"]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_separator_coding_and_line_ends_do_not_change_a_table(
    tmp_path: Path,
    rows: list[list[str]],
    separator: str,
    coding: str,
    end: str,
    empty_columns: int,
    empty_rows: int,
    head: str,
) -> None:
    rows = [[f"s{number}", *row] for number, row in enumerate(rows)]
    rows[0][2] += "|"  # so that no quoted cell can be mistaken for a sign of the separator
    header = ["slide", "patient's own, id", "msi; now", "x"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([[*row, *[""] * empty_columns] for row in [header, *rows]])
    writer.writerows([[""] * 4] * empty_rows)
    path = tmp_path / "labels.csv"
    path.write_bytes((head + text.getvalue()).encode(coding))

    assert content_of(read_table(path)) == [header, *([cell.strip() for cell in row] for row in rows)]


def test_a_workbook_reads_as_it_is_seen(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "labels.xlsx",
        [["slide", "code", "share", "dead", "scanned"], [1234, 254637007, 0.25, True, datetime(2024, 3, 2)],
         ["0007", 254637008.0, None, False, None], [None] * 5],
        notes=[],
    )  # fmt: skip
    sheet = openpyxl.load_workbook(path)
    sheet["labels"]["A2"].number_format = "000000"
    sheet.save(path)

    assert content_of(read_table(path)) == [
        ["slide", "code", "share", "dead", "scanned"],
        ["001234", "254637007", "0.25", "TRUE", "2024-03-02 00:00:00"],
        ["0007", "254637008", "", "FALSE", ""],
    ]
    assert [row.line for row in read_table(path).rows] == [2, 3]


def test_a_workbook_under_another_name_is_one_and_text_called_xls_is_text(tmp_path: Path) -> None:
    book = workbook(tmp_path / "a.xlsx", [["slide", "msi"], ["s1", "x"]]).rename(tmp_path / "labels.csv")
    text = tmp_path / "labels.xls"
    text.write_text("slide\tmsi\ns1\tx\n")

    assert content_of(read_table(book)) == content_of(read_table(text)) == [["slide", "msi"], ["s1", "x"]]


def test_a_cell_without_a_value_at_the_end_of_the_sheet_costs_nothing(tmp_path: Path) -> None:
    path = workbook(tmp_path / "labels.xlsx", [["slide", "msi"], ["s1", "x"]])
    book = openpyxl.load_workbook(path)
    book["labels"]["XFD1048576"].number_format = "0.00"
    book["labels"]["GR200000"] = " "
    book.save(path)

    assert content_of(read_table(path)) == [["slide", "msi"], ["s1", "x"]]


def _two_sheets(path: Path) -> None:
    workbook(path, [["slide", "msi"], ["s1", 1]], clinic=[["patient"], ["p1"]])


def _formula(path: Path) -> None:
    workbook(path, [["slide", "msi"], ["s1", '=IF(1,"a","b")']])


def _merged(path: Path) -> None:
    book = openpyxl.load_workbook(workbook(path, [["slide", "msi"], ["s1", 1], ["s2", None]]))
    book["labels"].merge_cells("B2:B3")
    book.save(path)


def _damaged(path: Path) -> None:
    workbook(path, [["slide", "msi"], ["s1", 1]])
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_two_sheets, r"2 sheets that hold something \(labels, clinic\)"),
        (_formula, "the cell B2 of .* is a formula without a value"),
        (_merged, r"merged cells \(B2:B3\)"),
        (_damaged, "as an Excel workbook"),
        (lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 99), "old or a locked Excel workbook"),
        (lambda path: workbook(path, []), "no sheet with a cell"),
    ],
)
def test_a_workbook_that_reads_two_ways_or_none_is_refused(tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "labels.xlsx")

    with pytest.raises(ConfigError, match=says) as caught:
        read_table(tmp_path / "labels.xlsx")

    assert "labels.xlsx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"slide,msi\ns1,0\ns2,Stra\xdfe\n", "line 3 holds bytes that are no UTF-8"),
        (b"slide,msi\ns1,0\ns2\n", "has 1 cells in line 3 and 2 columns"),
        (b'slide,msi\ns1,"0\ns2,1\n', "a quote is opened and never closed, in the row that begins in line 2"),
        (b'slide,msi\ns1,"a\nb"\ns2,1,2\n', "more cells than columns in line 4"),
        (b"slide,msi\ns1,0\nslide,msi\ns2,1\n", "line 3 of .* repeats the header"),
        (b"slide,msi;p\ns1,0;1\n", "as many commas as semicolons"),
        (b"a\0b\0\0c\xff\xfe", "holds no text"),
        (b"", "is empty"),
        (b"# only\n# comments\n", "is empty"),
        (b"<html><table><tr><td>slide</td></tr></table></html>", "a page of HTML or XML"),
        (b"slide,msi\n,\n", "no rows below its header"),
    ],
)
def test_text_that_reads_two_ways_or_none_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=says) as caught:
        read_table(path)

    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_separator_can_be_named_and_rows_of_comments_are_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("sep=;\nslide;a, b, c, d\ns1;0\n#s2;1\n")

    with pytest.warns(ParfocalWarning, match=r"1 rows begin with # and are left out \(lines 4\)"):
        assert content_of(read_table(path)) == [["slide", "a, b, c, d"], ["s1", "0"]]


def test_hidden_rows_are_told(tmp_path: Path) -> None:
    path = workbook(tmp_path / "labels.xlsx", [["slide", "msi"], ["s1", 1], ["s2", 0]])
    book = openpyxl.load_workbook(path)
    book["labels"].row_dimensions[2].hidden = True
    book.save(path)

    with pytest.warns(ParfocalWarning, match="hides 1 rows, which are read like the others"):
        assert len(read_table(path).rows) == 2


@pytest.mark.parametrize(
    ("slide", "says"),
    [(10**15 + 7, "a long number that a spreadsheet has rounded"), (datetime(2024, 3, 2), "looks like a date")],
)
def test_ids_that_a_spreadsheet_has_spoilt_are_refused(tmp_path: Path, slide: object, says: str) -> None:
    path = workbook(tmp_path / "labels.xlsx", [["slide", "msi"], *([f"s{n}", n % 2] for n in range(6)), [slide, 1]])

    with pytest.raises(ConfigError, match=f"in 'slide', line 8 of .*{says}"):
        read_cohort(path, "msi")


def test_a_column_under_another_spelling_is_pointed_at(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("Slide,MSI\ns1,0\n")

    with pytest.raises(ConfigError, match=r"no column 'slide'; it has Slide, MSI. Write 'Slide' as it stands there"):
        read_cohort(path, "MSI")
