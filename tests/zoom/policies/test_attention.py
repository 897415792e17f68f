"""The regions come first that an attention head looks at most."""

import numpy as np
import pytest

from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.errors import ConfigError
from parfocal.heads import fit_attention
from parfocal.heads.abmil import fit_abmil
from parfocal.heads.network import FittedNetwork
from parfocal.zoom import POLICIES, HeadOfBags

from ..bound import BAGS, LABEL, SETTINGS, SLIDES, bag_of, head
from ..glances import DIM, glance_of


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def test_shares_are_those_of_the_network_by_hand() -> None:
    probe = head("attention", DIM)
    assert isinstance(probe, FittedNetwork)
    (one,) = probe.columns
    glance = glance_of(15, absent=0.0)
    rows, p = glance.coarse.features[2.0].astype(np.float64), one.parameters
    offset = rows.mean(axis=0) if one.fitted["0.by_slide"] else one.fitted["0.mean"]
    hidden = np.maximum((rows - offset) @ one.fitted["0.matrix"] @ p["projection 0"] + p["projection bias 0"], 0)
    gates = hidden @ p["gate"] + p["gate bias"]
    half = gates.shape[1] // 2
    logit = (np.tanh(gates[:, :half]) / (1 + np.exp(-gates[:, half:]))) @ p["attention"]
    expected = np.argsort(-softmax(logit[:, 0]), kind="stable")

    order = POLICIES.get("attention").bound(HeadOfBags(probe, BAGS))(glance)

    assert np.array_equal(glance.region[order][::16], expected)


def test_abmil_is_asked_likewise() -> None:
    train = np.arange(10)
    fold = Fold(0, 0, train, train[:0], deal_folds(train, LABEL[train], 2, np.random.default_rng(0)))
    bag = bag_of("2", 0, DIM)
    (probe,) = fit_abmil([bag], Outcome.binary(LABEL), [fold], SETTINGS)
    glance = glance_of(15, absent=0.0)
    rows = glance.coarse.features[2.0].astype(np.float64)
    weights = {name.removeprefix("network/"): one for name, one in probe.state().arrays.items()}
    hidden = (rows - weights["0.mean"]) * weights["0.matrix"]
    hidden = np.maximum(hidden @ weights["embed.0.weight"].T + weights["embed.0.bias"], 0)
    value = np.tanh(hidden @ weights["value.weight"].T + weights["value.bias"])
    gate = 1 / (1 + np.exp(-(hidden @ weights["gate.weight"].T + weights["gate.bias"])))
    logit = (value * gate) @ weights["attention.weight"].T

    order = POLICIES.get("attention").bound(HeadOfBags(probe, ("2",)))(glance)

    assert np.array_equal(glance.region[order][::16], np.argsort(-logit[:, 0], kind="stable"))


def test_a_head_without_attention_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an attention head"):
        POLICIES.get("attention").bound(HeadOfBags(head("contrast", DIM), BAGS))


def test_a_head_of_other_magnifications_is_refused() -> None:
    train = np.arange(SLIDES)
    fold = Fold(0, 0, train, train[:0], deal_folds(train, LABEL, 2, np.random.default_rng(0)))
    (probe,) = fit_attention([bag_of("0.5", 0, DIM)], Outcome.binary(LABEL), [fold], SETTINGS)

    with pytest.raises(ConfigError, match=r"does not pool tiles at 2 mpp but 0\.5"):
        POLICIES.get("attention").bound(HeadOfBags(probe, ("0.5",)))(glance_of())
