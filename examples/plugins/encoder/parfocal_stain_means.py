"""A tile encoder: mean and spread of optical density in each channel, over the quarters of the tile."""

from typing import Any

import numpy as np

from parfocal.encoders import EncoderInfo, EncoderKind, EncoderSpec, Symmetry, TileEncoder, check_tiles


class StainMeans(TileEncoder):
    def __init__(self, spec: str, tile_px: int) -> None:
        self.name, self.spec, self.tile_px = "stain-means", spec, tile_px
        self.dim, self.trained_mpps, self.symmetry = 24, None, Symmetry("unknown")

    def describe(self) -> dict[str, Any]:
        return {"encoder": self.name, "version": 1, "tile_px": self.tile_px}

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        check_tiles(self, tiles)
        density = -np.log((tiles.astype(np.float32) + 1) / 256)
        half = self.tile_px // 2
        quarters = density.reshape(len(tiles), 2, half, 2, half, 3)
        rows = np.concatenate([quarters.mean(axis=(2, 4)), quarters.std(axis=(2, 4))], axis=-1)
        return rows.reshape(len(tiles), self.dim)


def load(spec: EncoderSpec, device: str, dtype: str) -> TileEncoder:
    return StainMeans(spec.text, spec.whole_number("tile_px") or 224)


def infos() -> list[EncoderInfo]:
    return [EncoderInfo("stain-means", 24, 224, None, True, "nothing", "Apache-2.0", "examples/plugins")]


ENCODER = EncoderKind("stain-means", load, infos, options={"tile_px": True})
