"""Whether products run in bfloat16."""

import time
from typing import Literal

import torch
from torch import Tensor

from parfocal.pretrain.data import Regions
from parfocal.pretrain.trainee import Trainee

__all__ = ["choose_autocast"]

_GAIN = 1.1
"""Below this the choice would depend on noise, and float32 loses nothing."""


def choose_autocast(
    wanted: Literal["auto", "float32", "bfloat16"], trainee: Trainee, regions: Regions, *, device: torch.device
) -> tuple[bool, str]:
    """Whether to use bfloat16, and why in a few words.

    Auto means: on a GPU that has it; on a CPU that has instructions for it, only where a step on `regions` measures
    faster, since casting costs more than it brings for narrow models.
    """
    if wanted != "auto":
        return wanted == "bfloat16", f"{wanted}, as asked"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(), "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return False, "float32"
    seconds = {autocast: _seconds_per_step(trainee, regions, autocast) for autocast in (False, True)}
    gain = seconds[False] / seconds[True]
    if gain >= _GAIN:
        return True, f"bfloat16, measured {gain:.2f}x faster than float32 here"
    return False, f"float32 (bfloat16 measured {gain:.2f}x its speed here)"


def _seconds_per_step(trainee: Trainee, regions: Regions, autocast: bool) -> float:
    """The best of three steps after one that is not counted."""
    hidden = regions.present & (torch.arange(regions.present.shape[1]) % 2 == 1)
    visible = regions.present & ~hidden
    best = float("inf")
    for attempt in range(4):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            parts: Tensor = trainee(
                regions.tokens,
                regions.xy_um,
                regions.mpp,
                regions.present,
                regions.slide,
                regions.region,
                hidden.expand(trainee.n_views, -1, -1),
                visible.expand(trainee.n_views, -1, -1),
                False,
                False,
            )
        torch.autograd.backward(parts[0])
        if attempt:
            best = min(best, time.perf_counter() - start)
    trainee.zero_grad(set_to_none=True)
    return best
