"""A look at held-out regions says of each mask pattern what it would say of that pattern alone."""

import pytest
import torch

from parfocal.pretrain.evaluation import HeldOut, look
from parfocal.pretrain.masks import PATTERNS, MaskSettings, draw_masks

from .test_trainee import some_regions, trainee_of


def test_patterns_do_not_change_each_others_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer than a pattern's regions, so that some are asked about with those of the next.
    monkeypatch.setattr("parfocal.pretrain.evaluation._BATCH", 16)
    trainee, regions = trainee_of(), some_regions(20)
    hidden = {}
    for pattern in PATTERNS:
        only = MaskSettings(**{f"mask_{name}": float(name == pattern) for name in PATTERNS})
        generator = torch.Generator().manual_seed(1)
        drawn = draw_masks(regions.xy_um, regions.mpp, regions.present, only, tile_px=224, generator=generator)
        hidden[pattern] = drawn.hidden & (drawn.pattern == PATTERNS.index(pattern))[:, None]

    def said(masks: dict[str, torch.Tensor]) -> dict[str, float]:
        values, _ = look(trainee, HeldOut(regions, masks), device=torch.device("cpu"), autocast=False, seed=0)
        return values

    together = said(hidden)
    for pattern in PATTERNS:
        alone = said({name: masks & (name == pattern) for name, masks in hidden.items()})
        columns = [f"r2_{pattern}", *(f"r2_{pattern}_{mpp}" for mpp in ("2", "1", "0.5"))]
        assert [together[name] for name in columns] == pytest.approx([alone[name] for name in columns], nan_ok=True)
        assert alone["r2"] == alone[f"r2_{pattern}"]
        if pattern == "whole":
            name = "r2_bottleneck_0.5"
            assert together[name] == pytest.approx(alone[name])
            assert together[name] != pytest.approx(together["r2_whole_0.5"])
