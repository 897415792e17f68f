from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def tiles() -> Callable[..., np.ndarray]:
    """A maker of random blocky tiles: `tiles(count, tile_px)`."""

    def make(count: int = 3, tile_px: int = 224) -> np.ndarray:
        rng = np.random.default_rng(count)
        blocks = rng.integers(0, 256, (count, tile_px // 16, tile_px // 16, 3), dtype=np.uint8)
        return blocks.repeat(16, axis=1).repeat(16, axis=2)

    return make
