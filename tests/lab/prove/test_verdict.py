"""What random weights reach is not credited to the encoder; the rule is applied to scores made by hand."""

import numpy as np
import pytest

from parfocal.lab.prove.layout import Layout, Pattern
from parfocal.lab.prove.scores import ScoreTable
from parfocal.lab.prove.verdict import judge, verdict_sentences

SLIDES = 12
WHOLE = Pattern("whole 0.5", "", "", "whole", level=2)
PROVEN = {"model": 0.6, "B1": 0.1, "B5": 0.3, "B9": 0.3, "B10": 0.5, "C1": 0.1, "C1x": 0.1, "C3": 0.5, "C3s": 0.4}
PROVEN |= {"E1": 0.5, "E0": 0.4, "E0s": 0.3}


def table(r2: dict[str, float]) -> ScoreTable:
    """Slides differ little, so that a difference of a tenth is beyond doubt and one of nothing is not."""
    rng = np.random.default_rng(0)
    scores = ScoreTable(SLIDES)
    scores.spread[WHOLE.name] = np.array([[0.0] * SLIDES, [0.0] * SLIDES, [1.0] * SLIDES])
    for method, value in r2.items():
        error = np.zeros((3, SLIDES))
        error[2] = 1 - value + 0.01 * (noise := rng.standard_normal(SLIDES)) - 0.01 * noise.mean()
        scores.error[method, WHOLE.name] = error
    return scores


def verdict_of(*, equal_steps: bool = True, **changed: float) -> tuple[bool, str]:
    verdict = judge(table(PROVEN | changed), WHOLE, draws=200, seed=0, equal_steps=equal_steps)
    layout = Layout.of((2.0, 1.0, 0.5), (4,) * 3, region_um=448.0, tile_px=224)
    sentences = verdict_sentences([verdict], layout, clusters="slides", n_clusters=SLIDES, one_slide=False)
    return verdict.holds, " ".join(sentences)


def test_what_is_above_everything_holds() -> None:
    holds, text = verdict_of()

    assert holds
    assert "is learnt: tiles at 0.5 mpp" in text
    assert "it is above random weights in model minus C3 +0.100" in text
    assert "not above" not in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"C3": 0.6}, "not above them in model minus C3 "),
        ({"C3s": 0.7}, "not above them in model minus C3s "),
        ({"E0": 0.5}, "not above them in E1 minus E0 "),
        ({"E0s": 0.6, "E1": 0.9}, "not above them in model minus E0s "),
        ({"E1": 0.2}, "not above them in E1 minus E0 "),
        ({"B10": 0.65}, "B10 is ahead of it with 0.650"),
        ({"B5": 0.6}, "is level with a linear map (B5)"),
    ],
)
def test_one_rival_that_is_not_beaten_is_enough(changed: dict[str, float], said: str) -> None:
    holds, text = verdict_of(**changed)

    assert not holds
    assert "is not shown to be learnt" in text
    assert said in text


def test_a_decoder_that_was_trained_for_fewer_steps_proves_nothing() -> None:
    holds, text = verdict_of(equal_steps=False)

    assert not holds
    assert text.startswith("No verdict: the decoders on random weights")


def test_without_random_weights_nothing_holds() -> None:
    scores = table({name: value for name, value in PROVEN.items() if name != "E0"})

    assert not judge(scores, WHOLE, draws=200, seed=0).holds


def test_errors_of_several_seeds_are_averaged_and_not_their_predictions() -> None:
    layout = Layout.of((2.0,), (2,), region_um=448.0, tile_px=224)
    target = np.array([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=np.float32)
    hidden, cluster = np.ones((2, 1), dtype=bool), np.arange(2)
    scores = ScoreTable(2)
    for predicted in (2 * target, 0 * target):  # off by one in either direction: their mean would be perfect
        scores.add("C3", "p", predicted, target, hidden, layout, cluster, share=0.5)

    assert scores.r2("C3", "p") == pytest.approx(0.0)
