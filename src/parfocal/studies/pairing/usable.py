"""Which slides have anything to pair: two regions with every magnification, and regions that differ."""

from itertools import combinations

import numpy as np

from parfocal.cohort import some_of
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.studies.pairing.moments import CohortRows

__all__ = ["unusable_slides"]


def unusable_slides(rows: CohortRows, source: str, within: str | None = None) -> tuple[list[str], list[str]]:
    """The slides that say nothing, and a sentence for each reason.

    Args:
        rows: of the cohort.
        source: the name of the set, for messages.
        within: the column that regions are centred within; None for the slide.

    Raises:
        ConfigError: no slide says anything.
    """
    counts = np.min([rows.n_paired(a, b) for a, b in combinations(rows.mpps, 2)], axis=0)
    alone = counts == 0
    still = {mpp: ~rows.varies[mpp] & ~alone for mpp in rows.mpps}
    alike = np.any(list(still.values()), axis=0)
    where = "the slide" if within is None else f"its {within}"
    what = "region" if (np.diff(rows.start) == 1).all() else "region with all magnifications"
    remedy = (
        "name --within patient (or another column that several slides share, such as a TMA) or use larger slides"
        if within is None
        else "name a column (--within) whose groups have more regions, or use larger slides"
    )
    mpps = " and ".join(format_mpp(mpp) for mpp, own in still.items() if own.any())
    if (alone | alike).all():
        if alone.sum() >= alike.sum():
            each = "each slide" if within is None else f"each {within}"
            raise ConfigError(
                f"{each} in {source} has at most one {what}: regions are centred within {where}, and nothing is left "
                f"of one; {remedy}."
            )
        raise ConfigError(
            f"the regions of every slide in {source} are the same at {mpps} um per pixel: nothing varies within "
            "slides, so no pairing can be seen. Look at how these embeddings were made."
        )
    notes = []
    n = len(rows.slides)
    if alone.any():
        notes.append(
            f"{alone.sum()} of {n} slides have at most one {what}; regions are centred within {where}, so they say "
            f"nothing and are left out: {_some(rows, alone)}. To use them, {remedy}."
        )
    if alike.any():
        notes.append(
            f"{alike.sum()} of {n} slides have regions that are all the same at {mpps} um per pixel; they say nothing "
            f"and are left out: {_some(rows, alike)}."
        )
    return [slide for slide, gone in zip(rows.slides, alone | alike, strict=True) if gone], notes


def _some(rows: CohortRows, which: np.ndarray) -> str:
    return some_of([slide for slide, own in zip(rows.slides, which, strict=True) if own])
