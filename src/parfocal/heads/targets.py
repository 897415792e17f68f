"""What networks are trained and chosen by: the loss of each family of outcome, for many models side by side.

Every loss comes as a sum and as the amount it is the sum over, so that the inner folds of a training fold, each scored
by a model of its own, are pooled before they are divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from parfocal.cohort import Column

# A slide outside a risk set: exp of it is exactly 0 in float32, and unlike minus infinity it has a gradient.
_FAR_BELOW = -1e4
_SLOPES = (1.0, *(2.0**power for power in (-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 2.5, 3)))


@dataclass(frozen=True, eq=False)
class Targets:
    """What the models of one part of a cross-validation learn from and are judged by.

    Attributes:
        family: of all columns.
        value: 0 or 1; the standardised number; the time.
        event: whether the time is an event's.
        learns: the weight of each slide in the training of each model.
        judges: the weight of each slide in the held-out loss of each model.
        slope: from the score of a model to the unit that `value` is in; 1 but for numbers.
        offset: likewise; 0 but for numbers.
        scale: of the number in the unit of the labels, for each column and fold; 1 for the other families.
        location: likewise; 0 for the other families.
    """

    family: str
    value: Float[Tensor, "model slide"]
    event: Bool[Tensor, " slide"]
    learns: Float[Tensor, "model slide"]
    judges: Float[Tensor, "model slide"]
    slope: Float[Tensor, " model"]
    offset: Float[Tensor, " model"]
    scale: Float[np.ndarray, "column fold"]
    location: Float[np.ndarray, "column fold"]

    def of_folds(self, folds: Int64[np.ndarray, " kept"]) -> "Targets":
        """Those of the models of some folds."""
        models = np.arange(len(self.value)).reshape(-1, self.scale.shape[1])[:, folds].ravel()
        place = torch.from_numpy(models).to(self.value.device)
        return replace(
            self,
            value=self.value[place],
            learns=self.learns[place],
            judges=self.judges[place],
            slope=self.slope[place],
            offset=self.offset[place],
            scale=self.scale[:, folds],
            location=self.location[:, folds],
        )

    def of_slides(self, slides: Int64[np.ndarray, " kept"]) -> "Targets":
        """Those of some slides, for scores of these alone."""
        rows = torch.from_numpy(slides).to(self.value.device)
        return replace(
            self,
            value=self.value[:, rows],
            event=self.event[rows],
            learns=self.learns[:, rows],
            judges=self.judges[:, rows],
        )

    def training_loss(self, score: Float[Tensor, "model slide"]) -> Float[Tensor, " model"]:
        """The mean loss of each model over what it learns from."""
        total, amount = self._sums(score, self.learns)
        return total / amount.clamp(min=1e-6)

    def held_out_loss(self, score: Float[Tensor, "model slide"]) -> Float[Tensor, "column fold"]:
        """The mean loss of each fold over its inner folds, each scored by the model that has not seen it."""
        columns, folds = self.scale.shape
        total, amount = (one.view(columns, -1, folds).sum(dim=1) for one in self._sums(score, self.judges))
        return total / amount.clamp(min=1e-6)

    def best_slope(
        self, score: Float[Tensor, "model slide"]
    ) -> tuple[Float[Tensor, "column fold"], Float[Tensor, "column fold"]]:
        """The held-out loss with the best of a few common factors on all scores of a fold, and that factor.

        Heavy decay, and training on a part of a slide's instances, leave scores that rank well and are too small.
        Without the factor a network that ranks worse and is bolder would be preferred.
        """
        losses = torch.stack([self.held_out_loss(slope * score) for slope in _SLOPES])
        best = losses.min(dim=0)
        return best.values, torch.tensor(_SLOPES, device=score.device)[best.indices]

    def _sums(
        self, score: Float[Tensor, "model slide"], weight: Float[Tensor, "model slide"]
    ) -> tuple[Float[Tensor, " model"], Float[Tensor, " model"]]:
        if self.family == "logistic":
            return logistic_sum(score, self.value, weight), weight.sum(dim=1)
        if self.family == "linear":
            placed = score * self.slope[:, None] + self.offset[:, None]
            return linear_sum(placed, self.value, weight), weight.sum(dim=1)
        return cox_sum(score, self.value[0], self.event, weight), (weight * self.event).sum(dim=1)


def targets_of(
    columns: Sequence[Column],
    learns: Float[np.ndarray, "role fold slide"],
    judges: Float[np.ndarray, "role fold slide"],
    *,
    balanced: bool,
    device: torch.device,
) -> Targets:
    """The targets of all models; model (column, role, fold) has the number that counts folds fastest.

    Numbers are standardised by the slides that a model learns from, and judged in units of the spread of the whole
    training fold (role 0), so that nothing of a held-out slide has a say in its own score.

    Args:
        columns: of one outcome, so of one family.
        learns: 1 for the slides that a model learns from, else 0; role 0 is the whole training fold.
        judges: 1 for the slides that it is judged by.
        balanced: weigh the two classes of a logistic column alike.
        device: where the networks are.
    """
    family = columns[0].family
    n_roles, n_folds, n_slides = learns.shape
    shape = (len(columns), n_roles, n_folds, n_slides)
    value = np.broadcast_to(np.stack([one.value for one in columns])[:, None, None], shape)
    learning, judging = (np.broadcast_to(one[None], shape).astype(np.float64) for one in (learns, judges))
    location, scale = np.zeros(shape[:3]), np.ones(shape[:3])
    if family == "logistic" and balanced:
        learning = class_weights(learning, value, axes=(3,))
        judging = class_weights(judging, value, axes=(1, 3))
    if family == "linear":
        share = learning / np.maximum(learning.sum(axis=3, keepdims=True), 1)
        location = (share * value).sum(axis=3)
        scale = np.sqrt((share * (value - location[..., None]) ** 2).sum(axis=3))
        scale = np.where(scale > 0, scale, 1.0)
        value = (value - location[:, :1, :, None]) / scale[:, :1, :, None]
    slope, offset = scale / scale[:, :1], (location - location[:, :1]) / scale[:, :1]

    def tensor(array: np.ndarray) -> Tensor:
        flat = array.reshape(-1, n_slides) if array.ndim == 4 else array.reshape(-1)
        return torch.from_numpy(np.ascontiguousarray(flat, dtype=np.float32)).to(device)

    return Targets(
        family,
        tensor(value),
        torch.from_numpy(columns[0].event).to(device),
        tensor(learning),
        tensor(judging),
        tensor(slope),
        tensor(offset),
        scale[:, 0],
        location[:, 0],
    )


def class_weights(
    counts: Float[np.ndarray, "column role fold slide"],
    label: Float[np.ndarray, "column role fold slide"],
    *,
    axes: tuple[int, ...],
) -> Float[np.ndarray, "column role fold slide"]:
    """Weights that sum to the number of slides, half of it in each class; where one is absent, the counts themselves.

    Args:
        counts: 1 for a slide that counts, else 0.
        label: 0 or 1.
        axes: over what the classes are made alike.
    """
    positive = (counts * label).sum(axis=axes, keepdims=True)
    negative = (counts * (1 - label)).sum(axis=axes, keepdims=True)
    both = (positive > 0) & (negative > 0)
    half = (positive + negative) / 2
    weight = label * half / np.where(both, positive, 1) + (1 - label) * half / np.where(both, negative, 1)
    return counts * np.where(both, weight, 1.0)


def logistic_sum(
    score: Float[Tensor, "model slide"], label: Float[Tensor, "model slide"], weight: Float[Tensor, "model slide"]
) -> Float[Tensor, " model"]:
    """The weighted sum of the log loss of each model's log odds."""
    return ((functional.softplus(score) - score * label) * weight).sum(dim=1)


