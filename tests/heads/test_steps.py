"""Networks that would learn on are trained on, those that would not are not, and none has a say in another's choice."""

from typing import Any

import numpy as np
import pytest

from parfocal.cohort import Outcome
from parfocal.heads import Fit, ProbeSettings, fit_attention, fit_bilinear, fit_mlp, fit_region_mlp, is_at_edge
from parfocal.heads.network import StepSearch, step_stages

ALL = np.arange(40)
SLOW = ProbeSettings(
    components=(4,), attention_steps=4, mlp_steps=4, bilinear_steps=4, attention_rate=1e-3, mlp_rate=1e-3,
    bilinear_rate=1e-3, mlp_decay=0.0,
)  # fmt: skip


def test_the_grid_doubles_up_to_what_is_allowed() -> None:
    assert step_stages(160, 4) == ((20, 40, 80, 120, 160), (240, 320), (480, 640))
    assert step_stages(160, 3) == ((20, 40, 80, 120, 160), (240, 320), (480,))
    assert step_stages(4, 1) == ((1, 2, 3, 4),)


def search(losses: Any, growth: int = 4) -> StepSearch:
    """Each network's loss is a function of the number of steps."""
    found = StepSearch((len(losses),), 8, growth)
    for stage in found.open_stages():
        for step in stage:
            found.offer(step, np.array([loss(step) for loss in losses], dtype=np.float64))
    return found


def test_a_network_is_trained_on_while_its_last_number_of_steps_is_its_best() -> None:
    falling, turning, growing = (lambda s: -s), (lambda s: abs(s - 12)), (lambda s: s)
    # It would be best with 32 steps, but nobody knows: at 8 it is worse than at 4.
    deceiving = {1: 5.0, 2: 4.0, 4: 3.0, 6: 6.0, 8: 6.0}

    found = search([falling, turning, growing, lambda s: deceiving.get(s, -9.0), lambda s: np.nan])

    assert found.step.tolist() == [32, 12, 1, 4, 0]
    assert is_at_edge(found.label(32))
    assert not is_at_edge(found.label(12))
    assert search([growing, turning]).stages[-1][-1] == 32
    assert is_at_edge(search([turning], growth=1).label(8))


@pytest.mark.parametrize("fit", [fit_attention, fit_mlp, fit_region_mlp, fit_bilinear])
def test_training_on_is_the_same_as_having_asked_for_as_many_steps(fit: Fit, numbers: Any) -> None:
    bags, outcome = [numbers.coarse, numbers.fine], Outcome.binary(numbers.kind)
    folds = numbers.folds(numbers.kind)[:2]
    longer = SLOW.model_copy(update={"growth": 1} | {f"{name}_steps": 16 for name in ("attention", "mlp", "bilinear")})

    short = fit(bags, outcome, folds, SLOW.model_copy(update={"growth": 1}))
    grown, at_once = fit(bags, outcome, folds, SLOW), fit(bags, outcome, folds, longer)

    assert "4 steps, the most offered" in short[0].chosen
    assert "16 steps, the most offered" in grown[0].chosen
    assert [one.chosen for one in grown] == [one.chosen for one in at_once]
    for one, other in zip(grown, at_once, strict=True):
        np.testing.assert_array_equal(one.score(bags, ALL), other.score(bags, ALL))


def test_a_fold_that_is_trained_on_alone_ends_as_if_it_had_been_alone_from_the_start(numbers: Any) -> None:
    # A mean says nothing about the pairing, so chance decides how long each fold trains.
    bags, folds, outcome = [numbers.fine], numbers.folds(numbers.pairing), Outcome.binary(numbers.pairing)
    settings = SLOW.model_copy(update={"mlp_rate": 0.05, "mlp_steps": 8})

    together = fit_mlp(bags, outcome, folds, settings)
    alone = [fit_mlp(bags, outcome, [fold], settings)[0] for fold in folds]

    assert len({one.chosen for one in together}) > 1, "this says something only where folds train for different times"
    assert [one.chosen for one in together] == [one.chosen for one in alone]
    for one, other in zip(together, alone, strict=True):
        # Float32 products of other blocks.
        np.testing.assert_allclose(one.score(bags, ALL), other.score(bags, ALL), atol=1e-4)
