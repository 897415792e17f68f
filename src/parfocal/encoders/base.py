"""What every tile encoder is: uint8 RGB tiles in, one float32 row for each tile out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int, UInt8

from parfocal.errors import EncoderError, as_problem
from parfocal.files import digest8
from parfocal.geometry import format_mpp


@dataclass(frozen=True, eq=False)
class Symmetry:
    """How a row changes when its tile is turned or mirrored.

    The eight elements of the square's symmetry group are numbered `4 * flip + quarter_turns`: the tile is mirrored left
    to right first (flip = 1), then turned counter-clockwise by `np.rot90`. With kind `permutation`,
    `encode(element(tile)) == encode(tile)[permutation[element]]`; with `invariant` the row is taken not to change (an
    assumption, as the field makes it for networks trained with such augmentations); with `unknown` nothing is said,
    and whoever augments by these symmetries must not.
    """

    kind: Literal["invariant", "permutation", "unknown"]
    permutation: Int[np.ndarray, "8 dim"] | None = None

    def __post_init__(self) -> None:
        if (self.kind == "permutation") != (self.permutation is not None):
            raise ValueError(
                f"a symmetry of kind {self.kind} has {'no' if self.permutation is None else 'a'} permutation"
            )


@dataclass(frozen=True)
class EncoderInfo:
    """One line of the table of encoders."""

    name: str
    dim: int | None
    tile_px: int | None
    trained_mpps: tuple[float, ...] | None
    installed: bool
    needs: str
    licence: str
    source: str
    aliases: tuple[str, ...] = ()
    readout: str = ""
    trained_on: str = "any"
    """What it was trained on, where `trained_mpps` does not say it."""


class TileEncoder(ABC):
    """Maps tiles to embeddings. Nothing of one call reaches the next, and tiles of one call do not see each other."""

    name: str
    """Short and safe in a path: `virchow2`, `filterbank`, `timm-resnet18`."""
    spec: str
    """What `load_tile_encoder` was given."""
    dim: int
    """Length of a row."""
    tile_px: int
    """Side of the tiles it takes, in pixels."""
    trained_mpps: tuple[float, ...] | None
    """Magnifications that it was trained at; None where that has no meaning or is not known."""
    symmetry: Symmetry

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits over everything that changes a row (`describe`)."""
        return digest8(self.describe())

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that changes a row, as JSON values: architecture, weights, readout, normalisation, dtype."""

    @abstractmethod
    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """One row for each tile, in order; no tile gives no row.

        Raises:
            EncoderError: the tiles have another side than `tile_px`.
        """


class CalledEncoder(TileEncoder):
    """An encoder behind one function from tiles to rows, of which nothing is known but what it gives."""

    def __init__(
        self,
        call: Callable[[np.ndarray], Any],
        name: str,
        spec: str,
        tile_px: int,
        description: Mapping[str, Any],
        *,
        at_once: int | None = None,
        hints: tuple[str, str] = ("", ""),
    ) -> None:
        """Find the width of a row by encoding one white tile.

        Args:
            call: the function.
            name: safe in a path.
            spec: what it was loaded from.
            tile_px: side of the tiles it takes.
            description: what changes a row beside the tile side.
            at_once: the most tiles of one call; all where None.
            hints: what to do where the function fails, and where it does not give one row for each tile.

        Raises:
            EncoderError: the function does not give one row for one tile.
        """
        self.name, self.spec, self.tile_px = name, spec, tile_px
        self.trained_mpps = None
        self.symmetry = Symmetry("unknown")
        self._call, self._description, self._at_once, self._hints = call, description, at_once, hints
        self.dim = self._rows(np.full((1, tile_px, tile_px, 3), 255, dtype=np.uint8)).shape[1]

    def describe(self) -> dict[str, Any]:
        """The name, the tile side, and what the description says."""
        return {**self._description, "encoder": self.name, "tile_px": self.tile_px}

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """What the function gives, as float32, in calls of its size; no tile asks for no call."""
        check_tiles(self, tiles)
        rows = np.empty((len(tiles), self.dim), dtype=np.float32)
        size = self._at_once or max(len(tiles), 1)
        for start in range(0, len(tiles), size):
            found = self._rows(tiles[start : start + size])
            if found.shape[1] != self.dim:
                raise EncoderError(f"{self.spec} gave rows of {found.shape[1]} numbers, and of {self.dim} before.")
            rows[start : start + size] = found
        return check_rows(self, rows)

    def _rows(self, tiles: np.ndarray) -> np.ndarray:
        failure, form = self._hints
        try:
            rows = np.asarray(self._call(tiles))
        except Exception as error:  # what somebody else wrote or exported may fail in any way
            problem = as_problem(error).rstrip(".")
            raise EncoderError(f"{self.spec} failed on {len(tiles)} tiles: {problem}.{failure}") from error
        if rows.ndim != 2 or len(rows) != len(tiles):
            raise EncoderError(
                f"{self.spec} gave an output of shape {rows.shape} for {len(tiles)} tiles; it should be "
                f"({len(tiles)}, D), one row for each tile.{form}"
            )
        return rows.astype(np.float32)


def check_tiles(encoder: TileEncoder, tiles: UInt8[np.ndarray, "tile y x 3"]) -> None:
    """Refuse tiles that the encoder does not take; they are never resized in silence.

    Raises:
        EncoderError: the tiles have another side than `encoder.tile_px`.
    """
    height_px, width_px = tiles.shape[1:3]
    if (height_px, width_px) != (encoder.tile_px, encoder.tile_px):
        raise EncoderError(
            f"{encoder.name} cannot encode tiles of {width_px} x {height_px} px: it takes {encoder.tile_px} px. "
            f"Cut tiles of {encoder.tile_px} px (--tile-px {encoder.tile_px})."
        )


def check_rows(encoder: TileEncoder, rows: Float32[np.ndarray, "tile dim"]) -> Float32[np.ndarray, "tile dim"]:
    """Give the rows back when every number is finite; a broken row would be stored and spoil whatever is fitted on it.

    Raises:
        EncoderError: a row holds NaN or infinity.
    """
    broken = int((~np.isfinite(rows).all(axis=1)).sum())
    if broken:
        raise EncoderError(
            f"{encoder.name} gave numbers that are not finite for {broken} of {len(rows)} tiles. "
            f"Half precision may overflow: try dtype float32 (--encoder-dtype float32), and check the weights."
        )
    return rows


def check_trained_mpps(encoder: TileEncoder, mpps: tuple[float, ...] | list[float]) -> str | None:
    """One sentence when some of `mpps` lie outside what the encoder was trained at, else None.

    A magnification counts as inside when it lies within 10 % of the trained range, because the trained values are
    nominal. Models trained at several magnifications are taken to cover what lies between them.
    """
    trained = encoder.trained_mpps
    if not trained:
        return None
    outside = [mpp for mpp in mpps if not min(trained) / 1.1 <= mpp <= max(trained) * 1.1]
    if not outside:
        return None
    return (
        f"{encoder.name} was trained at {_mpp_list(trained)} micrometres per pixel and is used at "
        f"{_mpp_list(outside)}; its embeddings there may be weak. Compare with another encoder before you rely on them."
    )


def _mpp_list(mpps: tuple[float, ...] | list[float]) -> str:
    return ", ".join(map(format_mpp, mpps))


def symmetries_of_square(tile: np.ndarray, element: int) -> np.ndarray:
    """The tile (rows first) under one of the eight symmetries, numbered as in `Symmetry`."""
    flip, quarter_turns = divmod(element, 4)
    return np.rot90(tile[:, ::-1] if flip else tile, quarter_turns)