def linear_sum(
    score: Float[Tensor, "model slide"], value: Float[Tensor, "model slide"], weight: Float[Tensor, "model slide"]
) -> Float[Tensor, " model"]:
    """The weighted sum of the squared error of each model."""
    return ((score - value) ** 2 * weight).sum(dim=1)


def cox_sum(
    score: Float[Tensor, "model slide"],
    time: Float[Tensor, " slide"],
    event: Bool[Tensor, " slide"],
    weight: Float[Tensor, "model slide"],
) -> Float[Tensor, " model"]:
    """The negative partial log-likelihood of each model's log risk, tied events as Breslow (1974) has them.

    Who is at risk is read off the slides of positive weight alone; 0 where they hold no event.

    Args:
        score: log risk.
        time: of the event or of censoring.
        event: which of the two.
        weight: 1 for the slides of a model, else 0.
    """
    order, last = _risk_order(time)
    sorted_score, inside = score[:, order], weight[:, order] > 0
    at_risk = torch.logcumsumexp(sorted_score.masked_fill(~inside, _FAR_BELOW), dim=1)[:, last]
    counts = inside & event[order]
    return torch.where(counts, at_risk - sorted_score, 0.0).sum(dim=1)


def _risk_order(time: Float[Tensor, " slide"]) -> tuple[Int64[Tensor, " slide"], Int64[Tensor, " slide"]]:
    """Slides from the latest time to the earliest, and for each the last place that has its time."""
    order = torch.argsort(time, descending=True, stable=True)
    _, place, count = torch.unique_consecutive(time[order], return_inverse=True, return_counts=True)
    return order, (torch.cumsum(count, dim=0) - 1)[place]
