"""Step 7: a set of tile embeddings in, a pretrained region encoder out.

Tokens of a region are hidden, and the model is trained to say what their embeddings were (masked embedding modelling).
`masks` says what is hidden, `objectives` and `losses` what is minimised, `data` where regions come from, `monitors`
whether the representation is sound, `loop` how it all runs.
"""

from typing import Any

from parfocal.former import former_name
from parfocal.pretrain.loop import PretrainResult, pretrain_encoder
from parfocal.pretrain.masks import PATTERNS, Masks, MaskSettings, draw_masks
from parfocal.pretrain.metrics import read_metrics
from parfocal.pretrain.monitors import R2Sums
from parfocal.pretrain.settings import PretrainSettings

__all__ = [
    "PATTERNS",
    "MaskSettings",
    "Masks",
    "PretrainResult",
    "PretrainSettings",
    "R2Sums",
    "draw_masks",
    "pretrain_encoder",
    "read_metrics",
]


def __getattr__(name: str) -> Any:
    """`pretrain`, as `pretrain_encoder` was called."""
    return former_name(name, __name__)
