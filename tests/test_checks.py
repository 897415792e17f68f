"""While tests run, the shapes of what functions are given and give back are checked."""

from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation
from jaxtyping import Float

from parfocal.stats import auc


def test_arrays_whose_shapes_do_not_agree_are_refused() -> None:
    is_positive = np.array([0.0, 1.0])
    assert auc(is_positive, np.array([0.1, 0.9])) == 1
    with pytest.raises(BeartypeCallHintParamViolation):
        auc(is_positive, np.array([0.1, 0.9, 0.9]))


def pair(first: Float[np.ndarray, "row column"], second: Float[np.ndarray, " row"]) -> Float[np.ndarray, " column"]:
    """Calls itself with arrays of other shapes, whose axes are no business of this call."""
    if len(first) == len(second) == 2:
        pair(np.zeros((5, 7)), np.zeros(5))
    return np.zeros(second.size + 2)


def test_the_axes_of_a_call_are_its_own_and_hold_for_its_result_too() -> None:
    checked = jaxtyping.jaxtyped(pair, typechecker=beartype)

    assert len(checked(np.zeros((2, 4)), second=np.zeros(2))) == 4
    assert len(checked(np.zeros((3, 5)), np.zeros(3))) == 5  # nothing is left of the call before
    with pytest.raises(BeartypeCallHintReturnViolation):
        checked(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(BeartypeCallHintParamViolation):
        checked(np.zeros((2, 4)), np.zeros(3))
    assert len(checked(np.zeros((2, 4)), np.zeros(2))) == 4  # nor of one that was refused


def test_of_a_function_that_is_called_again_and_again_a_wrong_shape_is_still_refused() -> None:
    checked = jaxtyping.jaxtyped(pair, typechecker=beartype)

    def call(times: int, n_rows: int) -> None:
        for _ in range(times):
            checked(np.zeros((2, 4)), np.zeros(n_rows))

    call(1000, n_rows=2)
    with pytest.raises(BeartypeCallHintParamViolation):
        call(32, n_rows=3)


@dataclass(frozen=True)
class Rows:
    values: Float[np.ndarray, "row column"]
    weight: Float[np.ndarray, " row"]


def test_what_a_dataclass_is_made_of_is_checked_together() -> None:
    checked = jaxtyping.jaxtyped(Rows, typechecker=beartype)

    assert len(checked(np.zeros((2, 3)), weight=np.zeros(2)).weight) == 2
    with pytest.raises(BeartypeCallHintParamViolation):
        checked(np.zeros((2, 3)), np.zeros(3))
