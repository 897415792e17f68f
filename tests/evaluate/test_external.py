"""A cohort that no fit has seen: DeLong within one test set, and the bootstrap over patients."""

from dataclasses import replace

import numpy as np
import pytest

from parfocal.errors import ConfigError
from parfocal.stats import auc, delong_interval, delong_test, patient_bootstrap

from .drawn import cohort_of, drawn


def test_two_classes_have_delongs_interval_and_test_against_the_training_cohorts_best_single() -> None:
    outside = cohort_of("binary", n=70, seed=9)
    made = drawn(cohort_of("binary"), external=outside)
    result = made.result(external=outside)
    best = result.best_single
    assert best is not None
    scores = [one.external.score[:, 0] for one in made.fits if one.external is not None]
    truth = outside.is_positive
    rng = np.random.default_rng(1)
    drawn_again = patient_bootstrap(
        lambda drawn: auc(truth[drawn], scores[4][drawn]) - auc(truth[drawn], scores[best][drawn]),
        np.arange(70),
        rng=rng,
        strata=truth,
    )

    run = result.runs[4].external
    assert run is not None
    assert run.interval == delong_interval(truth, scores[4])
    assert run.against_best_single is not None
    assert run.against_best_single.difference == delong_test(truth, scores[4], scores[best]).difference
    assert run.against_best_single.p_value == delong_test(truth, scores[4], scores[best]).p_value
    bootstrap, width = run.against_best_single.bootstrap, drawn_again.high - drawn_again.low
    # Two sets of 2,000 draws: an end moves by a few percent of the width.
    assert bootstrap.low == pytest.approx(drawn_again.low, abs=0.09 * width)
    assert bootstrap.high == pytest.approx(drawn_again.high, abs=0.09 * width)
    assert run.calibration is not None
    of_best = result.runs[best].external
    assert of_best is not None
    assert of_best.against_best_single is None


@pytest.mark.parametrize("kind", ["multiclass", "ordinal", "continuous", "survival"])
def test_other_kinds_have_the_bootstraps_interval_and_no_p_value(kind: str) -> None:
    outside = cohort_of(kind, n=40, seed=9)
    made = drawn(cohort_of(kind), external=outside)
    # Three of the six arms, for speed.
    fits = [one if place in (1, 2, 4) else replace(one, external=None) for place, one in enumerate(made.fits)]
    result = replace(made, fits=fits).result(external=outside)

    assert result.runs[0].external is None
    run = result.runs[4].external
    assert run is not None
    assert "bootstrap" in run.interval.method
    assert run.interval.low < run.interval.estimate < run.interval.high
    assert run.calibration is None
    if run.against_best_single is not None:
        assert np.isnan(run.against_best_single.p_value)
        assert run.against_best_single.difference == run.against_best_single.bootstrap


def test_a_patients_slides_are_one_case_outside_too() -> None:
    once, often = cohort_of("binary", n=40, seed=9), cohort_of("binary", n=40, seed=9, per_patient=3)
    made = drawn(cohort_of("binary"), external=once)
    made = replace(
        made, fits=[one if place == 4 else replace(one, external=None) for place, one in enumerate(made.fits)]
    )
    copied = [
        one
        if one.external is None
        else replace(one, external=replace(one.external, score=np.repeat(one.external.score, 3, axis=0)))
        for one in made.fits
    ]

    first = made.result(external=once).runs[4].external
    second = replace(made, fits=copied).result(external=often).runs[4].external

    assert first is not None
    assert second is not None
    assert second.interval.low == pytest.approx(first.interval.low)


def test_too_few_patients_outside_are_one_line() -> None:
    outside = cohort_of("binary", n=70, seed=9)
    few = replace(outside, outcome=replace(outside.outcome, value=(np.arange(70) < 2).astype(float)))
    made = drawn(cohort_of("binary"), external=outside)

    with pytest.raises(ConfigError, match="2 patients of the class 'yes'"):
        made.result(external=few)
