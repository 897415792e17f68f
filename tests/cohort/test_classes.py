"""The kind of a target is seen from its values or asked for; what does not fit is one line."""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.cohort import Cohort, LabelColumns, class_name, read_cohort, read_test_cohort
from parfocal.cohort.words import class_key, id_key
from parfocal.errors import ConfigError, ParfocalWarning

from .described import described


def table(path: Path, values: list[str], **columns: list[str]) -> Path:
    """Labels `t` of slides s00, s01, ...; patient p00, p01, ... and site unless they are given."""
    n = len(values)
    columns = {"patient": [f"p{number:02d}" for number in range(n)], **columns}
    rows = zip([f"s{number:02d}" for number in range(n)], values, *columns.values(), strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide", "t", *columns], *rows])
    return path


def read(tmp_path: Path, values: list[str], columns: dict[str, list[str]] | None = None, **asked: Any) -> Cohort:
    return read_cohort(
        table(tmp_path / "labels.csv", values, **(columns or {})), *described("t", group="patient", **asked)
    )


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
        (["a", "none"] * 4, {}, {}, r"'none' \(4\) in 't' may be .* or a class beside a: 4. .*--not-missing none"),
        (["a", "unknown"] * 4, {}, {}, r"one class only \(a: 4\).* \(\"unknown\" 4\).* --not-missing WORD"),
        (["a", "b", "none"] * 4, {}, {}, r"'none' \(4\) in 't' may be a missing value, or a class beside a: 4, b: 4"),
        (["+", "+/-", "-"] * 3 + ["+", "+/-"] * 9, {}, {}, r"'-' \(3\) in 't' may be a missing value, or a class"),
        (["MSI-H", "MSS", "msi - h"] * 4, {}, {}, r"'MSI-H' \(4\) and 'msi - h' \(4\), which differ only in case, b"),
        (["caf\u00e9", "b", "cafe\u0301"] * 4, {}, {}, "dashes, quotes or the coding of letters"),
        (["MSI", "MSS", "MSl"] * 4, {}, {}, r"'MSI' \(4\) and 'MSl' \(4\), .* letters and digits that look alike"),
        (["HER2", "neg", "\u041dER2"] * 4, {}, {}, r"differ only in letters of two alphabets that look alike"),
        (["\u039cSI", "MSS", "MSI"] * 4, {}, {}, r"differ only in letters of two alphabets that look alike"),
        (["neg", "pos", "Neg."] * 4, {}, {}, r"'neg' \(4\) and 'Neg\.' \(4\), which differ only in case"),
        (["high", "low", "high*"] * 4, {}, {}, r"'high' \(4\) and 'high\*' \(4\), which differ only in .*at the end"),
        (["1", "0", "01"] * 4, {}, {}, r"'1' \(4\) and '01' \(4\), which differ only in how one number is written"),
        (["0", "1"] * 8 + ["later"], {}, {}, r"holds numbers \(0: 8, 1: 8\) and words: 'later' \(1\).*--missing WORD"),
        (["a", "b"] * 16 + ["c"] * 3, {}, {}, r"would have 3 classes \(a: 16, b: 16, c: 3\), 'c' \(3\) among them"),
        (["0", "1", "9"] * 4, {}, {}, r"would have 3 classes .*'9' \(4\) among them"),
        ([*(f"{n}.7" for n in range(2, 14)), "-9"], {}, {}, r"holds \"-9\" 1 and else 2.7 to 13.7. Say"),
        ([*map(str, range(12)), "8888"], {}, {}, r"holds \"8888\" 1 and else 0 to 11. Say"),
        ([*map(str, range(12)), "99997"], {}, {}, r"holds \"99997\" 1 and else 0 to 11. Say"),
        ([*map(str, range(12)), "-999"], {}, {}, r"holds \"-999\" 1 and else 0 to 11. Say .* \(--missing -999\)"),
        (["2-Mar", "4-Mar"] * 4, {}, {}, "'2-Mar' in 't', line 2 of .* looks like a date that a spreadsheet made"),
        (["1", "2", "1,2"] * 4, {}, {}, r"'t' hold commas \(1, 2, 1,2\). Name the kind: --kind continuous"),
        ([str(254637000 + n % 7) for n in range(21)], {}, {}, r"may be codes \(254637000, .* --kind multiclass or"),
        ([f"{n} mm" for n in range(9)], {}, {}, "Write numbers without their unit"),
        (["45%", *[f"{n}%" for n in range(9)]], {}, {}, "Write shares without the percent sign"),
        ([f"{n},000" for n in range(1, 9)], {}, {"kind": "continuous"}, "no numbers.* without separators of thousands"),
        (["5"] * 8, {"e": list("10101010")}, {"event": "e"}, "every slide has the time 5 in 't'"),
        (list("123456"), {"e": ["0:DECEASED", *"10101"]}, {"event": "e"}, "1 events .* neither 0 nor 1: '0:DECEASED'"),
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
    found = read_test_cohort(path, training, names, "a store", LabelColumns(group="patient"))
    assert found.outcome.classes == ("1", "2", "3")
    assert found.outcome.value.tolist() == [2, 0, 2, 0, 0, 2]
    write(["4", "1", "3", "1", "1", "3"])
    with pytest.raises(ConfigError, match="holds 4, which the training cohort has not; it has 1, 2, 3"):
        read_test_cohort(path, training, names, "a store", LabelColumns(group="patient"))
    write(["1"] * 6)
    with pytest.raises(ConfigError, match="every slide of the test cohort has the same 't'"):
        read_test_cohort(path, training, names, "a store", LabelColumns(group="patient"))
    write(["3", "1", "3", "1", "1", "3"], ["p03", "a", "b", "c", "d", "p01"])
    with pytest.raises(ConfigError, match="2 patients of the test cohort are in the training cohort too: p01, p03"):
        read_test_cohort(path, training, names, "a store", LabelColumns(group="patient"))
    with pytest.raises(ConfigError, match="12 slides of the test cohort are in the training cohort"):
        read_test_cohort(tmp_path / "labels.csv", training, [f"s{n:02d}" for n in range(12)], "a store")


def test_the_rest_of_a_test_cohort_is_whatever_is_not_positive(tmp_path: Path) -> None:
    training = read(tmp_path, ["a", "b", "c"] * 4, positive="b")
    path = tmp_path / "test.csv"
    path.write_text("slide,t\nx1,b\nx2,zebra\nx3,a\n")

    found = read_test_cohort(path, training, ["x1", "x2", "x3"], "a store")

    assert found.is_positive.tolist() == [True, False, False]
    assert np.array_equal(found.outcome.event, [True] * 3)


@given(st.lists(st.integers(10**6, 10**17), min_size=2, max_size=5, unique=True))
@settings(max_examples=30)
def test_codes_keep_all_their_digits(codes: list[int]) -> None:
    assert len({class_name(str(code)) for code in codes}) == len(codes)
    assert [class_name(f"{code}.0") for code in codes] == [str(code) for code in codes]


def test_neighbouring_codes_are_two_classes_and_zeros_in_front_stay(tmp_path: Path) -> None:
    codes = read(tmp_path, ["254637007", "254637008"] * 4).outcome
    named = read(tmp_path, ["007", "012"] * 4).outcome

    assert codes.classes == ("254637007", "254637008")
    assert codes.value.tolist() == [0, 1] * 4
    assert named.classes == ("007", "012")


@pytest.mark.parametrize(
    "word",
    ["NA", "[Not Available]", "[Not Applicable]", "[Unknown]", "[Not Evaluated]", "[Discrepancy]", "not reported",
     "Not Reported", "unknown", "'--", "--", "\u2014", "N/A", "#N/A", "NaN", "None", "null", ".", "?", "-", "missing",
     "n.a.", "<NA>", "not allowed to collect", "  ", "Not  Reported"],
)  # fmt: skip
def test_words_of_portals_are_missing_values_and_are_counted(tmp_path: Path, word: str) -> None:
    with pytest.warns(ParfocalWarning, match="3 of 35 slides have no value in 't'") as said:
        cohort = read(tmp_path, ["MSI", "MSS"] * 16 + [word] * 3)

    shown = f'"{word}" 3' if word.strip() else "empty 3"
    assert cohort.outcome.classes == ("MSI", "MSS")
    assert shown.replace("'--", "--") in str(said[0].message)
    assert shown.replace("'--", "--") in cohort.sentence()


def test_a_word_is_a_class_or_missing_as_it_is_said(tmp_path: Path) -> None:
    values = ["none", "mild", "severe"] * 4 + ["later"]

    with pytest.warns(ParfocalWarning, match='"later" 1'):
        told = read(tmp_path, values, missing=("later",), not_missing=("none",), kind="multiclass").outcome
    with pytest.warns(ParfocalWarning, match='"none" 4, "later" 1'):
        fewer = read(tmp_path, values, missing=("later", "none")).outcome
    with pytest.warns(ParfocalWarning, match='"later" 1'):
        ordered = read(tmp_path, values, missing=("later",), order=("none", "mild", "severe")).outcome
    number = read(tmp_path, [*map(str, range(12)), "-999"], not_missing=("-999",)).outcome

    assert told.classes == ("mild", "none", "severe")
    assert fewer.classes == ("mild", "severe")
    assert ordered.classes == ("none", "mild", "severe")
    assert number.value.min() == -999


def test_grades_of_digits_and_signs_are_classes(tmp_path: Path) -> None:
    assert read(tmp_path, ["0", "1+", "2+", "3+"] * 4).outcome.classes == ("0", "1+", "2+", "3+")
    assert read(tmp_path, ["1", "2", "3a", "3b"] * 4).outcome.kind == "multiclass"


@pytest.mark.parametrize(
    ("event", "censored"),
    [("1:DECEASED", "0:LIVING"), ("True", "False"), ("Dead", "Alive"), ("1:Recurred/Progressed", "0:DiseaseFree")],
)
def test_events_are_read_in_words_and_told(tmp_path: Path, event: str, censored: str) -> None:
    with pytest.warns(ParfocalWarning, match="read as an event") as said:
        cohort = read(tmp_path, [str(n + 1) for n in range(8)], {"e": [event, censored] * 4}, event="e")

    assert cohort.outcome.event.tolist() == [True, False] * 4
    assert f'read as an event: "{event}" 4; as censored: "{censored}" 4' in str(said[0].message)


def test_decimal_commas_are_read_where_they_are_certain(tmp_path: Path) -> None:
    with pytest.warns(ParfocalWarning, match="have a decimal comma"):
        cohort = read(tmp_path, [f"{n},5" for n in range(8)])

    assert cohort.outcome.value.tolist() == [n + 0.5 for n in range(8)]
    with pytest.raises(ConfigError, match="decimal point"):
        read(tmp_path, [*[f"{n},5" for n in range(8)], "3.5"], kind="continuous")


def test_the_sentence_names_kind_classes_and_counts(tmp_path: Path) -> None:
    patients = [f"p{n // 2}" for n in range(12)]
    binary = read(tmp_path, ["MSI", "MSI", "MSS", "MSS"] * 3, {"patient": patients}).sentence()
    against = read(tmp_path, ["a", "b", "c"] * 4, positive="b").sentence()
    number = read(tmp_path, [str(n / 2) for n in range(8)]).sentence()

    assert binary == "target t (binary): MSI: 6, MSS: 6 slides; MSS is positive; 12 slides of 6 groups (patients)"
    assert against == "target t (binary): not b: 8, b: 4 slides; b is positive, against a, c together"
    assert number == "target t (continuous): 8 slides with values from 0 to 3.5"


def test_classes_of_a_test_cohort_are_not_split_by_their_spelling(tmp_path: Path) -> None:
    training = read(tmp_path, ["MSI", "MSS", "other"] * 4, positive="MSI")
    path = tmp_path / "test.csv"
    path.write_text("slide,t\nx1,msi\nx2,MSS\nx3,MSS\n")

    with pytest.raises(ConfigError, match=r"has 'msi' \(1\), which may be 'MSI' of the training cohort"):
        read_test_cohort(path, training, ["x1", "x2", "x3"], "a store")


def test_patients_that_differ_in_spelling_only_are_asked_about(tmp_path: Path) -> None:
    patients = [f"P-{n:02d}" for n in range(7)] + ["p-03"]

    with pytest.raises(ConfigError, match=r"'P-03' \(1\) and 'p-03' \(1\), which differ only in upper and lower case"):
        read(tmp_path, ["0", "1"] * 4, {"patient": patients})


@given(st.text("abXYZ019-_+ .", min_size=1, max_size=12), st.integers(0, 12))
@settings(max_examples=200)
def test_keys_of_spelling_do_not_depend_on_case_blanks_and_dashes(name: str, place: int) -> None:
    changed = f"{name[:place]} \u200b{name[place:].swapcase()}".replace("-", "\u2013")

    assert id_key(changed) == id_key(name)
    assert class_key(changed) == class_key(name)


@pytest.mark.parametrize(
    ("one", "other"), [("HER2+", "HER2-"), ("1-2", "12"), ("T1", "T2"), ("<5", ">5"), ("1.1", "11")]
)
def test_names_of_two_things_have_two_keys(one: str, other: str) -> None:
    assert class_key(one) != class_key(other)
    assert id_key(one) != id_key(other)
