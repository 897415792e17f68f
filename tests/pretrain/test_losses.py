"""Every loss against a computation by hand, and its gradient in float64."""

import math

import pytest
import torch
from torch import Tensor

from parfocal.pretrain.losses import (
    beta_nll,
    contrast_accuracy,
    masked_embedding_loss,
    mean_over_levels,
    region_contrast,
    variance_covariance,
)

LEVEL = torch.tensor([0, 1, 1, 1, 1])
USED = torch.tensor([[True, True, True, False], [True, True, True, True]])


def rows(seed: int, n: int = 5, dim: int = 4) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5


def test_each_magnification_counts_once_however_many_tokens_it_has() -> None:
    loss = mean_over_levels(torch.tensor([8.0, 1.0, 2.0, 3.0, 2.0]), LEVEL, 3)

    assert loss.item() == pytest.approx((8.0 + 2.0) / 2)


def test_nothing_hidden_gives_zero_with_a_gradient() -> None:
    predicted = torch.zeros(0, 4, requires_grad=True)
    loss = masked_embedding_loss(predicted, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), USED)
    loss.backward()

    assert loss.item() == 0


def by_hand(predicted: list[float], target: list[float]) -> float:
    total = 0.0
    for p, t in zip(predicted, target, strict=True):
        d = abs(p - t)
        total += d * d / 2 if d < 1 else d - 0.5
    dot = sum(p * t for p, t in zip(predicted, target, strict=True))
    cosine = dot / math.sqrt(sum(p * p for p in predicted)) / math.sqrt(sum(t * t for t in target))
    return total / len(predicted) + 0.5 * (1 - cosine)


def test_masked_embedding_loss_is_smooth_l1_plus_half_one_minus_cosine() -> None:
    predicted, target = rows(0), rows(1)

    coarse = by_hand(predicted[0, :3].tolist(), target[0, :3].tolist())
    fine = [by_hand(p, t) for p, t in zip(predicted[1:].tolist(), target[1:].tolist(), strict=True)]
    assert masked_embedding_loss(predicted, target, LEVEL, USED).item() == pytest.approx(
        (coarse + sum(fine) / 4) / 2, rel=1e-12
    )


def test_unused_dims_change_no_loss() -> None:
    predicted, target = rows(0), rows(1)
    other = predicted.clone()
    other[0, 3] = 100.0

    assert torch.equal(
        masked_embedding_loss(predicted, target, LEVEL, USED), masked_embedding_loss(other, target, LEVEL, USED)
    )
    variance = torch.zeros_like(predicted)
    assert torch.equal(
        beta_nll(predicted, variance, target, LEVEL, USED), beta_nll(other, variance, target, LEVEL, USED)
    )


def test_beta_nll_with_beta_zero_is_the_gaussian_likelihood() -> None:
    mean, log_variance, target = rows(0), rows(2) / 3, rows(1)
    used = torch.ones(1, 4, dtype=torch.bool)
    level = torch.zeros(5, dtype=torch.long)

    likelihood = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(target)
    expected = -likelihood.mean() - math.log(2 * math.pi) / 2
    assert beta_nll(mean, log_variance, target, level, used, beta=0.0).item() == pytest.approx(
        expected.item(), rel=1e-12
    )


def test_beta_nll_is_least_where_the_variance_is_the_squared_error() -> None:
    error = torch.tensor([[0.3, 1.0, 2.0, 0.7]], dtype=torch.float64)
    log_variance = error.square().log().requires_grad_()
    beta_nll(
        torch.zeros_like(error),
        log_variance,
        error,
        torch.zeros(1, dtype=torch.long),
        torch.ones(1, 4, dtype=torch.bool),
    ).backward()

    assert log_variance.grad is not None
    assert log_variance.grad.abs().max() < 1e-12


