"""Which instances of a slide a training step looks at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.probes.settings import ProbeSettings

__all__ = ["Draw", "draw_instances", "shares_of"]


@dataclass(frozen=True, eq=False)
class Draw:
    """The instances of one training step: of each table the row numbers and which of them are real, for every slide.

    `rows` is None where a table has one row for each slide, which is then not copied.
    """

    rows: tuple[Int64[Tensor, "slide _drawn"] | None, ...]
    real: tuple[Bool[Tensor, "slide _drawn"], ...]

    def of(self, tables: Sequence[Float[Tensor, "fold _row _kept"]]) -> list[Float[Tensor, "fold slide _drawn _kept"]]:
        """The drawn rows of each table."""
        return [
            table[:, :, None] if drawn is None else table[:, drawn.reshape(-1)].view(len(table), *drawn.shape, -1)
            for table, drawn in zip(tables, self.rows, strict=True)
        ]


def shares_of(starts: Sequence[Int64[np.ndarray, " bound"]], settings: ProbeSettings) -> list[int]:
    """How many instances of each table are drawn: its share of all, at least one, and no more than a slide has."""
    counts = [np.diff(start) for start in starts]
    sizes = np.array([one.mean() for one in counts])
    shares = np.maximum(1, np.rint(settings.attention_instances * sizes / max(sizes.sum(), 1e-12)))
    return [max(1, min(int(share), int(one.max()))) for share, one in zip(shares, counts, strict=True)]


def draw_instances(
    starts: Sequence[Int64[np.ndarray, " bound"]], settings: ProbeSettings, steps: int
) -> Iterator[Draw]:
    """Draws for every step, from where the rows of each slide begin in each table.

    A small slide is taken whole, a larger one with repetition: among hundreds, a double changes nothing.
    """
    rng = np.random.default_rng([settings.seed, 4])
    device = torch.device(settings.device)
    shares = shares_of(starts, settings)
    for _ in range(steps):
        numbers, real = [], []
        for start, share in zip(starts, shares, strict=True):
            counts = np.diff(start)[:, None]
            order = np.arange(share)[None]
            random = rng.integers(0, np.maximum(counts, 1), (len(counts), share))
            drawn = start[:-1, None] + np.where(counts <= share, np.minimum(order, counts - 1), random)
            there = (order < counts) | (counts > share)
            single = share == 1 and bool((counts == 1).all())
            numbers.append(None if single else torch.from_numpy(np.where(there, drawn, 0)).to(device))
            real.append(torch.from_numpy(there).to(device))
        yield Draw(tuple(numbers), tuple(real))
