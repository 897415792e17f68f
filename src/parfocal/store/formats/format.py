"""What a feature format says: where the tiles of a file lie, and what their rows are.

One of ours is a file of this folder with a `FeatureFormat` in it. Another package's is found by its entry point in the
group `parfocal.feature_formats`; `parfocal.testing.FeatureFormatContract` says what it must do. Which format a file has
is told by the ending of its name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from parfocal.errors import StoreError
from parfocal.plugins import Plugin, Registry


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """Where the tiles of one slide lie, at one magnification.

    Attributes:
        path: the file.
        xy_l0px: top left of each tile, in level-0 pixels.
        tile_px: side of a tile in its own pixels.
        tile_l0px: side of a tile in level-0 pixels; may be broken.
        target_magnification: the nominal magnification that was asked for; None where the file does not say.
        dim: width of a row.
        slide_mpp: the slide's resolution, where the file says it (parfocal's own do).
        size_l0px: width and height of level 0; zeros where the file does not say.
        float16: whether rows are float16.
        slide: the slide's id, where the file says it.
    """

    path: Path
    xy_l0px: Float64[np.ndarray, "tile 2"]
    tile_px: int
    tile_l0px: float
    dim: int
    target_magnification: float | None = None
    slide_mpp: float | None = None
    size_l0px: tuple[int, int] = (0, 0)
    float16: bool = False
    slide: str | None = None

    def without_places(self) -> "FeatureFile":
        """The same without the places of its tiles, as thousands of files are kept in memory."""
        return replace(self, xy_l0px=np.zeros((0, 2)))


@dataclass(frozen=True)
class FeatureFormat(Plugin):
    """One layout of features that other tools write.

    Attributes:
        name: what an index calls it.
        suffix: how its files end, such as `.h5`.
        read_places: where the tiles of a file lie; rows stay on disk.
        read_rows: the rows of a file, one for each place, in their order.
    """

    suffix: str
    read_places: Callable[[Path], FeatureFile]
    read_rows: Callable[[Path], Float[np.ndarray, "tile dim"]]


FORMATS: Registry[FeatureFormat] = Registry(FeatureFormat, "feature format", "parfocal.store.formats")


def format_of(path: Path) -> FeatureFormat:
    """The format of a file, by the ending of its name.

    Raises:
        StoreError: no format has that ending, or two have.
        PluginError: the package that adds it fails.
    """
    fitting = [each for each in FORMATS if path.name.endswith(each.suffix)]
    if len(fitting) != 1:
        names = ", ".join(each.name for each in fitting) or "no format"
        raise StoreError(f"cannot use {path}: {names} has files that end so; expected is one format.")
    return fitting[0]
