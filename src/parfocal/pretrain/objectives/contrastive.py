"""`contrastive`: regions are told apart by what is left of them in two views; no token is predicted."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from parfocal.pretrain.losses import region_contrast
from parfocal.pretrain.objectives.objective import Objective


def tell_apart(
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


CONTRASTIVE = Objective("contrastive", views=tell_apart)
