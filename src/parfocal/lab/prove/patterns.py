"""What is hidden in a proof: the mask patterns of pretraining, and each whole magnification by itself.

The tile that a person would look at first to guess a hidden one: its parent, else its children, else its sisters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from parfocal.geometry import format_mpp
from parfocal.lab.prove.layout import Layout, Slots, Tiles
from parfocal.pretrain.masks import hide


def relation(layout: Layout, step: int) -> Bool[np.ndarray, "slot slot"]:
    """Which slots (second axis) lie `step` magnifications finer than a slot (first axis), inside or over it.

    A negative step gives what lies over it; 0 the other tiles of its own magnification.
    """
    apart = layout.level[None] - layout.level[:, None]
    nested = layout.contains | layout.contains.T
    if step == 0:
        return np.asarray((apart == 0) & ~np.eye(layout.n_slots, dtype=bool))
    return np.asarray((apart == step) & nested)


def nearest_relatives(tokens: Tiles, visible: Slots, layout: Layout) -> tuple[Tiles, Int64[np.ndarray, "region slot"]]:
    """For every slot the mean of its nearest visible relatives, and their magnification; -1 where it has none.

    The finest visible tile over it; else the visible tiles inside it, of the coarsest magnification that has one; else
    the visible others of its own magnification.
    """
    source = np.zeros_like(tokens)
    level = np.full(visible.shape, -1, dtype=np.int64)
    for step in _steps(len(layout.mpps)):
        weight = (visible[:, None] & relation(layout, step)[None]).astype(np.float32)  # (region, slot, source)
        count = weight.sum(axis=2)
        taken = (level < 0) & (count > 0)
        if not taken.any():
            continue
        mean = (weight / np.maximum(count, 1)[..., None]) @ tokens
        source[taken] = mean[taken]
        level[taken] = np.broadcast_to(layout.level + step, level.shape)[taken]
    return source, level


def _steps(n_levels: int) -> Iterator[int]:
    yield from range(-1, -n_levels, -1)
    yield from range(1, n_levels)
    yield 0


@dataclass(frozen=True)
class Pattern:
    """One way to hide tiles.

    Attributes:
        name: as in tables and files.
        title: as a heading.
        sentence: what it hides.
        mask: the pattern of pretraining that it is, or `whole`.
        level: the magnification that `whole` hides, as a place in the layout's.
    """

    name: str
    title: str
    sentence: str
    mask: str
    level: int | None = None

    @property
    def is_cross_scale(self) -> bool:
        """Whether everything visible is of other magnifications than everything hidden."""
        return self.mask == "whole"


def patterns_of(layout: Layout) -> tuple[Pattern, ...]:
    """The patterns that say something for these magnifications."""
    found = [Pattern("random", "Random tiles hidden", "Tiles drawn at random, of all magnifications.", "random")]
    if len(layout.mpps) > 1:
        for level, mpp in enumerate(layout.mpps):
            name = format_mpp(mpp)
            found.append(
                Pattern(
                    f"whole {name}",
                    f"All tiles at {name} mpp hidden",
                    f"All tiles at {name} mpp; the others are visible.",
                    "whole",
                    level,
                )
            )
        found.append(
            Pattern(
                "subtree",
                "A tile hidden with all inside it",
                "A tile and all finer tiles inside it, sometimes also the one over it.",
                "subtree",
            )
        )
    if len(layout.mpps) > 2:
        found.append(
            Pattern(
                "coarse only", "Only the coarsest visible", "Everything but the coarsest magnification.", "coarse_only"
            )
        )
    return tuple(found)


def draw_hidden(
    pattern: Pattern, layout: Layout, present: Slots, *, rate: Sequence[float], most: int | None = None, seed: int
) -> Slots:
    """The hidden tiles of each region; none where the pattern is impossible or nothing would stay visible.

    Args:
        pattern: the way to hide.
        layout: where slots lie.
        present: which tiles there are.
        rate: smallest and largest share that the random pattern hides.
        most: in at most so many regions something is hidden, drawn at random; None for all.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    if pattern.mask == "whole":
        hidden = present & (layout.level == pattern.level)
    else:
        n = len(present)
        hidden = hide(
            pattern.mask,
            torch.from_numpy(np.tile(layout.xy_um, (n, 1, 1))),
            torch.from_numpy(np.tile(layout.mpp, (n, 1))),
            torch.from_numpy(present),
            tile_px=layout.tile_px,
            rate=(float(rate[0]), float(rate[1])),
            generator=generator,
        ).numpy()
    possible = hidden.any(axis=1) & (present & ~hidden).any(axis=1)
    if most is not None and possible.sum() > most:
        chosen = torch.randperm(int(possible.sum()), generator=generator)[:most].numpy()
        kept = np.zeros_like(possible)
        kept[np.flatnonzero(possible)[chosen]] = True
        possible = kept
    return np.asarray(hidden & possible[:, None])
