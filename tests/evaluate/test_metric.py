"""One number for every kind of outcome: 0.5 is nothing, 1 is perfect."""

import numpy as np
import pytest

from parfocal.evaluate.metric import METRICS, can_be_measured, measure, measure_beside, measure_weighted

from .drawn import outcome_of, score_of

KINDS = tuple(METRICS)


@pytest.mark.parametrize("kind", KINDS)
def test_half_is_nothing_and_one_is_perfect_for_every_kind(kind: str) -> None:
    rng = np.random.default_rng(0)
    outcome = outcome_of(kind, 400, rng)
    perfect = score_of(outcome, 1e6, rng)

    # An ordinal score is the expected class, whose steps all go the right way here.
    assert measure(outcome, np.clip(perfect, -30, 30) if kind == "ordinal" else perfect) == pytest.approx(1.0)
    assert measure(outcome, np.zeros_like(perfect)) == 0.5
    # 400 cases: three standard errors of a concordance are about .09 at most.
    assert measure(outcome, rng.normal(size=perfect.shape)) == pytest.approx(0.5, abs=0.09)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_measure_what_is_drawn(kind: str) -> None:
    rng = np.random.default_rng(1)
    outcome = outcome_of(kind, 40, rng)
    score = score_of(outcome, 0.4, rng).round(1)
    drawn = np.concatenate([np.arange(40), rng.integers(0, 40, 30)])
    weight = np.stack([np.ones(40), np.bincount(drawn)]).astype(np.float32)

    found = measure_weighted(outcome, score)(weight)

    assert found.tolist() == pytest.approx([measure(outcome, score), measure(outcome.of(drawn), score[drawn])])


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_numbers_are_those_of_the_kind_and_one_is_perfect(kind: str) -> None:
    rng = np.random.default_rng(2)
    outcome = outcome_of(kind, 60, rng)
    score = outcome.value[:, None] if kind == "continuous" else score_of(outcome, 1e3, rng)

    found = measure_beside(outcome, score, baseline=0.0)

    assert tuple(found) == METRICS[outcome.kind].second
    assert all(value == pytest.approx(1.0) for value in found.values())


def test_labels_that_have_no_order_cannot_be_measured() -> None:
    rng = np.random.default_rng(3)
    alike, censored = outcome_of("binary", 20, rng), outcome_of("survival", 20, rng)

    assert can_be_measured(alike)
    assert not can_be_measured(alike.of(np.flatnonzero(alike.value == 1)))
    assert not can_be_measured(censored.of(np.flatnonzero(~censored.event)))
