"""A row finds its slide by any plain form of its id, or one line says why it does not."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.cohort import Cohort, LabelColumns, read_cohort, read_test_cohort
from parfocal.errors import ConfigError, ParfocalWarning

from .described import described

TCGA = [f"TCGA-AB-{1000 + n // 2}-01Z-00-DX{1 + n % 2}.{n:08d}-AAAA" for n in range(16)]
RULE = "TCGA-..-...."


def table(path: Path, ids: list[str], column: str = "slide", **columns: list[str]) -> Path:
    columns = {"msi": [str(n % 2) for n in range(len(ids))], **columns}
    rows = zip(ids, *columns.values(), strict=True)
    path.write_text("\n".join([",".join([column, *columns]), *(",".join(row) for row in rows)]) + "\n")
    return path


def read(path: Path, available: list[str], **asked: Any) -> Cohort:
    return read_cohort(path, *described("msi", **asked)).restricted_to(available, "a store")


@given(
    in_table=st.sampled_from(["{}", "{}.svs", "{}.ome.tif", "{}.h5", "a/b/{}", "b/{}.SVS", "C:\\a\\b\\{}.ndpi"]),
    in_store=st.sampled_from(["{}", "b/{}", "a/b/{}"]),
    order=st.permutations(range(8)),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_finds_its_slide_with_and_without_suffix_and_folders(
    tmp_path: Path, in_table: str, in_store: str, order: list[int]
) -> None:
    names = [f"case {n}.1" for n in range(8)]
    stem = "{}.ome" if ".ome" in in_table else "{}"
    slides = [in_store.format(stem.format(name)) for name in names]
    path = table(tmp_path / "labels.csv", [in_table.format(names[n]) for n in order], msi=[str(n % 2) for n in order])

    cohort = read(path, slides)

    assert cohort.slides == tuple(slides)
    assert cohort.outcome.value.tolist() == [0, 1] * 4


def test_the_very_same_id_is_meant_before_any_other(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(8)]
    others = [f"other/s{n}" for n in range(8)]

    with pytest.warns(ParfocalWarning, match="8 slides in a store have no label"):
        assert read(table(tmp_path / "labels.csv", names), [*names, *others]).slides == tuple(names)


@pytest.mark.parametrize(
    ("ids", "available", "says"),
    [
        (["s1", "s2"], ["a/s1", "b/s1", "a/s2"], "name the slide s1, which 2 slides in a store are called: a/s1, b/s1"),
        (["s1", "s1.svs"], ["s1"], "name s1 and s1.svs, and both are the slide s1"),
        (["a/s1", "s1"], ["b/a/s1"], "name a/s1 and s1, and both are the slide b/a/s1"),
        (["s1.svs", "s2"], ["s1", "s2"], "some without, such as s1.svs and s2. Write all in one way"),
        (["S1", "s2"], ["s1", "s2"], r"1 slides .* S1 in the labels is s1 there \(upper and lower case\)"),
        (["1", "0002"], ["0001", "0002"], r"1 slides .* 1 in the labels is 0001 there \(zeros"),
        (["1.0", "2.0"], ["0001", "0002"], r"2 slides .* 1.0 in the labels is 0001 there \(zeros"),
        (["a\u20131", "a-2"], ["a-1", "a-2"], r"1 slides .* \(blanks, dashes or the coding of letters\)"),
        (["cafe\u0301", "s2"], ["caf\u00e9", "s2"], "blanks, dashes or the coding of letters"),
        (["s1.xyz", "s2.xyz"], ["s1", "s2"], "Write the slides without their suffix"),
        (
            ["x1", "x2"],
            ["s1", "s2"],
            "name x1, x2, z0 and 5 more, the embeddings s1, s2. Use the ids of the embeddings",
        ),
    ],
)
def test_ids_that_fit_in_two_ways_or_nearly_are_refused(
    tmp_path: Path, ids: list[str], available: list[str], says: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        with pytest.raises(ConfigError, match=says) as caught:
            read(table(tmp_path / "labels.csv", [*ids, *[f"z{n}" for n in range(6)]]), available)

    assert "\n" not in str(caught.value)


def test_slides_that_really_differ_are_counted_and_not_refused(tmp_path: Path) -> None:
    names = [f"f1/s{n}" for n in range(8)]

    with pytest.warns(ParfocalWarning) as said:
        cohort = read(table(tmp_path / "labels.csv", [*names, "f1/t"]), [*names, "f2/t", "u"])

    assert cohort.slides == tuple(names)
    assert "1 slides with a label have no embeddings" in str(said[0].message)
    assert "2 slides in a store have no label" in str(said[1].message)


def test_a_row_a_patient_labels_all_slides_of_the_patient(tmp_path: Path) -> None:
    patients = [f"TCGA-AB-{1000 + n}" for n in range(9)]
    path = table(tmp_path / "patients.csv", patients, "case_id")

    with pytest.warns(ParfocalWarning) as said:
        cohort = read(path, [*TCGA, "f/TCGA-AB-2000-01Z"], group="case_id", patient_of=RULE)
    with pytest.warns(ParfocalWarning, match="1 patients"):
        other = read(path, TCGA, slide_column="case_id", patient_of=f"({RULE})-01Z")

    assert cohort.slides == other.slides == tuple(TCGA)
    assert cohort.groups == other.groups == tuple(slide[:12] for slide in TCGA)
    assert cohort.outcome.value.tolist() == [n // 2 % 2 for n in range(16)]
    assert str(said[0].message).startswith("1 patients with a label have no embeddings in a store: TCGA-AB-1008")
    assert str(said[1].message).startswith("1 slides of 1 patients in a store have no label in 'msi': f/TCGA-AB-2000")


def test_a_row_a_slide_gets_its_patient_by_the_rule(tmp_path: Path) -> None:
    path = table(tmp_path / "labels.csv", [f"{slide}.svs" for slide in TCGA])

    cohort = read(path, TCGA, patient_of=RULE)

    assert cohort.groups == tuple(slide[:12] for slide in TCGA)
    with pytest.warns(ParfocalWarning, match="8 TCGA patients have slides in several groups.*--patient-of"):
        read(path, TCGA)


def test_a_patient_of_several_rows_must_have_one_label(tmp_path: Path) -> None:
    samples = [f"TCGA-AB-{1000 + n // 2}" for n in range(16)]
    same = table(tmp_path / "same.csv", samples, "patient", msi=[str(n // 2 % 2) for n in range(16)])
    other = table(tmp_path / "other.csv", samples, "patient", msi=[str(n // 3 % 2) for n in range(16)])

    assert len(read(same, TCGA, group="patient", patient_of=RULE).slides) == 16
    with pytest.raises(
        ConfigError, match=r"patient TCGA-AB-1001 in lines 4 and 5 with other values in 'msi' \('0', '1'\)"
    ):
        read(other, TCGA, group="patient", patient_of=RULE)


@pytest.mark.parametrize(
    ("rule", "available", "says"),
    [
        ("TCGA-..-....", ["x1", *TCGA], "finds nothing in 1 of 17 slides of a store: x1"),
        (r"\d{4}", TCGA, "finds '1000' and '0000' in TCGA-AB-1000"),
        ("TCGA-(", TCGA, "is no regular expression"),
        ("(TCGA)-(..)", TCGA, "has 2 groups in parentheses"),
        ("TCGA-..", TCGA, "The rule of patients must find what the labels call a patient"),
        ("tcga-ab-....", [slide.lower() for slide in TCGA], r"8 patients .* \(upper and lower case\)"),
    ],
)
def test_a_rule_of_patients_that_does_not_fit_is_refused(
    tmp_path: Path, rule: str, available: list[str], says: str
) -> None:
    path = table(tmp_path / "labels.csv", sorted({slide[:12] for slide in TCGA}), "patient")

    with pytest.raises(ConfigError, match=says):
        read(path, available, group="patient", patient_of=rule)


def test_tables_that_mix_or_contradict_patients_are_refused(tmp_path: Path) -> None:
    mixed = table(tmp_path / "mixed.csv", [*TCGA[:8], "TCGA-AB-1004"])
    torn = table(tmp_path / "torn.csv", TCGA, patient=[f"p{n}" for n in range(16)])
    patients = table(tmp_path / "patients.csv", [f"p{n}" for n in range(8)], "patient")

    with pytest.raises(ConfigError, match=r"names slides, such as TCGA-AB-1000-.* such as TCGA-AB-1004. Keep one kind"):
        read(mixed, TCGA, patient_of=RULE)
    with pytest.raises(ConfigError, match="into several groups: TCGA-AB-1000"):
        read(torn, TCGA, group="patient", patient_of=RULE)
    with pytest.raises(ConfigError, match=r"no column 'slide'; .* --patient-of 'TCGA-..-....'; else .*--slide-column"):
        read(patients, TCGA, group="patient")
    with pytest.raises(ConfigError, match="The labels name the beginnings of these ids"):
        read(table(tmp_path / "short.csv", [slide[:23] for slide in TCGA]), TCGA)


def test_a_test_cohort_may_have_a_row_a_patient(tmp_path: Path) -> None:
    training = read(table(tmp_path / "labels.csv", [f"s{n}" for n in range(8)]), [f"s{n}" for n in range(8)])
    path = table(tmp_path / "test.csv", sorted({slide[:12] for slide in TCGA}), "patient")

    found = read_test_cohort(path, training, TCGA, "a store", LabelColumns(group="patient", patient_of=RULE))

    assert found.slides == tuple(TCGA)
    assert found.outcome.value.tolist() == [n // 2 % 2 for n in range(16)]
