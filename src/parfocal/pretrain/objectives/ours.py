"""Ours: `mem` predicts the embeddings of hidden tokens, `contrastive` tells regions apart by two views, `cmem` both."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from parfocal.pretrain.losses import masked_embedding_loss, region_contrast
from parfocal.pretrain.objectives.objective import Objective


def _tell_apart(
    first: Float[Tensor, "region dim"],
    second: Float[Tensor, "region dim"],
    slide: Int[Tensor, " region"],
    region: Int[Tensor, " region"],
    settings: Any,
) -> Float[Tensor, ""]:
    """InfoNCE between the views, at the temperature of the settings and with the negatives that they allow."""
    return region_contrast(
        first, second, slide, region, temperature=settings.temperature, same_slide=settings.same_slide_negatives
    )


def _weight(settings: Any) -> float:
    return float(settings.contrast_weight)


CMEM = Objective("cmem", masked_embedding_loss, _tell_apart, _weight)
CONTRASTIVE = Objective("contrastive", views=_tell_apart)
MEM = Objective("mem", masked_embedding_loss)