def test_the_weight_of_beta_nll_sends_no_gradient() -> None:
    # With beta = 1 the gradient of the mean is the plain error, whatever the variance (Seitzer et al. 2022, eq. 7).
    mean = rows(0).requires_grad_()
    target = rows(1)
    used, level = torch.ones(1, 4, dtype=torch.bool), torch.zeros(5, dtype=torch.long)
    beta_nll(mean, rows(2), target, level, used, beta=1.0).backward()

    assert torch.allclose(mean.grad, (mean.detach() - target) / mean.numel())


def test_contrast_is_the_cross_entropy_of_the_own_view() -> None:
    first, second = rows(0), rows(1)
    slide = torch.tensor([0, 0, 1, 1, 2])

    def one_way(a: Tensor, b: Tensor, drop_same: bool) -> float:
        total = 0.0
        for i in range(5):
            similar = [
                math.exp(float(torch.dot(a[i], b[j]) / a[i].norm() / b[j].norm()) / 0.2)
                for j in range(5)
                if j == i or not (drop_same and slide[i] == slide[j])
            ]
            own = math.exp(float(torch.dot(a[i], b[i]) / a[i].norm() / b[i].norm()) / 0.2)
            total -= math.log(own / sum(similar))
        return total / 5

    for same_slide in (True, False):
        expected = (one_way(first, second, not same_slide) + one_way(second, first, not same_slide)) / 2
        assert region_contrast(first, second, slide, torch.arange(5), same_slide=same_slide).item() == pytest.approx(
            expected, rel=1e-9
        )


def test_a_region_that_comes_twice_is_no_negative_of_itself() -> None:
    first, second = rows(0), rows(1)
    slide, region = torch.zeros(5, dtype=torch.long), torch.tensor([4, 4, 1, 2, 3])
    similar = (torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T / 0.2).exp()

    # By hand, one way for region 0: its repeat, region 1, is missing below the fraction bar.
    one_way = []
    for logits in (similar, similar.T):
        below = logits.sum(dim=1)
        below[0] -= logits[0, 1]
        below[1] -= logits[1, 0]
        one_way.append(-(logits.diagonal() / below).log().mean())
    assert region_contrast(first, second, slide, region).item() == pytest.approx(sum(one_way).item() / 2)


def test_contrast_accuracy_within_a_slide_is_never_below_that_among_all() -> None:
    slide = torch.arange(40) // 8
    first = rows(0, 40, 6)
    second = first + rows(1, 40, 6)

    among_all, within = contrast_accuracy(first, second, slide)
    assert contrast_accuracy(first, first, slide) == (1.0, 1.0)
    assert among_all <= within < 1


def test_the_guard_is_zero_for_spread_and_uncorrelated_dims_and_not_for_collapse() -> None:
    # Columns of a Hadamard matrix: mean 0, orthogonal.
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)

    assert variance_covariance(signs).item() == pytest.approx(0, abs=1e-12)
    # A collapsed batch: each sd is sqrt(1e-4), no covariance.
    assert variance_covariance(torch.ones(4, 3, dtype=torch.float64)).item() == pytest.approx(0.99)
    # One dim repeated three times: covariance 4/3 between each of the six ordered pairs, over three dims.
    repeated = signs[:, :1].expand(4, 3)
    assert variance_covariance(repeated).item() == pytest.approx(0.04 * 6 * (4 / 3) ** 2 / 3)


@pytest.mark.parametrize("loss", ["mem", "nll", "contrast", "contrast_other_slides", "guard"])
def test_gradients(loss: str) -> None:
    first, second, third = (rows(seed).requires_grad_() for seed in range(3))
    target = rows(7)
    slide = torch.tensor([0, 0, 1, 1, 2])

    def value(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        if loss == "mem":
            return masked_embedding_loss(a, target, LEVEL, USED)
        if loss == "nll":
            # beta = 0: a weight that is a constant by definition has no finite differences.
            return beta_nll(a, b, target, LEVEL, USED, beta=0.0)
        if loss == "guard":
            return variance_covariance(c)
        return region_contrast(a, b, slide, torch.arange(5), same_slide=loss == "contrast")

    assert torch.autograd.gradcheck(value, (first, second, third))
