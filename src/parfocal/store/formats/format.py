"""What a feature format says: which features a file holds, where their tiles lie, and what their rows are.

One of ours is a file of this folder with a `FeatureFormat` in it. Another package's is found by its entry point in the
group `parfocal.feature_formats`; `parfocal.testing.FeatureFormatContract` says what it must do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from parfocal.plugins import Plugin, Registry


@dataclass(frozen=True)
class FeatureSource:
    """The features of one slide at one magnification, as they were found.

    Attributes:
        path: the file, or the folder of a format that has folders, that holds the rows.
        part: which of its features, where it holds several; empty where it holds one.
        beside: files of the same format and slide that hold no rows, such as where the tiles lie.
    """

    path: Path
    part: str = ""
    beside: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({self.part})" if self.part else str(self.path)


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """Where the tiles of one slide lie, at one magnification.

    Attributes:
        source: what was read.
        xy: top left of each tile, in the file's unit.
        tile_px: side of a tile in its own pixels.
        tile: side of a tile in the file's unit; may be broken.
        dim: width of a row.
        unit: pixels of level 0, or micrometres.
        stride: from one tile to the next, in the file's unit; None where the file does not say it.
        target_magnification: the nominal magnification that was asked for; None where the file does not say.
        slide_mpp: micrometres in a pixel of level 0, where the file says it.
        size_l0px: width and height of level 0; zeros where the file does not say.
        float16: whether rows are float16.
        slide: the slide's id, where the file says it.
        remark: one sentence on what was inferred; empty where all was said.
    """

    source: FeatureSource
    xy: Float64[np.ndarray, "tile 2"]
    tile_px: int
    tile: float
    dim: int
    unit: Literal["l0px", "um"] = "l0px"
    stride: float | None = None
    target_magnification: float | None = None
    slide_mpp: float | None = None
    size_l0px: tuple[int, int] = (0, 0)
    float16: bool = False
    slide: str | None = None
    remark: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    def without_places(self) -> "FeatureFile":
        """The same without the places of its tiles, as thousands of files are kept in memory."""
        return replace(self, xy=np.zeros((0, 2)))


@dataclass(frozen=True, eq=False)
class FeaturesToWrite:
    """The features of one slide at one magnification, as another tool's layout is written.

    Attributes:
        slide: id.
        rows: one row per tile.
        xy_l0px: top left of each tile, in pixels of level 0.
        tile_px: side of a tile in its own pixels.
        tile_l0px: side of a tile in pixels of level 0.
        stride_l0px: from one tile to the next.
        mpp: micrometres in a pixel of a tile.
        slide_mpp: micrometres in a pixel of level 0.
        size_l0px: width and height of level 0; zeros where they are not known.
        encoder: the name of the tile encoder.
        objective_power: of the slide, where it is known.
        slide_path: the slide file, where it is known.
    """

    slide: str
    rows: Float[np.ndarray, "tile dim"]
    xy_l0px: Int64[np.ndarray, "tile 2"]
    tile_px: int
    tile_l0px: int
    stride_l0px: int
    mpp: float
    slide_mpp: float
    size_l0px: tuple[int, int]
    encoder: str
    objective_power: float | None = None
    slide_path: str | None = None


def _one_part(path: Path) -> Mapping[str, str | None]:
    return {"": None}


@dataclass(frozen=True)
class FeatureFormat(Plugin):
    """One layout of features that other tools write.

    Attributes:
        name: what an index calls it.
        suffixes: how its files end, such as `.h5`.
        read_places: where the tiles of a source lie; rows stay on disk.
        read_rows: the rows of a source, one for each place, in their order.
        parts: the features that a file with such an ending holds in this layout: each one's name within it (empty where
            there is one), and its encoder's where that is known. Nothing where it is a file of this layout without
            rows; None where it is of another layout. It is asked of every file, so it opens no rows.
        folders: names of the folders that the slides' files lie in, as patterns; what a `*` stands for is the encoder.
        is_folder: whether a slide's features are a folder of that ending.
        write: writes features into a folder as the tool does that has this layout, the source's own file last; None
            where that is not known.
        target: what `write` writes, as it is read back; None where there is no `write`.
        by_mpp: whether what is written of one magnification lies apart from that of the others without a folder of its
            own.
    """

    suffixes: tuple[str, ...]
    read_places: Callable[[FeatureSource], FeatureFile]
    read_rows: Callable[[FeatureSource], Float[np.ndarray, "tile dim"]]
    parts: Callable[[Path], Mapping[str, str | None] | None] = _one_part
    folders: tuple[str, ...] = ()
    is_folder: bool = False
    write: Callable[[Path, FeaturesToWrite], Path] | None = None
    target: Callable[[Path, FeaturesToWrite], FeatureSource] | None = None
    by_mpp: bool = False


FORMATS: Registry[FeatureFormat] = Registry(FeatureFormat, "feature format", "parfocal.store.formats")
