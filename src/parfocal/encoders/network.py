"""Every encoder that is a torch network: device, precision, normalisation and readout, in one place."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from parfocal.encoders.base import Symmetry, TileEncoder, check_rows, check_tiles, symmetries_of_square
from parfocal.encoders.kind import EncoderSpec
from parfocal.encoders.loading import Normalisation
from parfocal.errors import ConfigError, EncoderError
from parfocal.run.device import find_device, has_fast_bfloat16

# More tiles than this in one call go through the network in parts, so that a caller's batch cannot exhaust the memory.
CHUNK = 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Backbone(nn.Module, ABC):
    """A network whose inside can be read: its feature map or tokens, and the vector that it pools them to."""

    prefix_tokens: int
    """How many tokens (class token, registers) stand before the patches."""
    width: int

    @abstractmethod
    def features(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile ..."]:
        """Tokens (tile token dim) or a map (tile dim y x), after the last normalisation."""

    @abstractmethod
    def pooled(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile dim"]:
        """The network's own vector."""


class NetworkEncoder(TileEncoder):
    """A backbone with its readout. Tiles travel to the device as bytes and are normalised there, in float32."""

    def __init__(
        self,
        backbone: Backbone,
        spec: EncoderSpec,
        *,
        name: str,
        dim: int,
        tile_px: int,
        normalisation: Normalisation,
        device: str,
        dtype: str,
        readout: Literal["pooled", "cls", "cls+mean"] = "pooled",
        trained_mpps: tuple[float, ...] | None = None,
        turn_invariant: bool = False,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        """Move the backbone to the device, in the precision and memory layout that are fast there.

        Args:
            backbone: the network.
            spec: what it was loaded from; with `+grid2` the row is a grid of the feature map, whatever the readout.
            name: safe in a path, without the suffix of a grid.
            dim: length of a row without a grid.
            tile_px: side of the tiles it takes.
            normalisation: of pixels from 0 to 1.
            device: where it runs.
            dtype: of its products.
            readout: what a row is without a grid.
            trained_mpps: magnifications that it was trained at.
            turn_invariant: whether the network is taken not to change under turns and mirror images.
            description: what of the architecture changes a row; joins `describe`.
        """
        self.name, self.spec, self.tile_px = name + ("-grid2" if spec.grid2 else ""), spec.text, tile_px
        self.dim = 4 * backbone.width if spec.grid2 else dim
        self.trained_mpps = trained_mpps
        self.symmetry = Symmetry("invariant" if turn_invariant else "unknown")
        if spec.grid2 and turn_invariant:
            self.symmetry = grid_symmetry(backbone.width)
        self._readout = "grid2" if spec.grid2 else readout
        self._normalisation = normalisation
        self._description = {**(description or {}), "weights": weights_digest(backbone)}
        if "random" in spec.options:
            self._description["random"] = spec.whole_number("random")
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        backbone = backbone.eval().requires_grad_(False)
        self._backbone = backbone.to(self._device, self._dtype).to(memory_format=torch.channels_last)
        mean, std = (255 * torch.tensor(part, device=self._device).view(1, 3, 1, 1) for part in normalisation)
        self._mean, self._scale = mean, 1 / std

    def describe(self) -> dict[str, Any]:
        """Architecture, weights digest, readout, normalisation and precision; not the device."""
        mean, std = self._normalisation
        return {
            **self._description,
            "encoder": self.name,
            "readout": self._readout,
            "tile_px": self.tile_px,
            "mean": list(mean),
            "std": list(std),
            "dtype": str(self._dtype).removeprefix("torch."),
            # Not a cause of the row, but pretraining must know it when only the rows are left.
            "symmetry": self.symmetry.kind,
        }

    def encode(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> Float32[np.ndarray, "tile dim"]:
        """One row for each tile; the precision of the products is `describe()["dtype"]`, the row is float32."""
        check_tiles(self, tiles)
        rows = np.empty((len(tiles), self.dim), dtype=np.float32)
        for start in range(0, len(tiles), CHUNK):
            rows[start : start + CHUNK] = self._encode_chunk(tiles[start : start + CHUNK])
        return check_rows(self, rows)

    @torch.inference_mode()
    def _encode_chunk(self, tiles: UInt8[np.ndarray, "tile y x 3"]) -> np.ndarray:
        # A copy where torch would warn that it cannot promise not to write.
        tiles = np.require(tiles, requirements=["C", "W"])
        return np.asarray(self.read(self.images(torch.from_numpy(tiles))).float().cpu().numpy())

    @property
    def backbone(self) -> Backbone:
        """The network, for whoever trains it on."""
        return self._backbone

    @property
    def readout(self) -> str:
        """What a row is made of: `pooled`, `cls`, `cls+mean` or `grid2`."""
        return self._readout

    def images(self, tiles: UInt8[Tensor, "tile y x 3"]) -> Float[Tensor, "tile 3 y x"]:
        """The tiles as the network takes them, on its device."""
        # (tile, y, x, 3) seen as (tile, 3, y, x) is already the channels-last layout.
        images = tiles.to(self._device).permute(0, 3, 1, 2).float()
        return images.sub_(self._mean).mul_(self._scale).to(self._dtype)

    def read(self, images: Float[Tensor, "tile 3 y x"]) -> Float[Tensor, "tile dim"]:
        """The rows of images, in the network's precision."""
        if self._readout == "pooled":
            pooled: Tensor = self._backbone.pooled(images)
            return pooled
        features: Tensor = self._backbone.features(images)
        if self._readout == "grid2":
            return pool_grid2(features, self._backbone)
        class_token: Tensor = features[:, 0]
        if self._readout == "cls":
            return class_token
        return torch.cat([class_token, features[:, self._backbone.prefix_tokens :].mean(dim=1)], dim=1)


def pool_grid2(features: Float[Tensor, "tile ..."], backbone: Backbone) -> Float[Tensor, "tile dim"]:
    """Means over the four quarters of the tile, upper left first, then along the rows: four times the width.

    A map of odd side shares its middle row and column between neighbours, so the quarters stay mirror images.
    """
    if features.ndim == 3:
        patches = features[:, backbone.prefix_tokens :]
        side = round(patches.shape[1] ** 0.5)
        features = patches.transpose(1, 2).reshape(len(patches), -1, side, side)  # (tile, dim, y, x)
    elif features.shape[1] != backbone.width:
        features = features.permute(0, 3, 1, 2)  # some networks keep their channels last
    cells = nn.functional.adaptive_avg_pool2d(features, 2)  # (tile, dim, 2, 2)
    return cells.flatten(2).transpose(1, 2).flatten(1)  # (tile, 4 * dim)


def weights_digest(network: nn.Module) -> str:
    """Sixteen hexadecimal digits over names, shapes and values: the same weights from another file give the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def grid_symmetry(width: int) -> Symmetry:
    """The symmetry of a 2 x 2 grid of vectors that do not change themselves: the cells change places."""
    cells = np.arange(4).reshape(2, 2)
    moved = np.stack([symmetries_of_square(cells, element).ravel() for element in range(8)])
    places = moved[:, :, None] * width + np.arange(width)
    return Symmetry("permutation", places.reshape(8, 4 * width))


def choose_device(device: str) -> torch.device:
    """The device, if this machine has it.

    Raises:
        EncoderError: the name is unknown or the device is absent.
    """
    try:
        return find_device(device)
    except ConfigError as error:
        raise EncoderError(str(error)) from error


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of the products: what was asked, or with `auto` the fast one that is safe there.

    On a CPU bfloat16 only where it has instructions for it (elsewhere it is emulated and slow); on CUDA float16, which
    most pathology encoders were published with and which keeps three more bits than bfloat16.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.bfloat16 if has_fast_bfloat16() else torch.float32
    return torch.float16
