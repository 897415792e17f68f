"""A budget of all slides together: the fine tiles that are worth most, whatever slide they are on.

Every slide is read coarsely first. Then as many tiles are chosen as the budget pays for. Along the order of a slide
worth never rises, so the chosen ones of it are its first, and each slide is read to a budget of its own.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from parfocal.embed.glance import n_chosen
from parfocal.embed.stored_part import in_part
from parfocal.errors import MismatchError
from parfocal.geometry import format_mpp
from parfocal.store.h5 import opened_h5
from parfocal.store.layout import BUDGET, index_path


def n_of_each(
    worth: Mapping[str, Float[np.ndarray, " _tile"]], n_read: Mapping[str, int], budget: float
) -> dict[str, int]:
    """How many of the first tiles of each slide are read: in all `n_chosen` of the tiles of all slides.

    Tiles that have been read stay; the others are chosen by worth, equal ones by the slide's id and then as they are
    ordered. So what a smaller budget has read of the same slides is what a larger one reads first.

    Args:
        worth: of all planned tiles of each slide as they are ordered, never rising.
        n_read: how many of the first of them have been read.
        budget: share of the tiles of all slides, 0 to 1.

    Raises:
        MismatchError: more have been read than the budget pays for.
    """
    n_tiles, n_before = sum(map(len, worth.values())), sum(n_read.values())
    more = n_chosen(n_tiles, budget) - n_before
    if more < 0:
        raise MismatchError(
            f"{n_before} of the {n_tiles} fine tiles of these slides have been read, and a budget of {budget:g} of all "
            f"slides together pays for {n_before + more}. Ask for at least as much, or use another store."
        )
    counts, left = dict(n_read), {slide: worth[slide][n_read[slide] :] for slide in sorted(worth)}
    if more:
        every = np.concatenate(list(left.values()))
        least = np.partition(every, len(every) - more)[len(every) - more]
        for takes in (np.greater, np.equal):
            for slide, own in left.items():
                n = min(int(takes(own, least).sum()), more)
                counts[slide], more = counts[slide] + n, more - n
    return counts


def shares_of_all(set_path: Path, slides: Iterable[str], mpp: float, budget: float) -> dict[str, float]:
    """What a budget of all slides together comes to for each of them, by what their indices keep.

    Args:
        set_path: the set.
        slides: which have been read coarsely, or in part by a smaller budget; one that was read whole is left out.
        mpp: micrometres per pixel of the fine tiles.
        budget: share of the fine tiles of all of them, 0 to 1.

    Raises:
        MismatchError: more have been read than the budget pays for.
        StoreError: an index is damaged.
    """
    worth, n_read = dict[str, np.ndarray](), dict[str, int]()
    for slide in slides:
        with opened_h5(index_path(set_path, slide), f"Remove it to embed {slide} anew.") as index:
            if in_part(index.attrs):
                worth[slide] = index[format_mpp(mpp)]["worth"][...]
                n_read[slide] = n_chosen(len(worth[slide]), float(index.attrs[BUDGET]))
    counts = n_of_each(worth, n_read, budget)
    return {slide: counts[slide] / max(len(own), 1) for slide, own in worth.items()}
