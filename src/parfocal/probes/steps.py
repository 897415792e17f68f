"""How long networks train: a grid of step numbers that grows while its last one is the best."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int64

__all__ = ["AT_EDGE", "StepSearch", "is_at_edge", "step_stages"]

AT_EDGE = ", the most offered"
"""What the name of a choice ends with where the last number of steps was the best, so that more might be better."""

_FIRST = (0.125, 0.25, 0.5, 0.75, 1.0)
_LATER = (1.5, 2.0)


def step_stages(steps: int, growth: int) -> tuple[tuple[int, ...], ...]:
    """The numbers of steps that are tried: up to `steps`, then, for those who chose the last one, twice as many.

    Args:
        steps: the last of the first stage.
        growth: how many times as many the last stage may end with; 1: there is one stage.
    """
    stages = [tuple(sorted({max(1, round(steps * part)) for part in _FIRST}))]
    while (last := stages[-1][-1]) < steps * growth:
        stages.append(tuple(sorted({min(round(last * part), steps * growth) for part in _LATER})))
    return tuple(stages)


class StepSearch:
    """The best number of steps of many networks that are trained side by side, each for itself.

    A network takes part in a stage only where its best so far is the last of the stage before. So what one chooses does
    not depend on the others, however long they train.
    """

    def __init__(self, shape: tuple[int, ...], steps: int, growth: int) -> None:
        """Nothing is tried yet; `shape` is that of the losses."""
        self.stages = step_stages(steps, growth)
        self.loss: Float[np.ndarray, "*network"] = np.full(shape, np.inf)
        self.step: Int64[np.ndarray, "*network"] = np.zeros(shape, dtype=np.int64)
        self.wants_more: Bool[np.ndarray, "*network"] = np.ones(shape, dtype=bool)

    def open_stages(self) -> Iterator[tuple[int, ...]]:
        """One stage after the other, while any network wants one."""
        for stage in self.stages:
            yield stage
            self.wants_more &= self.step == stage[-1]
            if not self.wants_more.any():
                return

    def offer(self, step: int, loss: Float[np.ndarray, "*network"]) -> Bool[np.ndarray, "*network"]:
        """Take the losses after so many steps, and say whose best they are so far; those that are no numbers never."""
        better: Bool[np.ndarray, "*network"] = self.wants_more & (loss < self.loss)
        self.loss, self.step = np.where(better, loss, self.loss), np.where(better, step, self.step)
        return better

    def label(self, step: int) -> str:
        """The name of a choice."""
        return f"{step} steps{AT_EDGE if step == self.stages[-1][-1] else ''}"


def is_at_edge(chosen: str) -> bool:
    """Whether the name of a choice, or of several, has a last number of steps that was the best."""
    return AT_EDGE in chosen
