"""Slide means and second moments: the one readout that tells context from magnification, cheap and fixed beforehand.

A mean of a slide's vectors cannot tell them apart: the mean of the means over coarse footprints is the mean of the
tiles. What differs is how vectors go together, within a tile, an area, or a region of two magnifications, and that is a
second moment. It is contrast without what is costly there: whitened components and their ranks in closed form, as many
candidates as other linear arms have, no sharpened directions and no products.
"""

from collections.abc import Sequence

from parfocal.cohort import Fold, Outcome
from parfocal.heads.base import Bags, FittedProbe, ProbeSettings
from parfocal.heads.contrast.fit import fit_contrast


def fit_moments(bags: Bags, outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings) -> list[FittedProbe]:
    """Fit slide means and second moments on each fold's training slides; arguments and errors as of `fit_contrast`."""
    plain = settings.model_copy(update={"sharpen": False, "lifted": ()})
    return fit_contrast(bags, outcome, folds, plain)
