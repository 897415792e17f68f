"""Pictures of what policies read of a few slides, drawn from the coordinates in a set."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from parfocal.bags import glance_at
from parfocal.budget.reading import Asked, BudgetScores, order_of
from parfocal.budget.result import ORACLE
from parfocal.cohort import Cohort, Fold
from parfocal.errors import ConfigError
from parfocal.evaluate.places.maps import Thumbnail, find_thumbnail
from parfocal.report import Figure, Panel, png
from parfocal.store import EmbeddingSet, SlideTokens
from parfocal.zoom import chosen

_LONGEST_PX = 300
_REGION, _OUTLINED_PX = (30, 60, 200), 5
_FIRST, _MORE, _STRENGTH = (190, 50, 0), (255, 180, 0), 0.75


def draw_read(
    tokens: SlideTokens,
    tile_um: float,
    layers: Sequence[Bool[np.ndarray, " tile"]],
    thumbnail: Thumbnail | None,
) -> UInt8[np.ndarray, "y x 3"]:
    """The part of a slide that has regions, their outlines, and the fine tiles that are read, filled.

    Args:
        tokens: of the slide; only where its regions and fine tiles lie is looked at.
        tile_um: side of a fine tile.
        layers: the tiles of each budget, the least one first, whose tiles have the darkest colour.
        thumbnail: what lies below, in grey; white where None.

    Returns:
        RGB, rows first, its longer side 300 pixels; outlines are left out where a region has less than 5.
    """
    finest = tokens.mpps[-1]
    low = np.maximum(tokens.region_xy_um.min(axis=0), 0.0)
    side_um = tokens.region_xy_um.max(axis=0) + tokens.region_um - low
    um_per_px = float(side_um.max()) / _LONGEST_PX
    width, height = (max(round(side / um_per_px), 1) for side in side_um.tolist())
    picture = (
        np.full((height, width, 3), 255.0) if thumbnail is None else _below(thumbnail, low, side_um, width, height)
    )
    middle = tokens.region_xy_um[tokens.region[finest]] + tokens.region_um / 2 + tokens.center_um[finest]
    done = np.zeros(len(middle), dtype=bool)
    for number, read in enumerate(layers):
        colour = np.array(_FIRST if number == 0 else _MORE)
        for left, top, right, bottom in _edges(middle[read & ~done] - tile_um / 2 - low, tile_um, um_per_px):
            tile = picture[max(top, 0) : bottom, max(left, 0) : right]
            tile[...] = (1 - _STRENGTH) * tile + _STRENGTH * colour
        done |= read
    drawn = np.ascontiguousarray(np.rint(picture), dtype=np.uint8)
    if tokens.region_um / um_per_px >= _OUTLINED_PX:
        for left, top, right, bottom in _edges(tokens.region_xy_um - low, tokens.region_um, um_per_px):
            cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), _REGION, 1)
    return drawn


def _edges(xy_um: Float64[np.ndarray, "square 2"], side_um: float, um_per_px: float) -> list[list[int]]:
    edges: list[list[int]] = np.rint(np.concatenate([xy_um, xy_um + side_um], axis=1) / um_per_px).astype(int).tolist()
    return edges


def _below(
    thumbnail: Thumbnail, low: Float64[np.ndarray, "2"], side_um: Float64[np.ndarray, "2"], width: int, height: int
) -> Float64[np.ndarray, "y x 3"]:
    """The same part of a thumbnail in pale grey; white where regions reach over the slide's edge."""
    pixels, mpp = thumbnail
    # From a pixel of the picture to one of the thumbnail, both about their middles.
    scale = side_um / (width, height) / mpp
    shift = low / mpp + (scale - 1) / 2
    to_thumbnail = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    cut = cv2.warpAffine(
        np.ascontiguousarray(pixels),
        to_thumbnail,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255),
    )
    grey = cut.mean(axis=2, keepdims=True)
    return np.asarray(np.repeat(80 + grey * (175 / 255), 3, axis=2))


def pictured_slides(n_fine: Sequence[int]) -> list[int]:
    """The numbers of the slides with the fewest, the middle and the most fine tiles, each once."""
    order = np.argsort(n_fine, kind="stable").tolist()
    return list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))


def read_figures(
    source: EmbeddingSet,
    cohort: Cohort,
    folds: Sequence[Fold],
    asked: Asked,
    scores: BudgetScores,
    n_fine: Sequence[int],
) -> tuple[Figure, ...]:
    """For three slides, what every policy reads first of them, asked in the first fold that holds the slide out.

    Args:
        source: the set.
        cohort: its slides.
        folds: the outer folds.
        asked: the policies and budgets.
        scores: with the policies of each fold.
        n_fine: fine tiles of each slide.
    """
    tile_px = source.tile_px
    assert tile_px is not None  # a set of tiles
    figures, positive = list[Figure](), [one for one in asked.budgets if one > 0]
    shown = list(dict.fromkeys([positive[0], positive[len(positive) // 2]]))
    for number in pictured_slides(n_fine):
        slide = cohort.slides[number]
        place = next(place for place, fold in enumerate(folds) if number in fold.test)
        tokens, panels = source.read(slide), list[Panel]()
        glance, thumbnail = glance_at(tokens, asked.seed), find_thumbnail(source, slide)
        for policy in scores.policies[place]:
            try:
                order = order_of(policy, tokens, glance, scores.usual[place], budget=max(shown))
            except ConfigError:  # it has no order here, and the page says in how many folds
                continue
            layers = [chosen(order, budget) for budget in shown]
            name = f"{policy.name} (not attainable)" if policy.name == ORACLE else policy.name
            picture = draw_read(tokens, tokens.mpps[-1] * tile_px, layers, thumbnail)
            panels.append(Panel(png(picture), f"What {name} reads first of slide {slide}", name))
        if panels:
            more = f", light what {100 * shown[1]:.3g} % adds to it" if len(shown) > 1 else ""
            below = "" if thumbnail else " The slide is no longer where it was embedded from, so it is not shown below."
            figures.append(
                Figure(
                    tuple(panels),
                    f"{slide}, {n_fine[number]:,} fine tiles: dark what {100 * shown[0]:.3g} % reads{more}; "
                    f"blue: regions.{below}",
                )
            )
    return tuple(figures)
