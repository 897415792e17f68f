"""What is drawn over the regions of a slide: what each overlay says, and where its colours end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet
from parfocal.view.columns import differences
from parfocal.view.plain import magnification_label, plain_list, plain_number

SHARE, DIFFERS, SCORE, SIMILAR = "share_read", "differs", "score", "similar"

ABOUT_SCORE = (
    "What each region adds to the head's score before calibration: above 0 it raises the score, below 0 it lowers it. "
    "All regions and the score with no magnification add up to the slide's score."
)
ABOUT_ALONE = "What this magnification adds in each region by itself, without what it adds together with another one."
ABOUT_PAIR = "What these two magnifications add together in each region, beyond what each adds alone."
ABOUT_SHARE = "Of each region, the share of its planned tiles at this magnification that was read."
ABOUT_DIFFERS = (
    "How far the region's embedding lies from the mean of this slide's regions, in their standard deviations, "
    "where 1 is usual."
)


@dataclass(frozen=True)
class PartName:
    """A part that a score falls into.

    Attributes:
        key: micrometres per pixel, `2`, or two of them, `2+0.5`.
        label: for people.
    """

    key: str
    label: str


def of_parts(parts: Sequence[PartName]) -> list[dict[str, Any]]:
    """The overlays of a score and of what it falls into; none where it falls into nothing."""
    if not parts:
        return []
    unit = "score before calibration"
    found = [_overlay(SCORE, "whole score", unit, ABOUT_SCORE, diverging=True)]
    for part in parts:
        alone = "+" not in part.key
        about = ABOUT_ALONE if alone else ABOUT_PAIR
        found.append(_overlay(part.key, part.label, unit, about, diverging=True, mpp=part.key if alone else None))
    return found


def of_set(embeddings: EmbeddingSet, shares_read: Mapping[str, float]) -> list[dict[str, Any]]:
    """The overlays that need no head: of tiles the share that was read of each magnification, and what is unusual.

    Args:
        embeddings: the set.
        shares_read: of the slide, by magnification, where not all was read.
    """
    unit = "standard deviations"
    if embeddings.kind == "regions":
        return [_overlay(DIFFERS, "unlike others", unit, ABOUT_DIFFERS)]
    labels = {format_mpp(mpp): magnification_label(mpp) for mpp in embeddings.mpps}
    return [
        *(_overlay(f"{SHARE}-{name}", f"share of {labels[name]} read", "share", ABOUT_SHARE) for name in shares_read),
        *(
            _overlay(f"{DIFFERS}-{name}", f"unlike others at {label}", unit, ABOUT_DIFFERS, mpp=name)
            for name, label in labels.items()
        ),
    ]


def values_of_set(embeddings: EmbeddingSet, slide: str, key: str) -> Float64[np.ndarray, " region"] | None:
    """The values of an overlay of `of_set`; None of any other one."""
    kind, _, name = key.partition("-")
    mpp = {format_mpp(one): one for one in embeddings.mpps}.get(name)
    if kind == SHARE:
        return embeddings.share_read(slide, mpp)
    return differences(embeddings, slide, mpp) if kind == DIFFERS else None


def _overlay(
    key: str, label: str, unit: str, about: str, *, diverging: bool = False, mpp: str | None = None
) -> dict[str, Any]:
    """An overlay that a page may ask for."""
    return {"key": key, "label": label, "unit": unit, "diverging": diverging, "about": about, "mpp": mpp}


def drawn(key: str, values: Float64[np.ndarray, " region"], *, diverging: bool) -> dict[str, Any]:
    """Values with the ends of their colours: where all but one in a hundred lie, so that one region cannot hide all."""
    there = values[np.isfinite(values)]
    low, high = (float(end) for end in np.percentile(there, [1, 99])) if len(there) else (0.0, 1.0)
    if diverging:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    if key.startswith(SHARE):
        low, high = 0.0, 1.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    digits = 6 if not len(there) else max(0, 5 - int(np.floor(np.log10(max(np.abs(there).max(), 1e-12)))))
    return {
        "key": key,
        "values": plain_list(values, digits),
        "low": plain_number(low, 4),
        "high": plain_number(high, 4),
    }
