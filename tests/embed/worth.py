"""What tiles are worth, by their numbers; worker processes import this file, which asks for little."""

from collections.abc import Callable

import numpy as np

from parfocal.embed.glance import Glance, Ranked

BASE = {"a": 0.0, "b": 10.0, "c": 0.1}


def by_number(glance: Glance) -> Ranked:
    """A tile is worth its place from the end, over the slide's tiles, and a number of the slide's more."""
    worth = (glance.n_tiles - np.arange(glance.n_tiles)) / glance.n_tiles + BASE[glance.coarse.slide]
    return Ranked(np.arange(glance.n_tiles), worth)


def prepare_by_number() -> Callable[[Glance], Ranked]:
    return by_number
