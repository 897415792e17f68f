"""A kind of tile encoder: what the first word of a spec leads to.

One of ours is a file in `kinds` with an `EncoderKind` in it. Another package's is found by its entry point in the group
`parfocal.tile_encoders` and named by its name alone, with options behind it: `--encoder gabor,tile_px=256`.
`parfocal.testing.TileEncoderContract` says what its encoder must do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from parfocal.encoders.base import EncoderInfo, TileEncoder, check_rows, check_tiles
from parfocal.errors import EncoderError, PluginError
from parfocal.plugins import Origin, Plugin, Registry


@dataclass(frozen=True)
class EncoderSpec:
    """A spec, taken apart."""

    text: str
    kind: str
    """The name of an `EncoderKind`."""
    target: str
    """Name, path or `module:function`."""
    options: dict[str, str] = field(default_factory=dict)
    grid2: bool = False

    def whole_number(self, option: str) -> int | None:
        """The option as a whole number, None where it is not given.

        Raises:
            EncoderError: the value is no whole number.
        """
        text = self.options.get(option)
        if text is None:
            return None
        if not text.isdecimal():
            raise EncoderError(f"cannot read the encoder spec {self.text!r}: {option}={text} is not a whole number.")
        return int(text)


@dataclass(frozen=True)
class EncoderKind(Plugin):
    """One kind of tile encoder.

    Attributes:
        name: the first word of its specs.
        load: the encoder of a spec, given the device and the precision that were asked for.
        infos: its lines in the table of encoders.
        options: what may follow in a spec, and whether it has a value (`tile_px=256`) or stands alone (`pretrained`).
        target: what follows `NAME:` in a spec, a name or a path; nothing where the name says it all.
        has_map: whether `+grid2` can be asked for.
        runs_on_devices: whether it runs on GPUs; others run on the CPU, whatever the device.
    """

    load: Callable[[EncoderSpec, str, str], TileEncoder]
    infos: Callable[[], Sequence[EncoderInfo]] = list
    options: Mapping[str, bool] = field(default_factory=dict)
    target: Literal["", "name", "path"] = ""
    has_map: bool = False
    runs_on_devices: bool = False

    def guarded(self, origin: Origin) -> "EncoderKind":
        """The same as it comes from another package."""
        return replace(self, load=origin.guarded(self.load, _AddedEncoder), infos=origin.guarded(self.infos))


ENCODERS: Registry[EncoderKind] = Registry(EncoderKind, "tile encoder", "parfocal.encoders.kinds")


class _AddedEncoder(TileEncoder):
    """An encoder of another package: what it gives is looked at, and what goes wrong names the package."""

    def __init__(self, origin: Origin, encoder: TileEncoder) -> None:
        self.name, self.spec, self.dim, self.tile_px = encoder.name, encoder.spec, encoder.dim, encoder.tile_px
        self.trained_mpps, self.symmetry = encoder.trained_mpps, encoder.symmetry
        self._origin, self._encoder = origin, encoder

    def describe(self) -> dict[str, Any]:
        """What the encoder says of itself, and the package that it comes from."""
        with self._origin.blamed():
            return {**self._encoder.describe(), "package": self._origin.package}

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """The encoder's rows, if they are one for each tile, of its width and finite."""
        check_tiles(self, tiles)
        with self._origin.blamed():
            rows = np.asarray(self._encoder.encode(tiles))
        if rows.shape != (len(tiles), self.dim) or rows.dtype != np.float32:
            raise PluginError(
                f"{self._origin} gave {rows.dtype} of shape {rows.shape} for {len(tiles)} tiles; expected is float32 "
                f"of shape {(len(tiles), self.dim)}."
            )
        with self._origin.blamed():
            return check_rows(self, rows)
