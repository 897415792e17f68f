"""While tests run, what functions are given and give back is checked: its shape where one is named, else its type."""

import jaxtyping
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation

from parfocal.geometry import format_mpp
from parfocal.stats import auc


def test_a_wrong_type_is_refused() -> None:
    assert format_mpp(0.5) == "0.5"
    with pytest.raises(BeartypeCallHintParamViolation):
        format_mpp("0.5")  # type: ignore[arg-type]


def test_arrays_whose_shapes_do_not_agree_are_refused() -> None:
    is_positive = np.array([0.0, 1.0])
    assert auc(is_positive, np.array([0.1, 0.9])) == 1
    with pytest.raises(jaxtyping.TypeCheckError):
        auc(is_positive, np.array([0.1, 0.9, 0.9]))
