"""Regions that are read alone: each comes whole, however it is laid."""

import numpy as np
import pytest
import torch

from parfocal.embed import EmbedSettings
from parfocal.finetune.reading import KeptTiles, TileReader
from parfocal.slides import find_slides

from .conftest import GRID, Drawn


@pytest.mark.parametrize("stride_um", [None, 32.0])
def test_a_region_comes_with_all_of_its_tiles(drawn: Drawn, stride_um: float | None) -> None:
    sources = {one.slide: one for one in find_slides([drawn.slides])}
    settings = EmbedSettings(grid=GRID.model_copy(update={"stride_um": stride_um}))
    with TileReader(sources, settings, torch.from_numpy, chunk=3, kept=KeptTiles(0), made="") as reader:
        plan = reader.plan("a")
        for region in range(plan.n_regions):
            found = reader.read(("a", region))
            counts = {mpp: int(np.count_nonzero(plan.tiles(mpp).region == region)) for mpp in GRID.mpps}
            assert {mpp: int(np.count_nonzero(found.mpp == mpp)) for mpp in GRID.mpps} == counts
            assert len(found) == len(found.xy_um) == sum(counts.values())
    assert plan.n_regions >= (12 if stride_um is None else 7 * 5)  # four by three, and those between them
