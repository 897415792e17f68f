"""How many level-0 pixels a pixel of a coarser level has, where the sizes of levels do not say it alone.

Writers round sizes down or up, or fill them up to whole tiles. So the quotient of two sizes is only near the ratio, and
the quotients of width and height differ. The ratio is looked for that explains both sizes; where none does, nothing is
known of where the pixels of the level lie.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# How far a stated ratio may lie from a whole one that explains the sizes too: tags hold few digits. The second where
# the stated one explains them itself.
_DIGITS, _NEAR = 0.002, 0.0005
# How far the quotient of two sizes may lie below a whole ratio, where both may have been filled up by a few pixels.
_ALMOST = 0.01
# What the sides of the blocks of a JPEG stream are filled up to.
_MCU = 16
# The largest ratio that padding alone may suggest: beyond, some whole number fits by chance.
_LIKELY = 4


@dataclass(frozen=True)
class LevelShape:
    """What is known of a coarser level: its size, its tiles (0 where it has none), and the ratio that the file states.

    Attributes:
        width: in its own pixels.
        height: in its own pixels.
        tile_width: of a tile, in its own pixels.
        tile_height: of a tile, in its own pixels.
        stated: level-0 pixels per pixel, from pixel spacings or resolution tags; None where the file says nothing.
    """

    width: int
    height: int
    tile_width: int = 0
    tile_height: int = 0
    stated: float | None = None


def level_ratios(full: LevelShape, levels: Sequence[LevelShape]) -> list[float | None]:
    """The true ratio of each coarser level, finest first; None where no single one explains its width and height."""
    ratios: list[float | None] = []
    for level in levels:
        ratios.append(_ratio(full, level, [1.0, *ratios]))
    return ratios


def ratios_of_sizes(sizes: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """The ratios of levels of which nothing but the sizes is known, level 0 first.

    Raises:
        ValueError: no one ratio explains the width and the height of a level.
    """
    shapes = [LevelShape(width, height) for width, height in sizes]
    ratios = [1.0, *level_ratios(shapes[0], shapes[1:])]
    if None in ratios:
        raise ValueError(f"no one ratio explains the level of {sizes[ratios.index(None)]} px beside {sizes[0]} px")
    return tuple(ratio for ratio in ratios if ratio is not None)


def size_without_padding(full: LevelShape, level: LevelShape, ratio: float) -> tuple[int, int]:
    """The part of a level that shows the slide: what lies beyond is filled up to whole tiles."""
    return tuple(  # type: ignore[return-value]
        part if part <= math.ceil(whole / ratio) else max(math.floor(whole / ratio), 1)
        for whole, part in ((full.width, level.width), (full.height, level.height))
    )


def _ratio(full: LevelShape, level: LevelShape, before: list[float | None]) -> float | None:
    axes = [
        _Axis(full.width, level.width, level.tile_width, full.tile_width),
        _Axis(full.height, level.height, level.tile_height, full.tile_height),
    ]
    if level.stated is not None and level.stated > 1:
        whole, apart = float(round(level.stated)), abs(round(level.stated) - level.stated) / level.stated
        is_rounded = all(axis.is_rounded(level.stated) for axis in axes)
        if apart < (_NEAR if is_rounded else _DIGITS) and all(axis.is_rounded(whole) for axis in axes):
            return whole
        if is_rounded or all(axis.is_filled(level.stated) for axis in axes):
            return level.stated
    # The surest first: a size that was only rounded, by a ratio that the levels before make likely; then one that was
    # filled up, by the ratio that comes next; then what the sizes alone allow.
    expected = _expected(before)
    in_powers = all(one is None or math.log2(one).is_integer() for one in before)
    numbers = _whole_numbers(axes)
    rounded = [number for number in numbers if all(axis.is_rounded(number) for axis in axes)]
    for number in [*expected, *(n for n in rounded if in_powers and math.log2(n).is_integer())]:
        if all(axis.is_rounded(number) for axis in axes):
            return number
    for number in expected:
        if all(axis.is_in_tiles(number) or axis.is_filled(number, _MCU) for axis in axes):
            return number
    is_in_blocks = all(axis.part % _MCU == 0 for axis in axes)
    if rounded:
        best = min(rounded, key=lambda number: sum(axis.error(number) for axis in axes))
        return None if best > _LIKELY and (is_in_blocks or (len(before) > 1 and before[-1] is None)) else best
    in_tiles = [number for number in numbers if all(axis.is_in_tiles(number) for axis in axes)]
    if (
        in_powers
        and len(before) > 1
        and len(powers := [number for number in in_tiles if math.log2(number).is_integer()]) == 1
    ):
        return powers[0]
    if in_tiles:
        return in_tiles[0] if len(in_tiles) == 1 and in_tiles[0] <= _LIKELY else None
    return _between(axes, is_in_blocks)


def _expected(before: list[float | None]) -> list[float]:
    """What comes next in a series: by its last step, or by its first."""
    if len(before) < 2 or None in (before[1], before[-1], before[-2]):
        return []
    first, last, earlier = before[1] or 1.0, before[-1] or 1.0, before[-2] or 1.0
    return list(dict.fromkeys([last * last / earlier, last * first]))


def _whole_numbers(axes: "list[_Axis]") -> list[float]:
    """The whole ratios that may explain the sizes. Padding makes a level larger, so the ratio is above the quotient."""
    low = max(min(axis.whole / (axis.part + 1) for axis in axes), 1.0)
    high = max(axis.whole / max(axis.part - 1, 1) for axis in axes)
    most = max(high, *(axis.whole / max(axis.part - axis.most_padding, 1) for axis in axes))
    return [float(number) for number in range(math.ceil(low), math.floor(min(most, 4 * high)) + 1)]


def _between(axes: "list[_Axis]", is_in_blocks: bool) -> float | None:
    """A ratio that is no whole number and explains both sizes to the pixel, such as the square root of two."""
    low = max(axis.whole / (axis.part + 1) for axis in axes)
    high = min(axis.whole / max(axis.part - 1, 0.5) for axis in axes)
    if low >= high:
        return None
    longer = max(axes, key=lambda axis: axis.part)
    ratio = min(max(longer.whole / longer.part, low), high)
    # Both sizes may have been filled up alike, from a whole ratio a little above.
    above = float(math.ceil(ratio))
    if above - ratio < _ALMOST * ratio and all(axis.is_filled(above) for axis in axes):
        return above
    return None if is_in_blocks else ratio


@dataclass(frozen=True)
class _Axis:
    """Width or height of level 0 and of a level, and of a tile of the level and of level 0."""

    whole: int
    part: int
    tile: int
    full_tile: int

    @property
    def most_padding(self) -> int:
        return max(self.tile, self.full_tile)

    def error(self, ratio: float) -> float:
        return abs(self.whole / ratio - self.part) / self.part

    def is_rounded(self, ratio: float) -> bool:
        """Whether rounding the size by this ratio, down or up, gives the level's."""
        return math.floor(self.whole / ratio) <= self.part <= math.ceil(self.whole / ratio)

    def is_in_tiles(self, ratio: float) -> bool:
        """Whether filling up to whole tiles gives it: those of the level, or those of level 0."""
        for size in {math.floor(self.whole / ratio), math.ceil(self.whole / ratio)}:
            if self.part == _up_to(size, self.tile):
                return True
        outer = _up_to(self.whole, self.full_tile) / ratio
        return math.floor(outer) <= self.part <= math.ceil(outer) or self.part == _up_to(math.ceil(outer), self.tile)

    def is_filled(self, ratio: float, most: int | None = None) -> bool:
        """Whether the level holds the whole width (or height), rounded once or twice, and at most so much beyond."""
        beyond = self.part - math.floor(self.whole / ratio)
        return -2 <= beyond <= (self.most_padding if most is None else most) + 1


def _up_to(size: int, tile: int) -> int:
    return -(-size // tile) * tile if tile else size
