"""Every head is found by its name, and the state of one that is not there is refused."""

import pytest

from parfocal.errors import MismatchError
from parfocal.heads import HEADS, ProbeState, load_probe


def test_ours_are_found_under_the_names_that_saved_heads_carry() -> None:
    # What heads of released versions have in head.json.
    saved = {"mean", "mlp", "attention", "contrast", "region_mlp", "bilinear", "finetuned"}

    assert saved <= set(HEADS.ours)


def test_saved_state_of_an_unknown_head_is_refused() -> None:
    with pytest.raises(MismatchError, match="from a package that is not installed here"):
        load_probe(ProbeState("median"))
