"""ABMIL has the published shape, learns every kind of outcome, reads no test label, and comes back from its state."""

from typing import Any

import numpy as np
import pytest
import torch

from parfocal.cohort import Outcome
from parfocal.heads import ProbeSettings, load_probe
from parfocal.heads.abmil import GatedAttention, fit_abmil
from parfocal.stats import auc

SETTINGS = ProbeSettings(inner_folds=3)


def test_it_has_the_published_widths_and_pools_by_gated_attention() -> None:
    torch.manual_seed(0)
    network, rows = GatedAttention([7], 1), torch.randn(5, 7)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if name.endswith("weight")}

    assert shapes == {
        "embed.0.weight": (512, 7),
        "value.weight": (128, 512),
        "gate.weight": (128, 512),
        "attention.weight": (1, 128),
        "head.weight": (1, 512),
    }
    # Equation 9 of the paper, written out.
    h = torch.relu(rows @ network.embed[0].weight.T + network.embed[0].bias)
    a = torch.tanh(h @ network.value.weight.T + network.value.bias)
    a = a * torch.sigmoid(h @ network.gate.weight.T + network.gate.bias)
    a = torch.softmax((a @ network.attention.weight.T + network.attention.bias)[:, 0], dim=0)
    assert torch.allclose(network([rows]), (a @ h) @ network.head.weight.T + network.head.bias, atol=1e-5)
    assert torch.allclose(network([rows]), network([rows.flip(0)]), atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "continuous", "survival"])
def test_every_kind_is_learnt_and_comes_back_from_its_state(
    kind: str, numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fixture's slides are small: a tenth of the epochs at ten times the rate shows the same.
    monkeypatch.setattr("parfocal.heads.abmil._EPOCHS", 6)
    monkeypatch.setattr("parfocal.heads.abmil._RATE", 1e-3)
    truth, everyone = numbers.kind, np.ones(len(numbers.kind), dtype=bool)
    outcome = {
        "binary": Outcome.binary(truth),
        "multiclass": Outcome(
            "t", "multiclass", ("a", "b", "c"), truth * 1.0 + (np.arange(len(truth)) % 5 == 0), everyone
        ),
        "continuous": Outcome("t", "continuous", (), 500.0 + 40 * truth + np.arange(len(truth)) % 3, everyone),
        "survival": Outcome("t", "survival", (), np.exp(-3.0 * truth) + np.arange(1, 1 + len(truth)) / 100, everyone),
    }[kind]
    fold = numbers.folds(numbers.kind)[0]
    bags = [numbers.coarse, numbers.fine]

    (fit,) = fit_abmil(bags, outcome, [fold], SETTINGS)
    score = fit.score(bags, fold.test)

    assert score.shape == (len(fold.test), len(outcome.columns))
    np.testing.assert_array_equal(load_probe(fit.state()).score(bags, fold.test), score)
    if kind != "multiclass":
        assert auc(truth[fold.test], score[:, 0]) > 0.7
    if kind == "continuous":
        assert 480 < score.mean() < 560


def test_labels_and_slides_of_the_test_fold_have_no_say(numbers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.heads.abmil._EPOCHS", 2)
    fold = numbers.folds(numbers.kind)[0]
    other = numbers.kind.copy()
    other[fold.test] = ~other[fold.test]

    one, same = (
        fit_abmil([numbers.fine], Outcome.binary(label), [fold], SETTINGS)[0] for label in (numbers.kind, other)
    )

    np.testing.assert_array_equal(one.score([numbers.fine], fold.test), same.score([numbers.fine], fold.test))
    assert one.chosen in ("1 epochs", "2 epochs")
