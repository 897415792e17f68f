"""Value of information: the regions first whose fine tiles are expected to move the score of a fitted head most.

    value = E |f(S + x~) - f(S)|

f is the score of the slide by the frozen head, S what is known of the slide, and x~ the fine tiles of a region, drawn
from what a pretrained model predicts of them: normal numbers about its mean with its variance, in antithetic pairs. A
contrast head counts what is read and nothing else, so to it nothing of S is read; to other heads S has the expected
tile at every unread place, because they take what they are shown for all there is. With several columns the value is
the length of the change.

The same random numbers serve all regions, so that regions of which the model is equally unsure differ by what the head
makes of them and not by the draw.

A head of slide means is asked of all regions at once, which takes about as long as the model does. Other heads are
asked of the whole slide once for each region and draw, so the time grows with the square of the number of regions.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64, Int

from parfocal.bags import Bag, TileDecoder, bag_of_slide
from parfocal.embed.glance import Glance, Ranked
from parfocal.errors import ConfigError
from parfocal.heads import HEADS, score_partly_read
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.region_encoder.batch import number_ranges
from parfocal.zoom.head import HeadOfBags
from parfocal.zoom.order import best_regions_first
from parfocal.zoom.policies.policy import Order, Policy

_DRAWS = 4
_REGIONS_AT_A_TIME = 256
_ONE = np.array([0])


def value_of_reading(
    head: HeadOfBags, decoder: TileDecoder, glance: Glance, *, draws: int = _DRAWS
) -> Float64[np.ndarray, " region"]:
    """How far the score of a slide is expected to move when the fine tiles of a region are read.

    Args:
        head: pools the fine magnification and coarser ones.
        decoder: asked for tiles of the fine one.
        glance: of the slide.
        draws: how many readings of each region are drawn; even, because each has its opposite.

    Returns:
        In the units of the score; NaN for a region without a planned tile, or of which no coarse tile is known.

    Raises:
        ConfigError: the head does not pool these magnifications.
    """
    unread = head.number_of(glance.mpp)
    known = head.known(glance.coarse, {unread})
    worth = np.full(glance.coarse.n_regions, np.nan)
    mean, spread = (np.full((glance.n_tiles, decoder.dim), np.nan, dtype=np.float32) for _ in range(2))
    for rows, said, variance in decoder.ask_tiles(glance.coarse, glance.region, glance.center_um):
        mean[rows], spread[rows] = said.numpy(), variance.sqrt().numpy()
    can = ~np.isnan(mean[:, 0])
    if not can.any():
        return worth
    mean, spread, region = mean[can], spread[can], glance.region[can]
    expected = replace(
        glance.coarse,
        features={glance.mpp: mean},
        region={glance.mpp: region},
        center_um={glance.mpp: glance.center_um[can]},
    )
    fine = bag_of_slide(expected, glance.mpp)
    slide = _Slide(head, [fine if number == unread else known[number] for number in range(len(head.bags))], unread)
    numbers, first, count = np.unique(region, return_index=True, return_counts=True)
    half = glance.generator().standard_normal((draws // 2, count.max(), decoder.dim), dtype=np.float32)
    drawn = np.concatenate([half, -half])
    for begin in range(0, len(numbers), _REGIONS_AT_A_TIME):
        some = slice(begin, begin + _REGIONS_AT_A_TIME)
        tile = number_ranges(first[some], count[some])
        place = number_ranges(np.zeros_like(count[some]), count[some])
        moved = slide.moved(numbers[some], first[some], count[some], spread[tile] * drawn[:, place])
        worth[numbers[some]] = np.linalg.norm(moved, axis=2).mean(axis=0)
    return worth


class _Slide:
    """A slide as its head sees it when none of its fine tiles is read, and what readings of a region change of it."""

    def __init__(self, head: HeadOfBags, bags: list[Bag], unread: int) -> None:
        """`bags[unread]` has the expected tiles; its arrays are this object's own."""
        self._probe, self._bags, self._unread = head.probe, bags, unread
        self._counts_parts = isinstance(head.probe, FittedContrast)
        name = head.probe.state().probe
        self._pools_means = name in HEADS and HEADS.get(name).pools == "means"
        fine = bags[unread]
        self._expected, self._mean = np.array(fine.rows), fine.mean[0].copy()
        if self._counts_parts:
            np.asarray(fine.region_mean)[:], fine.region_present[:] = np.nan, False
        self._before = self._score()

    def moved(
        self,
        numbers: Int[np.ndarray, " region"],
        first: Int[np.ndarray, " region"],
        count: Int[np.ndarray, " region"],
        change: Float32[np.ndarray, "draw tile dim"],
    ) -> Float64[np.ndarray, "draw region column"]:
        """How far the score moves with each reading of each of some regions.

        Args:
            numbers: of the regions in the slide.
            first: where the tiles of each begin among all of the slide.
            count: how many each has.
            change: of all their tiles, what is read less what is expected.
        """
        begin = first - first[0]
        total = np.add.reduceat(change, begin, axis=1)
        if self._pools_means:
            means = self._mean + total / len(self._expected)  # (draw, region, dim)
            shown = self._of_means(means.reshape(-1, means.shape[2]))
            scores = self._probe.score(shown, np.arange(means.shape[0] * means.shape[1]))
            return np.asarray((scores - self._before).reshape(*means.shape[:2], -1))
        fine, moved = self._bags[self._unread], np.empty((*total.shape[:2], len(self._before)))
        rows, means = np.asarray(fine.rows), np.asarray(fine.region_mean)
        for place, (number, start, n) in enumerate(zip(numbers, first, count, strict=True)):
            own, was = slice(start, start + n), (means[number].copy(), fine.region_present[number])
            for draw, tiles in enumerate(change[:, begin[place] : begin[place] + n]):
                rows[own] = self._expected[own] + tiles
                means[number], fine.region_present[number] = rows[own].mean(axis=0), True
                alone = means[number]
                fine.mean[0] = alone if self._counts_parts else self._mean + total[draw, place] / len(self._expected)
                moved[draw, place] = self._score() - self._before
            rows[own] = self._expected[own]
            means[number], fine.region_present[number] = was
        return moved

    def _score(self) -> Float64[np.ndarray, " column"]:
        if isinstance(self._probe, FittedContrast):
            return np.asarray(score_partly_read(self._probe, self._bags, _ONE, (self._unread,))[0])
        return np.asarray(self._probe.score(self._bags, _ONE)[0])

    def _of_means(self, means: Float32[np.ndarray, "slide dim"]) -> list[Bag]:
        """Bags of as many slides as there are means of the fine tiles; they have nothing but means."""
        n, none = len(means), np.zeros(len(means) + 1, dtype=np.int64)
        return [
            replace(
                bag,
                slides=bag.slides * n,
                rows=bag.rows[:0],
                start=none,
                n_instances=np.repeat(bag.n_instances, n),
                mean=means if number == self._unread else np.broadcast_to(bag.mean, (n, bag.dim)),
                region_mean=bag.region_mean[:0],
                region_start=none,
                region_present=bag.region_present[:0],
            )
            for number, bag in enumerate(self._bags)
        ]


def _by_value(head: HeadOfBags, decoder: TileDecoder) -> Order:
    if decoder.whitened:
        raise ConfigError(
            "the policy value shows a head the tiles that a model predicts, and this model predicts whitened ones, "
            "which are other numbers. Pretrain one with targets=standardised."
        )

    def order(glance: Glance) -> Ranked:
        return best_regions_first(value_of_reading(head, decoder.at(glance.mpp), glance), glance)

    return order


# A head is shown all that it pools, and before a coarser magnification is chosen nothing is expected of finer ones.
VALUE = Policy("value", needs=("head", "model"), binds=_by_value, draws=True, over_slides=True, by_levels=False)
