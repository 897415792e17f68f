"""One declaration of a table gives the CSV, the JSON, the terminal's table and the page's."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from parfocal.report import (
    Field,
    interval_columns,
    page_table,
    pick,
    plain,
    show_difference,
    show_p,
    terminal_table,
    to_records,
    write_json,
    write_table,
)
from parfocal.stats import Interval


@dataclass(frozen=True)
class Compared:
    difference: Interval
    p_value: float


@dataclass(frozen=True)
class Run:
    name: str
    family: str
    auc: float
    test: Compared | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    slides: int = 1200
    best: bool = False


GAIN = Interval(-0.1, -0.2, 0.3)
RUNS = (
    Run("=5x", "single", 0.5, None, {"R2": float("nan")}),
    Run("20x", "single", 0.75, Compared(GAIN, 0.04), {"R2": 0.2}),
    Run("mixed", "mixed", float(np.float64(0.875)), Compared(GAIN, float("nan")), best=True),
)
COLUMNS = (
    Field("arm", "name", "Arm"),
    Field("auc", title="AUC", show=".3f"),
    Field("r2", "beside.R2", "R2"),
    *interval_columns("test.difference", "gain", "gain_"),
    Field("p", "test.p_value", show=show_p, is_optional=True, help="Two-sided."),
    Field("double", lambda run: 2 * run.slides, missing="none"),
)


def test_a_csv_has_every_field_and_empty_cells_for_what_has_no_value(tmp_path: Path) -> None:
    write_table(tmp_path / "runs.csv", COLUMNS, RUNS)

    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "auc", "r2", "gain", "gain_low", "gain_high", "p", "double"]
    assert list(rows[0].values()) == ["'=5x", "0.5", "", "", "", "", "", "2400"]
    assert list(rows[1].values()) == ["20x", "0.75", "0.2", "-0.1", "-0.2", "0.3", "0.04", "2400"]
    assert list(rows[2].values()) == ["mixed", "0.875", "", "-0.1", "-0.2", "0.3", "", "2400"]


def test_a_table_without_records_is_not_kept_where_it_need_not_be(tmp_path: Path) -> None:
    write_table(tmp_path / "runs.csv", COLUMNS, RUNS)
    write_table(tmp_path / "runs.csv", COLUMNS, (), keep_empty=False)
    write_table(tmp_path / "none.csv", COLUMNS, ())

    assert not (tmp_path / "runs.csv").exists()
    assert (tmp_path / "none.csv").read_text().startswith("arm,auc")


def test_a_page_table_has_a_heading_where_the_group_changes_and_no_empty_optional_column() -> None:
    table = page_table("Runs", COLUMNS, RUNS, by="family", kind=lambda run: "highlight" if run.best else "plain")
    without = page_table("Runs", COLUMNS, RUNS[:1])

    assert [row.kind for row in table.rows] == ["group", "plain", "plain", "group", "highlight"]
    assert table.rows[1].cells == ("=5x", "0.500", "–", "–", "–", "–", "–", "2,400")
    assert table.rows[2].cells[3:7] == ("\u22120.10", "\u22120.20", "0.30", "0.040")
    assert [column.title for column in table.columns][:3] == ["Arm", "AUC", "R2"]
    assert [column.align for column in table.columns[:2]] == ["left", "right"]
    assert table.columns[6].help == "Two-sided."
    assert [column.title for column in without.columns][5:] == ["gain_high", "double"]


def test_the_terminal_shows_the_same_cells() -> None:
    console = Console(width=120, record=True, file=None)
    with console.capture() as shown:
        console.print(terminal_table(COLUMNS, RUNS, title="Runs", by="family"))

    assert "\u22120.10" in shown.get()
    assert "0.875" in shown.get()
    assert "Arm" in shown.get()


def test_json_follows_nested_results_and_has_null_where_a_value_is_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"run": RUNS[2], "counts": np.array([[1.0, np.inf]]), "where": Path("a")})
    content = json.loads((tmp_path / "run.json").read_text())

    assert content["run"]["test"]["p_value"] is None
    assert content["run"]["test"]["difference"] == GAIN.to_dict()
    assert content["counts"] == [[1.0, None]]
    assert content["where"] == "a"
    assert to_records(COLUMNS[:3], RUNS[1:2]) == [{"arm": "20x", "auc": 0.75, "r2": 0.2}]


def test_picked_values_keep_their_names_or_get_others() -> None:
    assert pick(RUNS[1], "slides", "best", p="test.p_value") == {"slides": 1200, "best": False, "p": 0.04}
    assert pick(RUNS[0], p="test.p_value") == {"p": None}
    assert pick(None, "slides") is None


def test_a_name_that_a_record_lacks_is_no_missing_value() -> None:
    with pytest.raises(AttributeError, match="colour"):
        to_records((Field("colour"),), RUNS)


def test_texts_and_numbers_are_plain() -> None:
    assert plain((np.float64("nan"), np.int64(3), None, "a", True)) == [None, 3, None, "a", True]
    assert Field("auc", show=lambda value: f"<{value}>").cell(RUNS[0]) == "<0.5>"
    assert Field("gain", "test.difference", show=show_difference).cell(RUNS[1]) == "\u22120.10 (\u22120.20 to +0.30)"
    assert Field("gain", "test.difference").cell(RUNS[1]) == "\u22120.10 (-0.20 to 0.30)".replace("\u2212", "-")
