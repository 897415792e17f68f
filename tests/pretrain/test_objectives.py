"""What each objective needs, and that one which is not there is refused with the names of those that are."""

from typing import Any

import pytest
from pydantic import ValidationError

from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.objectives import OBJECTIVES


def test_ours_are_the_words_of_the_flag() -> None:
    assert set(OBJECTIVES.ours) == {"mem", "cmem", "contrastive"}


def test_an_unknown_objective_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValidationError, match="no objective 'jepa', only cmem, contrastive, mem"):
        PretrainSettings(objective="jepa")


@pytest.mark.parametrize("changes", [{"targets": "whitened"}, {"decoder_bias": "nearness"}])
def test_what_is_about_predicted_tokens_is_refused_where_none_are_predicted(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"predicts no tokens, so .* would do nothing"):
        PretrainSettings(objective="contrastive", **changes)


@pytest.mark.parametrize(
    ("objective", "weight", "predicts", "contrasts"),
    [("mem", 0.25, True, False), ("cmem", 0.25, True, True), ("cmem", 0, True, False), ("contrastive", 0, False, True)],
)
def test_what_an_objective_needs(objective: str, weight: float, predicts: bool, contrasts: bool) -> None:
    settings = PretrainSettings(objective=objective, contrast_weight=weight)

    assert (settings.predicts_tokens, settings.contrasts) == (predicts, contrasts)
