"""What an objective says: how hidden tokens are predicted, and how two views of the same regions are told apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from parfocal.plugins import Plugin

TokenLoss = Callable[
    [
        Float[Tensor, "token dim"],
        Float[Tensor, "token dim"],
        Int[Tensor, " token"],
        Bool[Tensor, "level dim"],
    ],
    Float[Tensor, ""],
]
"""From predictions and targets of hidden tokens, the number of each one's magnification, and which dims count there."""

ViewLoss = Callable[
    [Float[Tensor, "region dim"], Float[Tensor, "region dim"], Int[Tensor, " region"], Int[Tensor, " region"], Any],
    Float[Tensor, ""],
]
"""From CLS of two views of the same regions, the numbers of their slides and of themselves, and the settings."""


def _alone(settings: Any) -> float:
    """The weight of the only part of a loss."""
    return 1.0


@dataclass(frozen=True)
class Objective(Plugin):
    """One way to pretrain.

    Attributes:
        name: the word of `--objective`.
        tokens: what is minimised over hidden tokens; None where none is predicted.
        views: what is minimised over two views of every region; None where one view is enough.
        view_weight: how much the latter counts, by the settings; 0 saves the second view.
    """

    tokens: TokenLoss | None = None
    views: ViewLoss | None = None
    view_weight: Callable[[Any], float] = _alone

    def contrasts(self, settings: Any) -> bool:
        """Whether two views of each region are needed."""
        return self.views is not None and self.view_weight(settings) > 0
