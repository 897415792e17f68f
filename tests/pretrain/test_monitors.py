"""Monitors against an independent computation, and what they say about collapsed representations."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from parfocal.pretrain.monitors import (
    CollapseWatch,
    R2Sums,
    halves_by_slide,
    intra_region_cosine,
    rank_me,
    ridge_r2,
    slide_probe,
)


def rows(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "dim"), [(50, 7), (7, 50)])
def test_rank_me_is_the_entropy_of_the_singular_values(n: int, dim: int) -> None:
    values = rows(n, dim) @ torch.diag(1 / torch.arange(1, dim + 1, dtype=torch.float64)) + 3

    singular = np.linalg.svd((values - values.mean(dim=0)).numpy(), compute_uv=False)
    share = singular / singular.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share if p > 1e-12))
    # The formula's 1e-7 is not in the hand calculation, and the root of a rounded eigenvalue is some 1e-8.
    assert rank_me(values) == pytest.approx(expected, rel=1e-4)


def test_rank_me_of_equal_directions_is_their_number_and_of_a_line_is_one() -> None:
    corners = torch.cat([torch.eye(5), -torch.eye(5)]) * 4 + 100

    assert rank_me(corners) == pytest.approx(5, rel=1e-4)
    assert rank_me(torch.arange(20.0)[:, None] @ torch.ones(1, 6)) == pytest.approx(1, abs=1e-4)
    assert rank_me(torch.ones(20, 6)) == pytest.approx(1, abs=1e-4)
    assert math.isnan(rank_me(torch.ones(1, 6)))


def test_r2_pools_over_tokens_dims_and_calls() -> None:
    target, predicted = rows(10, 4), rows(10, 4, seed=1)
    sums = R2Sums()
    sums.add("whole", 0.5, predicted[:3], target[:3])
    sums.add("whole", 0.5, predicted[3:8], target[3:8])
    sums.add("random", 2.0, predicted[8:], target[8:])

    def r2(part: slice) -> float:
        error = ((predicted[part] - target[part]) ** 2).mean().item()
        return 1 - error / (target[part] ** 2).mean().item()

    assert sums.of(pattern="whole", mpp=0.5) == pytest.approx(r2(slice(0, 8)))
    assert sums.of(mpp=2.0) == pytest.approx(r2(slice(8, 10)))
    assert sums.of() == pytest.approx(r2(slice(0, 10)))
    assert math.isnan(sums.of(pattern="subtree"))


def test_a_constant_prediction_of_the_training_mean_has_r2_zero() -> None:
    sums = R2Sums()
    sums.add("random", 1.0, torch.zeros(10, 4, dtype=torch.float64), rows(10, 4) + 2)

    assert sums.of() == 0


def test_latent_targets_are_measured_about_their_own_mean() -> None:
    target, predicted = rows(10, 4) + 5, rows(10, 4, seed=1) + 5
    sums = R2Sums(about_own_mean=True)
    sums.add("random", 1.0, predicted[:6], target[:6])
    sums.add("random", 1.0, predicted[6:], target[6:])

    spread = ((target - target.mean(dim=0)) ** 2).sum()
    assert sums.of() == pytest.approx(1 - (((predicted - target) ** 2).sum() / spread).item())


def test_intra_region_cosine_is_the_mean_over_pairs() -> None:
    tokens = rows(3 * 5, 4).reshape(3, 5, 4)
    present = torch.tensor([[1, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    level = torch.tensor([0, 1, 1, 1, 1]).expand(3, 5)

    values = tokens.clone()
    for one in (0, 1):
        chosen = present & (level == one)
        values[chosen] -= values[chosen].mean(dim=0)
    cosines = [
        float(torch.nn.functional.cosine_similarity(values[r, i], values[r, j], dim=0))
        for r in range(3)
        for i in range(5)
        for j in range(5)
        if i < j and present[r, i] and present[r, j]
    ]
    assert intra_region_cosine(tokens, present, level) == pytest.approx(sum(cosines) / len(cosines))


def test_tokens_that_equal_their_region_have_cosine_one() -> None:
    tokens = rows(20, 4)[:, None].expand(20, 5, 4)

    assert intra_region_cosine(
        tokens, torch.ones(20, 5, dtype=torch.bool), torch.zeros(20, 5, dtype=torch.long)
    ) == pytest.approx(1)


def test_ridge_r2_agrees_with_scikit_learn() -> None:
    x, noise = rows(60, 5), rows(60, 3, seed=2)
    y = x @ rows(5, 3, seed=3) + noise + 4
    fit = torch.arange(60) % 3 != 0

    z = (x - x[fit].mean(dim=0)) / x[fit].std(dim=0, correction=0)
    model = Ridge(alpha=1e-3 * int(fit.sum())).fit(z[fit].numpy(), y[fit].numpy())
    error = ((y[~fit].numpy() - model.predict(z[~fit].numpy())) ** 2).sum()
    spread = ((y[~fit] - y[fit].mean(dim=0)) ** 2).sum().item()
    assert ridge_r2(x, y, fit) == pytest.approx(1 - error / spread, rel=1e-9)


def test_slide_probe_reads_a_slide_offset_and_nothing_from_noise() -> None:
    slide = torch.arange(400) // 50
    offset = rows(8, 12, seed=5)[slide] * 3

    read, chance = slide_probe(rows(400, 12) + offset, slide, generator=torch.Generator().manual_seed(0))
    noise, _ = slide_probe(rows(400, 12), slide, generator=torch.Generator().manual_seed(0))
    assert chance == pytest.approx(1 / 8)
    assert read > 0.95
    # Three standard errors of 1/8 in 200 regions.
    assert noise == pytest.approx(1 / 8, abs=0.07)
    assert all(map(math.isnan, slide_probe(rows(9, 3), torch.zeros(9, dtype=torch.long), generator=torch.Generator())))


def test_probes_are_fitted_on_other_slides_than_they_are_scored_on() -> None:
    slide = torch.tensor([4, 4, 7, 7, 9, 9])

    fit = halves_by_slide(slide, torch.arange(6))
    assert set(slide[fit].tolist()).isdisjoint(slide[~fit].tolist())
    # One slide: regions 0 1 2 are its first half.
    region = torch.tensor([0, 0, 1, 2, 3, 4, 5, 5])
    assert halves_by_slide(torch.zeros(8, dtype=torch.long), region).tolist() == [True] * 4 + [False] * 4


def test_the_watch_speaks_once_and_only_of_collapse() -> None:
    watch = CollapseWatch()
    most = {"rank_me_cls": 100.0}

    assert (
        watch.look(1, {"rank_me_cls": 50.0, "token_cosine": 0.3, "retention_r2": 0.8, "slide_probe": 0.9}, most) == []
    )
    assert watch.look(2, {"rank_me_cls": 36.0}, most) == []
    (fell,) = watch.look(3, {"rank_me_cls": 34.0}, most)
    assert "fell from 50.0 to 34.0" in fell
    assert watch.look(4, {"rank_me_cls": 33.0}, most) == []
    (low,) = watch.look(5, {"rank_me_cls": 9.0, "retention_r2": math.nan}, most)
    assert "below 10 %" in low
    assert len(watch.look(6, {"token_cosine": 0.99, "retention_r2": 0.01}, most)) == 2
