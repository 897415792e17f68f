"""The kind of a target is seen from its values or asked for; what does not fit is one line."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.cohort import Cohort, read_cohort, read_test_cohort
from parfocal.errors import ConfigError, ParfocalWarning


def table(path: Path, values: list[str], **columns: list[str]) -> Path:
    """Labels `t` of slides s00, s01, ...; patient p00, p01, ... and site unless they are given."""
    n = len(values)
    columns = {"patient": [f"p{number:02d}" for number in range(n)], **columns}
    rows = zip([f"s{number:02d}" for number in range(n)], values, *columns.values(), strict=True)
    path.write_text("\n".join([",".join(["slide", "t", *columns]), *(",".join(row) for row in rows)]) + "\n")
    return path


def read(tmp_path: Path, values: list[str], columns: dict[str, list[str]] | None = None, **asked: Any) -> Cohort:
    return read_cohort(table(tmp_path / "labels.csv", values, **(columns or {})), "t", group="patient", **asked)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["1", "0"] * 6, "binary", ("0", "1")),
        (["0.5", "1.5"] * 6, "binary", ("0.5", "1.5")),
        (["b", "a", "c"] * 4, "multiclass", ("a", "b", "c")),
        (["10", "9", "2"] * 4, "multiclass", ("2", "9", "10")),
        ([str(n % 7) for n in range(21)], "continuous", ()),
        (["0.1", "0.2", "0.3"] * 4, "continuous", ()),
    ],
)
def test_the_kind_is_seen_from_the_values(
    tmp_path: Path, values: list[str], kind: str, classes: tuple[str, ...]
) -> None:
    outcome = read(tmp_path, values).outcome

    assert (outcome.kind, outcome.classes) == (kind, classes)
    expected = [classes.index(value) if classes else float(value) for value in values]
    assert outcome.value.tolist() == expected
    assert outcome.event.all()


def test_an_order_or_the_numbers_make_classes_ordinal(tmp_path: Path) -> None:
    words = read(tmp_path, ["low", "high", "mid"] * 4, order=("low", "mid", "high")).outcome
    numbers = read(tmp_path, ["10", "9", "2"] * 4, kind="ordinal").outcome

    assert (words.kind, words.classes) == ("ordinal", ("low", "mid", "high"))
    assert words.value.tolist() == [0, 2, 1] * 4
    assert numbers.classes == ("2", "9", "10")
    with pytest.warns(ParfocalWarning, match="no slide has the class none of 't'"):
        fewer = read(tmp_path, ["low", "high", "mid"] * 4, order=("none", "low", "mid", "high")).outcome
    assert fewer.classes == ("low", "mid", "high")


def test_an_event_makes_times(tmp_path: Path) -> None:
    times = [str(3.5 + n) for n in range(8)]
    cohort = read(tmp_path, times, {"died": ["1", "0", "1.0", "0"] * 2}, event="died")

    assert cohort.outcome.kind == "survival"
    assert cohort.outcome.event.tolist() == [True, False] * 4
    assert cohort.outcome.value.tolist() == [3.5 + n for n in range(8)]
    with pytest.warns(ParfocalWarning, match="1 of 8 slides have no value in 't' or 'died'"):
        read(tmp_path, times, {"died": ["1", "0", "1", "", "1", "0", "1", "0"]}, event="died")


@pytest.mark.parametrize(
    ("values", "columns", "asked", "message"),
    [
        (["a", "b", "c"] * 4, {}, {"kind": "continuous"}, r"12 values of 't' are no numbers: 'a' \(s00\)"),
        (["2.5"] * 8, {}, {"kind": "continuous"}, "every slide has the value 2.5"),
        (["inf", *map(str, range(9))], {}, {"kind": "continuous"}, r"1 values of 't' are no numbers: 'inf' \(s00\)"),
        (["1", "0"] * 4, {}, {"kind": "survival"}, "needs the column of the event"),
        (["3", "0", "-1", *"1234"], {"e": list("1010101")}, {"event": "e"}, r"2 times in 't' are not above 0: 0 "),
        (list("123456"), {"e": list("101012")}, {"event": "e"}, r"1 events of 't' are neither 0 nor 1: '2' \(s05\)"),
        (list("123456"), {"e": list("000000")}, {"event": "e"}, "no slide has an event in 't': all 6 times"),
        (list("123456"), {"e": list("110000")}, {"event": "e"}, r"2 groups \(patients\) with an event"),
        (list("123456"), {"e": list("111000")}, {"event": "e", "kind": "continuous"}, "Drop one"),
        (["a", "b"] * 4, {}, {"positive": "a", "kind": "multiclass"}, "it is to be multiclass. Drop one"),
        (["a", "b", "c"] * 4, {}, {"positive": "a", "order": ("a", "b", "c")}, "something else is asked for"),
        (["a", "b"] * 4, {}, {"positive": "z"}, r"no class 'z'; it has a: 4, b: 4"),
        (["a", "b", "c"] * 4, {}, {"kind": "ordinal"}, "whose order cannot be guessed"),
        (["a", "b", "c"] * 4, {}, {"order": ("a", "b")}, "the order of 't' does not name c"),
        (["a", "b", "c"] * 4, {}, {"order": ("a", "b", "c", "a")}, "names a class twice"),
        (["a", "b"] * 4, {}, {"kind": "multiclass"}, r"two classes \(a: 4, b: 4\), which are binary"),
        ([*"abcdefg"] * 3, {}, {}, "has 7 classes .*--kind multiclass"),
        (["a", "b", "c"] * 4 + ["d"], {}, {}, r"1 groups \(patients\) of the class 'd'"),
        (["a"] * 8, {}, {}, r"one class only \(a: 8\)"),
        (["a", "none"] * 4, {}, {}, r"one class only \(a: 4\).* 4 of 8 slides have no value in 't' \(empty, na, nan"),
        (["", ""], {}, {}, "no slide in .* has a value in 't'"),
        (["0", "1"] * 4, {"lab": list("xxyyxxyy")}, {"site": "hospital"}, "no column 'hospital'"),
        (["0", "1"] * 4, {"lab": ["x", "", *"yyxxyy"]}, {"site": "lab"}, "1 slides in .* have no value in 'lab': s01"),
        (
            ["0", "1"] * 4,
            {"lab": list("xyxxxyyy"), "patient": list("ppqrstuv")},
            {"site": "lab"},
            "1 patients have slides from two sites: p",
        ),
    ],
)  # fmt: skip
def test_values_that_do_not_make_the_kind_are_one_line(
    tmp_path: Path, values: list[str], columns: dict[str, list[str]], asked: dict[str, Any], message: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        with pytest.raises(ConfigError, match=message) as caught:
            read(tmp_path, values, columns, **asked)

    assert "\n" not in str(caught.value)


def test_columns_for_results_may_have_gaps(tmp_path: Path) -> None:
    with pytest.warns(ParfocalWarning, match="2 of 8 slides have no value in 'scanner'"):
        cohort = read(tmp_path, ["0", "1"] * 4, {"scanner": ["a", "NA", *"bab", "", *"ab"]}, by=("scanner",))

    assert cohort.by["scanner"] == ("a", "", "b", "a", "b", "", "a", "b")
    assert cohort.of([7, 0]).by["scanner"] == ("b", "a")


def test_a_test_cohort_has_the_classes_of_the_training_cohort(tmp_path: Path) -> None:
    training = read(tmp_path, ["1", "2", "3"] * 4)
    names = [f"x{number}" for number in range(6)]
    path = tmp_path / "test.csv"

    def write(values: list[str], patients: list[str] | None = None) -> None:
        rows = zip(names, values, patients or names, strict=True)
        path.write_text("slide,t,patient\n" + "".join(",".join(row) + "\n" for row in rows))

    write(["3", "1", "3", "1", "1", "3"])
    found = read_test_cohort(path, training, names, "a store", group="patient")
    assert found.outcome.classes == ("1", "2", "3")
    assert found.outcome.value.tolist() == [2, 0, 2, 0, 0, 2]
    write(["4", "1", "3", "1", "1", "3"])
    with pytest.raises(ConfigError, match="holds 4, which the training cohort has not; it has 1, 2, 3"):
        read_test_cohort(path, training, names, "a store", group="patient")
    write(["1"] * 6)
    with pytest.raises(ConfigError, match="every slide of the test cohort has the same 't'"):
        read_test_cohort(path, training, names, "a store", group="patient")
    write(["3", "1", "3", "1", "1", "3"], ["p03", "a", "b", "c", "d", "p01"])
    with pytest.raises(ConfigError, match="2 patients of the test cohort are in the training cohort too: p01, p03"):
        read_test_cohort(path, training, names, "a store", group="patient")
    with pytest.raises(ConfigError, match="12 slides of the test cohort are in the training cohort"):
        read_test_cohort(tmp_path / "labels.csv", training, [f"s{n:02d}" for n in range(12)], "a store")


def test_the_rest_of_a_test_cohort_is_whatever_is_not_positive(tmp_path: Path) -> None:
    training = read(tmp_path, ["a", "b", "c"] * 4, positive="b")
    path = tmp_path / "test.csv"
    path.write_text("slide,t\nx1,b\nx2,zebra\nx3,a\n")

    found = read_test_cohort(path, training, ["x1", "x2", "x3"], "a store")

    assert found.is_positive.tolist() == [True, False, False]
    assert np.array_equal(found.outcome.event, [True] * 3)
