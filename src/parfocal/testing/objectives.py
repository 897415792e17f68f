"""What an objective must do."""

from abc import ABC, abstractmethod

import torch

from parfocal.pretrain.objectives import Objective
from parfocal.pretrain.settings import PretrainSettings


class ObjectiveContract(ABC):
    """Finite losses with finite gradients, the smaller the better the prediction."""

    @abstractmethod
    def make(self) -> Objective:
        """The objective."""

    settings = PretrainSettings(contrast_weight=0.5)

    def test_it_minimises_something(self) -> None:
        """Over hidden tokens, over views, or over both."""
        objective = self.make()
        assert objective.tokens is not None or objective.views is not None

    def test_tokens_that_are_predicted_better_cost_less(self) -> None:
        """Gradients are finite, also where no token is hidden."""
        tokens = self.make().tokens
        if tokens is None:
            return
        target, level = _rows(8, 1), torch.arange(8) % 2
        used = torch.ones(2, target.shape[1], dtype=torch.bool)
        losses = []
        for off in (0.01, 1.0):
            predicted = (target + off * _rows(8, 2)).requires_grad_()
            loss = tokens(predicted, target, level, used)
            (gradient,) = torch.autograd.grad(loss, predicted)
            assert loss.shape == ()
            assert torch.isfinite(gradient).all()
            losses.append(loss.item())
        assert losses[0] < losses[1]
        nothing = tokens(_rows(0, 0).requires_grad_(), _rows(0, 0), level[:0], used)
        assert torch.isfinite(nothing)

    def test_regions_that_are_told_apart_better_cost_less(self) -> None:
        """Views of one region that agree cost less than views that do not."""
        objective = self.make()
        if objective.views is None:
            return
        first, numbers = _rows(6, 3).requires_grad_(), torch.arange(6)
        alike = objective.views(first, first.detach() + 0.01 * _rows(6, 4), numbers // 3, numbers, self.settings)
        exchanged = objective.views(first, first.detach().roll(1, 0), numbers // 3, numbers, self.settings)
        (gradient,) = torch.autograd.grad(alike, first)
        assert torch.isfinite(gradient).all()
        assert alike.item() < exchanged.item()
        assert objective.view_weight(self.settings) >= 0


def _rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
