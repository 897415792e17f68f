"""C1 and C2: the same question with somebody else's context.

What a model still knows then, it did not get from the region.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int64

from parfocal.studies.proof.layout import Layout, SlottedRegions
from parfocal.studies.proof.subject import Asked, Predictor

__all__ = ["CONTROLS", "ask", "other_region", "other_slide", "predict_with_foreign_scales"]

CONTROLS = {
    "C1": "the model, shown the visible tiles of another region of the same slide",
    "C1x": "the model, shown those of other magnifications only from that other region",
    "C2": "the model, shown the visible tiles of a region of another slide",
    "C3": "an encoder with random weights that mixes tiles fully (LayerScale 1), and a decoder trained on it",
    "C3s": "the same with the LayerScale that training starts from: tiles are hardly mixed",
    "E1": "a ridge regression on the model's tokens, no decoder",
    "E0": "the same ridge on tokens of the encoder of C3",
    "E0s": "the same ridge on tokens of the encoder of C3s",
}
"""What each control is."""


def other_region(slide: Int64[np.ndarray, " region"], rng: np.random.Generator) -> Int64[np.ndarray, " region"]:
    """For each region another one of its slide; the region itself where it is alone."""
    other = np.arange(len(slide))
    for one in np.unique(slide):
        own = rng.permutation(np.flatnonzero(slide == one))
        other[own] = np.roll(own, 1)
    return other


def other_slide(slide: Int64[np.ndarray, " region"], rng: np.random.Generator) -> Int64[np.ndarray, " region"] | None:
    """For each region one of another slide; None where there is one slide only."""
    if len(np.unique(slide)) < 2:
        return None
    return np.array([rng.choice(np.flatnonzero(slide != one)) for one in slide])


def ask(
    regions: SlottedRegions,
    hidden: Bool[np.ndarray, "region slot"],
    context: Int64[np.ndarray, " region"] | None = None,
    *,
    foreign: Bool[np.ndarray, " slot"] | None = None,
) -> Asked:
    """The question of the hidden tiles, with the region's own visible tiles or those of another one.

    Args:
        regions: as stored.
        hidden: what is asked for.
        context: for each region, whose tiles are shown at the places that are not hidden; None for its own.
        foreign: the slots that are taken from there; all when None.
    """
    if context is None:
        return Asked(regions.tokens, regions.xy_um, regions.present & ~hidden, hidden)
    taken = np.ones(hidden.shape[1], dtype=bool) if foreign is None else foreign
    swapped = taken[None] & ~hidden
    present = np.where(taken[None], regions.present[context], regions.present)
    xy_um = np.where(swapped[..., None], regions.xy_um[context], regions.xy_um)
    tokens = np.where(swapped[..., None], regions.tokens[context], regions.tokens)
    return Asked(tokens, xy_um, present & ~hidden, hidden)


def predict_with_foreign_scales(
    predictor: Predictor,
    regions: SlottedRegions,
    hidden: Bool[np.ndarray, "region slot"],
    context: Int64[np.ndarray, " region"],
    layout: Layout,
) -> Float32[np.ndarray, "region slot dim"]:
    """C1x: each magnification is predicted with its own visible tiles, and those of the others from another region."""
    predicted = np.zeros_like(regions.tokens)
    for level in range(len(layout.mpps)):
        mine = layout.level == level
        if hidden[:, mine].any():
            mean, _ = predictor.predict(ask(regions, hidden, context, foreign=~mine))
            predicted[:, mine] = mean[:, mine]
    return predicted
