"""Labels become two classes or one clear line; folds keep patients together and classes even."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.cohort import (
    Cohort,
    LabelColumns,
    Outcome,
    Target,
    deal_folds,
    make_splits,
    read_cohort,
    read_splits,
    write_splits,
)
from parfocal.errors import ConfigError, ParfocalWarning


def table(path: Path, rows: str) -> Path:
    path.write_text("slide,patient,msi,grade\n" + rows)
    return path


def six(path: Path) -> Path:
    return table(path, "".join(f"s{n},p{n},{n % 2},{n % 3}\n" for n in range(6)))


def cohort_of(groups: list[int], labels: list[bool]) -> Cohort:
    slides = tuple(f"s{n:03d}" for n in range(len(groups)))
    outcome = Outcome.binary(np.array(labels, dtype=bool), target="t")
    return Cohort(slides, tuple(f"p{g}" for g in groups), outcome)


def test_the_later_of_two_classes_is_positive(tmp_path: Path) -> None:
    rows = "".join(f"s{n},p{n},{'10' if n % 2 else '9.0'},{'MSI' if n < 3 else 'mss'}\n" for n in range(6))
    path = table(tmp_path / "labels.csv", rows)

    numbers, words = read_cohort(path, "msi", LabelColumns(group="patient")), read_cohort(path, "grade")

    assert (numbers.negative, numbers.positive) == ("9", "10")  # by number: as text, 10 comes before 9
    assert numbers.is_positive.tolist() == [False, True] * 3
    assert (words.negative, words.positive) == ("MSI", "mss")
    assert words.groups == words.slides


def test_one_class_can_be_set_against_the_rest(tmp_path: Path) -> None:
    rows = "".join(f"s{n},p{n},{n % 2},{'abc'[n % 3]}\n" for n in range(9))
    path = table(tmp_path / "labels.csv", rows)

    with pytest.raises(ConfigError, match=r"3 classes \(a: 3, b: 3, c: 3\)"):
        read_cohort(path, Target(name="grade", kind="binary"))
    cohort = read_cohort(path, Target(name="grade", positive="b"))

    assert cohort.negative == "not b"
    assert cohort.is_positive.sum() == 3


def test_missing_labels_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = "".join(f"s{n},p{n},{n % 2},0\n" for n in range(6)) + "s7,p7,NA,0\ns8,p8,,0\n"

    with pytest.warns(ParfocalWarning, match="2 of 8 slides have no value in 'msi'"):
        cohort = read_cohort(table(tmp_path / "labels.csv", rows), "msi")

    assert len(cohort.slides) == 6
    assert "2 of 8" in cohort.notes[0]


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        ("a,p,1,0\na,p,1,0\n", "msi", "names the slide a twice, in lines 2 and 3"),
        ("a,p,1,0\nb,p,1,0\n", "msi", r"one class only \(1: 2\)"),
        ("a,p,1,0\nb,p,0,0\n", "stage", "no column 'stage'; it has slide, patient, msi, grade"),
        ("a,,1,0\nb,p,0,0\n", "msi", "1 slides .* have no value in 'patient': a"),
        ("a,p,1,0\nb,q,0,0\nc,r,0,0\nd,s,0,0\n", "msi", r"1 groups \(patients\) of the class '1'"),
        ("", "msi", "no rows"),
        (",p,1,0\n", "msi", "line 2 .* names no slide"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(tmp_path: Path, rows: str, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_cohort(table(tmp_path / "labels.csv", rows), target, LabelColumns(group="patient"))

    assert "\n" not in str(caught.value)


def test_slides_on_one_side_only_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"s{n},p{n},{n % 2},0\n" for n in range(8))
    cohort = read_cohort(table(tmp_path / "labels.csv", rows), "msi")

    with pytest.warns(ParfocalWarning) as said:
        smaller = cohort.restricted_to(["s0", "s1", "s2", "s3", "s4", "s5", "x"], "a store")

    assert [str(one.message).split(":")[0] for one in said] == [
        "2 slides with a label have no embeddings in a store",
        "1 slides in a store have no label in 'msi'",
    ]
    assert smaller.slides == ("s0", "s1", "s2", "s3", "s4", "s5")


def test_a_patient_of_both_classes_stays_whole_and_is_noted(tmp_path: Path) -> None:
    rows = "".join(f"s{n},p{n // 2},{n % 2},0\n" for n in range(12))

    cohort = read_cohort(table(tmp_path / "labels.csv", rows), "msi", LabelColumns(group="patient"))
    splits = make_splits(cohort, folds=3, repeats=2)

    assert cohort.group_notes()[0].startswith("12 slides come from 6 groups (patients): scores")
    assert "6 of 6 groups have slides of both classes" in cohort.group_notes()[1]
    assert (splits.fold[:, ::2] == splits.fold[:, 1::2]).all()


@given(st.integers(0, 10_000), st.integers(12, 60), st.integers(2, 5))
def test_groups_stay_whole_and_every_slide_is_tested_once(seed: int, n: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    groups, label = rng.integers(0, max(folds, n // 2), n), rng.random(n) < 0.4

    fold = deal_folds(groups, label, folds, rng)

    assert fold.shape == (n,)
    assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))


def test_classes_are_as_even_as_they_can_be() -> None:
    label = np.arange(48) % 3 == 0  # 16 positive
    fold = deal_folds(np.arange(48), label, 5, np.random.default_rng(0))

    assert sorted(np.bincount(fold)) == [9, 9, 10, 10, 10]
    assert sorted(np.bincount(fold[label])) == [3, 3, 3, 3, 4]


def test_splits_come_back_from_their_file_and_are_checked(tmp_path: Path) -> None:
    cohort = cohort_of([n // 2 for n in range(24)], [n // 2 % 2 == 0 for n in range(24)])
    splits = make_splits(cohort, folds=3, repeats=2, seed=4)
    path = tmp_path / "splits.csv"
    write_splits(path, {"t": splits})

    back = read_splits(path)["t"]

    assert back.slides == splits.slides
    assert (back.fold == splits.fold).all()
    assert (make_splits(cohort, folds=3, repeats=2, seed=4).fold == splits.fold).all()
    assert (make_splits(cohort, folds=3, repeats=2, seed=5).fold != splits.fold).any()
    lines = path.read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(ConfigError, match="deals s000 a second time"):
        read_splits(tmp_path / "twice.csv")
    torn = cohort_of(list(range(24)), cohort.is_positive.tolist())
    with pytest.raises(ConfigError, match="tear"):
        make_splits(torn, folds=3).folds(cohort, inner=3, seed=0)
    with pytest.raises(ConfigError, match="do not name 1 slides"):
        back.folds(cohort_of([0] * 25, [True] * 25), inner=3, seed=0)


def test_inner_folds_do_not_depend_on_test_labels() -> None:
    cohort = cohort_of(list(range(30)), [n % 2 == 0 for n in range(30)])
    splits = make_splits(cohort, folds=5, repeats=1)
    first = splits.folds(cohort, inner=4, seed=0)[0]
    flipped = cohort.is_positive.copy()
    flipped[first.test] = ~flipped[first.test]
    other = splits.folds(cohort_of(list(range(30)), flipped.tolist()), inner=4, seed=0)[0]

    assert (first.inner == other.inner).all()
    assert set(first.train) | set(first.test) == set(range(30))
    assert not set(first.train) & set(first.test)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("slide,patient,msi\ns1,p1,Köln\n".encode("latin-1"), "a CSV in UTF-8"),
        (b"slide,msi,msi\ns1,0,1\n", "has the column 'msi' twice"),
        (b"slide,site,msi\ns1,A,0\ns2,A, B,1\n", "more cells than columns in line 3"),
    ],
)
def test_a_table_that_reads_two_ways_or_none_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=says) as caught:
        read_cohort(path, "msi")

    assert "labels.csv" in str(caught.value)


def test_empty_cells_and_columns_at_the_end_of_a_spreadsheet_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("slide,msi,,\n" + "".join(f"s{n},{n % 2},,,\n" for n in range(6)))

    assert read_cohort(path, "msi").slides == tuple(f"s{n}" for n in range(6))
