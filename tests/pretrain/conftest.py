"""A small set of tile embeddings: four factors of a region, seen by each magnification through its own linear map."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

from ..region_encoder.toy import tiny_models

MakeSet = Callable[..., EmbeddingSet]
MPPS = (2.0, 1.0, 0.5)


def toy_tokens(
    slide: str,
    n_regions: int,
    *,
    dim: int,
    seed: int,
    absent: float = 0.0,
    noise: float = 0.3,
    gap: bool = False,
    mpps: tuple[float, ...] = MPPS,
) -> SlideTokens:
    """Regions in a row of 448 um; with `gap`, the last third lies far away."""
    rng = np.random.default_rng([seed, 7])
    world = np.random.default_rng(12345)
    factors = rng.normal(size=(n_regions, 4))
    features, region, center = {}, {}, {}
    for mpp in mpps:
        n = round(2.0 / mpp)
        mixing = world.normal(size=(4, dim)) / 2
        side = 224 * mpp
        places = np.array([(c * side, r * side) for r in range(n) for c in range(n)]) + side / 2 - 224
        rows = np.repeat(factors @ mixing + 5 * mpp, n * n, axis=0)
        kept = np.ones(len(rows), bool) if mpp == 2.0 else rng.random(len(rows)) >= absent
        features[mpp] = (rows + noise * rng.normal(size=rows.shape))[kept].astype(np.float16)
        region[mpp] = np.repeat(np.arange(n_regions), n * n)[kept].astype(np.int32)
        center[mpp] = np.tile(places, (n_regions, 1))[kept].astype(np.float32)
    x = np.arange(n_regions) * 448.0
    if gap:
        x[-(n_regions // 3) :] += 4480.0
    return SlideTokens(
        slide=slide,
        region_um=448.0,
        slide_mpp=0.25,
        region_xy_um=np.stack([x + 448.0, np.zeros(n_regions)], axis=1),
        features=features,
        region=region,
        center_um=center,
    )


def write_set(
    folder: Path,
    counts: tuple[int, ...],
    *,
    dim: int = 8,
    absent: float = 0.0,
    noise: float = 0.3,
    gap: bool = False,
    mpps: tuple[float, ...] = MPPS,
    name: str = "toy",
) -> EmbeddingSet:
    """Write a set of slides with the given numbers of regions below a folder."""
    path = create_set(
        folder / "store",
        f"{name}-00000000",
        "tiles",
        region_um=448.0,
        dims=dict.fromkeys(mpps, dim),
        settings={"encoder": name},
        encoder_digests=dict.fromkeys(mpps, "aa"),
        tile_px=224,
    )
    for number, count in enumerate(counts):
        write_tokens(
            path, toy_tokens(f"s{number}", count, dim=dim, seed=number, absent=absent, noise=noise, gap=gap, mpps=mpps)
        )
    return open_set(path)


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Write a set of slides below the folder of the test."""
    return partial(write_set, tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_models():
        yield
