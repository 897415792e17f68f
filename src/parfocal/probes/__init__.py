"""Step 9: bags and labels in, predictions for the slides that a fold holds out.

Three ways to pool, `fit_mean`, `fit_attention` and `fit_contrast`, have one signature: (bags, labels, folds, settings)
to one `FoldPrediction` for each fold. Everything that is fitted or chosen is so inside the training fold.
"""

from parfocal.probes.attention import average_predictions, fit_attention
from parfocal.probes.contrast import contrast_matrices, cross_moments, fit_contrast
from parfocal.probes.linear import fit_mean
from parfocal.probes.settings import FoldPrediction, ProbeSettings
from parfocal.probes.whitening import Preparation, Whitening, fit_whitening, preparations

__all__ = [
    "FoldPrediction",
    "Preparation",
    "ProbeSettings",
    "Whitening",
    "average_predictions",
    "contrast_matrices",
    "cross_moments",
    "fit_attention",
    "fit_contrast",
    "fit_mean",
    "fit_whitening",
    "preparations",
]
