"""Whether an encoder gives the rows that are stored, from the places that they name: some are encoded again."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from parfocal.encoders import TileEncoder
from parfocal.errors import MismatchError, UnreadableSlideError
from parfocal.geometry import Box, format_mpp
from parfocal.slides import Slide, read_tile

# On the colon section (benchmarks/add_to.py) the same encoder on the same places has a median of 0.96 and more, through
# JPEG of quality 80 or another resampling; other normalisations, half a tile or another size have 0.82 at most.
LEAST_COSINE = 0.9
MOST_BELOW = 0.25
# Of fewer rows the mean says nothing about what all tiles have in common.
_FEWEST = 8


@dataclass(frozen=True)
class Agreement:
    """How far rows that were encoded again are from those that are stored.

    Attributes:
        n_tiles: how many were.
        n_below: of how many the cosine is below the limit.
        median: of the cosines.
        worst: the smallest.
    """

    n_tiles: int
    n_below: int
    median: float
    worst: float

    @property
    def is_same(self) -> bool:
        """Whether one encoder has made both."""
        return self.n_below <= MOST_BELOW * self.n_tiles


def agreement(
    stored: Float[np.ndarray, "row dim"], again: Float[np.ndarray, "tile dim"], number: np.ndarray
) -> Agreement:
    """Compare rows with those of the same tiles, by cosines about the mean of all rows of the slide.

    About zero all tiles look alike to many encoders: their rows share a large part that says nothing of the tile.

    Args:
        stored: all rows of the slide.
        again: some of them, encoded again.
        number: which.
    """
    middle = stored.mean(axis=0, dtype=np.float64) if len(stored) >= _FEWEST else 0.0
    one, other = stored[number].astype(np.float64) - middle, again.astype(np.float64) - middle
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    # Rows without a direction agree with those that are equal to them, and with no other.
    cosines = np.where(
        lengths > 0,
        (one * other).sum(axis=1) / np.where(lengths > 0, lengths, 1.0),
        (one == other).all(axis=1).astype(np.float64),
    )
    below = int((cosines < LEAST_COSINE).sum())
    return Agreement(len(again), below, float(np.median(cosines)), float(cosines.min()))


def verify_rows(
    slide: Slide,
    encoder: TileEncoder,
    mpp: float,
    *,
    slide_id: str,
    stored: Float[np.ndarray, "row dim"],
    xy_um: Float64[np.ndarray, "row 2"],
    side_um: float,
    n_tiles: int,
    batch: int,
) -> Agreement | None:
    """Encode some tiles of a slide again, evenly over its rows, and compare; None where it has no tile.

    Args:
        slide: the open slide.
        encoder: which shall have made the rows.
        mpp: the name of the magnification.
        slide_id: how messages call the slide.
        stored: its rows.
        xy_um: the top left of the tile of each.
        side_um: side of a tile.
        n_tiles: how many to encode again.
        batch: how many at once.

    Raises:
        MismatchError: the rows are others.
        UnreadableSlideError: none of these tiles can be read.
    """
    if not len(stored):
        return None
    number, tiles, problem = [], [], None
    for row in np.unique(np.linspace(0, len(stored) - 1, min(n_tiles, len(stored))).round().astype(int)):
        x_um, y_um = xy_um[row].tolist()
        try:
            tiles.append(read_tile(slide, Box(x_um, y_um, side_um, side_um), mpp=side_um / encoder.tile_px))
            number.append(row)
        except UnreadableSlideError as error:
            problem = error
    if not tiles and problem is not None:
        raise problem
    starts = range(0, len(tiles), batch)
    again = np.concatenate([encoder.encode(np.stack(tiles[start : start + batch])) for start in starts])
    found = agreement(stored, again, np.array(number))
    if not found.is_same:
        raise MismatchError(
            f"the rows of {slide_id} at {format_mpp(mpp)} mpp are not what {encoder.spec} gives there: of "
            f"{found.n_tiles} tiles encoded again {found.n_below} have a cosine below {LEAST_COSINE:g} (median "
            f"{found.median:.3f}, worst {found.worst:.3f}; of the same encoder on the same places the median is above "
            "0.95). The encoder, its normalisation or the coordinates are others. Name the encoder that made them "
            "(--encoder), index the slide's own features, or use --verify 0 to put rows of another encoder beside them."
        )
    return found


def agreement_text(found: Mapping[float, Agreement]) -> str:
    """How well stored rows agree, for the line of a slide."""
    parts = [
        f"{one.n_tiles} tiles at {format_mpp(mpp)} mpp encoded again (median cosine {one.median:.4f}, worst "
        f"{one.worst:.4f})"
        for mpp, one in found.items()
    ]
    return ", ".join(parts)
