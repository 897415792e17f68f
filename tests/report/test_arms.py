"""The table of arms and the sentences that read it."""

import numpy as np
import pytest

from parfocal.report import ArmResult, Reference, arms_sentences, arms_table, show_p, show_signed
from parfocal.stats import CrossValidated, FoldTest, Interval, auc_interval, paired_test

FINE = np.array([0.50, 0.55, 0.45, 0.60, 0.52, 0.48])
MIXED = FINE + np.array([0.30, 0.32, 0.35, 0.28, 0.31, 0.33])
UNION = FINE + np.array([0.02, -0.05, 0.04, -0.01, 0.03, -0.02])


def over_folds(values: np.ndarray) -> CrossValidated:
    """Forty patients who vary a little, and six folds of as many repeats."""
    pull = 0.002 * np.where(np.arange(40) % 2, 1, -1)
    return CrossValidated(values, np.arange(len(values)), pull, 0.25)


def against(first: np.ndarray, second: np.ndarray) -> FoldTest:
    other = over_folds(second)
    return paired_test(over_folds(first), CrossValidated(other.value, other.repeat, -other.pull, 0.25), n_patients=20)


def arms() -> list[ArmResult]:
    def one(name: str, family: str, values: np.ndarray, **other: object) -> ArmResult:
        interval = auc_interval(over_folds(values), n_positive=20, n_negative=20)
        return ArmResult(name, family, "mean", interval, **other)  # type: ignore[arg-type]

    return [
        one(
            "5x", "One magnification", FINE - 0.1, is_single_magnification=True, references=(Reference(0.5, "at most"),)
        ),
        one("20x", "One magnification", FINE, is_single_magnification=True, instances_per_slide=1024.4),
        one("union", "Mixed", UNION, against_best_single=against(UNION, FINE)),
        one("pairs", "Mixed", MIXED, against_best_single=against(MIXED, FINE), highlight=True),
    ]


def test_each_arm_is_a_row_under_its_family() -> None:
    table = arms_table("ER", arms())
    kinds = [row.kind for row in table.rows]

    assert kinds == ["group", "plain", "plain", "group", "plain", "highlight"]
    assert [row.cells[0] for row in table.rows] == ["One magnification", "5x", "20x", "Mixed", "union", "pairs"]
    assert table.rows[1].cells[4] == "at\u00a0most\u00a00.50"
    assert table.rows[2].cells[-1] == "1,024"
    assert table.rows[5].cells[5].startswith("+0.32 (+0.2")


def test_p_values_in_the_table_are_corrected_for_its_arms() -> None:
    table = arms_table("ER", arms())
    raw = [arm.against_best_single.p_value for arm in arms() if arm.against_best_single]

    # Two tests: the smaller p is doubled, the larger is at least that.
    assert table.rows[5].cells[6] == show_p(2 * raw[1])
    assert table.rows[4].cells[6] == show_p(max(raw[0], 2 * raw[1]))


def test_columns_that_no_arm_fills_are_left_out() -> None:
    bare = [ArmResult("5x", "One", "mean", Interval(0.5, 0.4, 0.6))]

    assert [column.title for column in arms_table("ER", bare).columns] == ["Arm", "Pooling", "AUC", "95 % interval"]


def test_the_sentences_name_the_winner_and_what_could_be_seen() -> None:
    single, mixed, power = arms_sentences("ER", arms(), n_patients=40, detectable=0.123)

    assert "best single magnification is 20x (mean): AUC 0.52" in single
    assert "pairs (mean): AUC 0.83" in mixed
    assert "+0.32 (+0.21 to +0.42) (p < 0.001" in mixed
    assert "40 patients a true difference of 0.12 in AUC" in power


def test_a_detectable_difference_beyond_the_metric_is_said_to_be_none() -> None:
    said = arms_sentences("ER", arms(), n_patients=34, detectable=1.35)[-1]

    assert "no possible difference in" in said
    assert "1.35" not in said


def test_what_was_picked_after_looking_is_not_said_to_be_shown() -> None:
    for several in (arms(), arms()[:3]):
        said = " ".join(arms_sentences("ER", several, n_patients=40, detectable=float("nan")))

        assert "both picked after looking" in said
        assert "better" not in said
        assert "chance" not in said


def test_two_levels_in_one_table_are_refused() -> None:
    mixed = [ArmResult("a", "f", "p", Interval(0.5, 0.4, 0.6)), ArmResult("b", "f", "p", Interval(0.5, 0.4, 0.6, 0.9))]
    with pytest.raises(ValueError, match="share one level"):
        arms_table("ER", mixed)


def test_numbers_are_shown_as_people_write_them() -> None:
    assert [show_signed(value) for value in (0.031, -0.031, 0.001, -0.001)] == ["+0.03", "\u22120.03", "0.00", "0.00"]
    assert [show_p(value) for value in (0.0004, 0.0123, 0.456, float("nan"))] == ["< 0.001", "0.012", "0.46", "–"]
