"""Cells that a spreadsheet would run are text in it, and everything reads back as it was."""

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.files import original_cell, read_csv, safe_cell, write_csv

# No surrogates but those of bytes that are no UTF-8, as names of files have them.
CELLS = st.text(
    st.sampled_from("=+-@'\t\r\n,;\"0a.e") | st.characters(exclude_categories=["Cs"]) | st.just("\udcff"), max_size=8
)


@given(CELLS)
def test_every_text_reads_back_as_it_was(text: str) -> None:
    assert original_cell(str(safe_cell(text))) == text


@given(st.sampled_from("=+-@\t\r\n"), st.text(st.characters(categories=["L"]), min_size=1))
def test_text_never_begins_like_a_formula(sign: str, rest: str) -> None:
    word = rest if rest.lower() not in {"inf", "infinity", "nan"} else "x"
    assert str(safe_cell(sign + word)).startswith("'")


@pytest.mark.parametrize("value", [-1.5, 3, None, "-0.25", "+3e-4", "slide-1", "-", "", "'quoted'"])
def test_numbers_and_plain_words_stay(value: object) -> None:
    assert safe_cell(value) == value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=4))
def test_a_table_reads_back_and_holds_no_formula(tmp_path: Path, rows: list[list[str]]) -> None:
    write_csv(tmp_path / "table.csv", ["slide", "=why"], rows)

    assert list(read_csv(tmp_path / "table.csv")) == [["slide", "=why"], *rows]
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        assert all(cell[:1] not in set("=@\t\r\n") or len(cell) == 1 for row in csv.reader(text) for cell in row)
