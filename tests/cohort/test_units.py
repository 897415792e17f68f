"""A metric counts a patient once, for each label that the patient's slides have."""

import numpy as np

from parfocal.cohort import Cohort, Outcome, units


def test_slides_of_a_patient_with_one_label_are_averaged() -> None:
    outcome = Outcome.binary(np.array([True, True, False, True, False]))
    cohort = Cohort(("a", "b", "c", "d", "e"), ("p", "p", "p", "q", "r"), outcome)

    joined = units(cohort, np.array([4, 2, 1, 0]))

    assert joined.slides.tolist() == [4, 2, 1]
    assert joined.mean(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 0.0]])).tolist() == [
        [1.0, 2.0],
        [3.0, 4.0],
        [6.0, 3.0],
    ]


def test_every_slide_counts_where_the_cohort_says_so() -> None:
    outcome = Outcome.binary(np.array([True, True, False]))
    cohort = Cohort(("a", "b", "c"), ("p", "p", "q"), outcome, count="slide")

    joined = units(cohort, np.array([2, 0, 1]))

    assert joined.slides.tolist() == [2, 0, 1]
    assert joined.mean(np.eye(3)).tolist() == np.eye(3).tolist()


def test_times_that_differ_only_in_their_event_are_different_labels() -> None:
    outcome = Outcome("t", "survival", (), np.array([3.0, 3.0, 3.0]), np.array([True, False, True]))

    assert len(units(Cohort(("a", "b", "c"), ("p",) * 3, outcome), np.arange(3))) == 2
