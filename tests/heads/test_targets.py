"""Losses are what they are called, from an independent computation, and so are their gradients."""

import numpy as np
import pytest
import torch

from parfocal.cohort import Outcome
from parfocal.heads.regression import held_out_loss
from parfocal.heads.targets import cox_sum, linear_sum, logistic_sum, targets_of

CPU = torch.device("cpu")


def drawn(n: int = 9, models: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and weights of 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(models, n, generator=generator, dtype=torch.float64)
    weight = (torch.rand(models, n, generator=generator) > 0.3).double()
    return score, weight


def test_the_logistic_loss_is_minus_the_log_likelihood() -> None:
    score, weight = drawn()
    label = (torch.arange(9) % 2).double().expand(2, -1)

    found = logistic_sum(score, label, weight)

    probability = 1 / (1 + np.exp(-score.numpy()))
    likelihood = np.where(label.numpy() == 1, probability, 1 - probability)
    np.testing.assert_allclose(found.numpy(), -(np.log(likelihood) * weight.numpy()).sum(axis=1), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: logistic_sum(x, label, weight), score.requires_grad_())


def test_the_linear_loss_is_the_squared_error() -> None:
    score, weight = drawn()
    value = torch.linspace(-1, 1, 9, dtype=torch.float64).expand(2, -1)

    found = linear_sum(score, value, weight)

    expected = [
        sum(float(w) * float(s - v) ** 2 for s, v, w in zip(score[m], value[m], weight[m], strict=True)) for m in (0, 1)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: linear_sum(x, value, weight), score.requires_grad_())


def test_the_cox_loss_is_breslows_partial_likelihood() -> None:
    score, weight = drawn()
    time = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 4.0, 2.0, 6.0, 5.0], dtype=torch.float64)  # with ties
    event = torch.tensor([1, 1, 0, 1, 1, 1, 0, 0, 1], dtype=torch.bool)

    found = cox_sum(score, time, event, weight)

    expected = []
    for model in (0, 1):
        total = 0.0
        for i in range(9):
            if event[i] and weight[model, i]:
                at_risk = [j for j in range(9) if time[j] >= time[i] and weight[model, j]]
                total += float(np.log(sum(np.exp(float(score[model, j])) for j in at_risk)) - float(score[model, i]))
        expected.append(total)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: cox_sum(x, time, event, weight), score.requires_grad_())


def test_a_model_without_events_has_a_cox_loss_of_zero() -> None:
    score = torch.randn(1, 4, requires_grad=True)

    loss = cox_sum(score, torch.arange(4.0), torch.tensor([True, False, False, False]), torch.tensor([[0.0, 1, 1, 1]]))
    loss.sum().backward()

    assert loss.item() == 0
    assert score.grad is not None
    assert torch.equal(score.grad, torch.zeros(1, 4))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["binary", "continuous", "survival"])
def test_held_out_losses_are_those_of_the_closed_form_probes(kind: str, balanced: bool) -> None:
    rng = np.random.default_rng(0)
    n, inner = 12, np.arange(12) % 3
    value = {"binary": np.arange(n) % 4 == 0, "continuous": rng.normal(3, 2, n), "survival": rng.exponential(1, n)}[
        kind
    ]
    outcome = Outcome("t", kind, ("0", "1"), value.astype(np.float64), np.arange(n) % 3 != 1)  # type: ignore[arg-type]
    learns = np.stack([np.ones(n), *(inner != part for part in range(3))]).astype(np.float32)[:, None]
    judges = np.stack([np.zeros(n), *(inner == part for part in range(3))]).astype(np.float32)[:, None]
    targets = targets_of(outcome.columns, learns, judges, balanced=balanced, device=CPU)
    score = torch.randn(4, n, generator=torch.Generator().manual_seed(1))

    found = float(targets.held_out_loss(score)[0, 0])

    # What each slide gets from the model that has not seen it, in the unit of the labels.
    held_out = score.numpy().astype(np.float64)[1 + inner, np.arange(n)]
    if kind == "continuous":
        for part in range(3):
            others, own = value[inner != part], inner == part
            held_out[own] = others.mean() + others.std() * held_out[own]
    (expected,) = held_out_loss(held_out[None], outcome.columns[0], inner, balanced=balanced)
    assert found == pytest.approx(expected, rel=1e-5)  # float32


def test_balanced_classes_weigh_the_same_and_one_class_weighs_as_it_is() -> None:
    label = np.array([1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    learns = np.ones((2, 1, 8), dtype=np.float32)
    learns[1, 0, 0] = 0
    targets = targets_of(Outcome.binary(label).columns, learns, 1 - learns, balanced=True, device=CPU)

    assert float(targets.learns[0, 0]) == pytest.approx(4)
    assert float(targets.learns[0, 1:].sum()) == pytest.approx(4)
    assert torch.equal(targets.learns[1], torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1]))


def test_scores_that_are_too_small_are_judged_with_the_factor_they_lack() -> None:
    label = np.arange(12) % 2 == 0
    learns = np.ones((2, 1, 12), dtype=np.float32)
    targets = targets_of(
        Outcome.binary(label).columns, learns, np.stack([0 * learns[0], learns[0]]), balanced=False, device=CPU
    )
    right = torch.from_numpy(np.where(label, 0.3, -0.3).astype(np.float32)).expand(2, -1)

    loss, slope = targets.best_slope(right)
    wrong_loss, wrong_slope = targets.best_slope(-right)

    assert slope.item() == 8
    assert loss.item() == pytest.approx(np.log1p(np.exp(-2.4)), rel=1e-5)
    assert wrong_slope.item() == 0.25
    assert wrong_loss.item() > np.log(2)
