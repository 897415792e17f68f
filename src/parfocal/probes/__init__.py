"""Step 9: bags and an outcome in, probes out that score the slides a fold holds out, and any slide later.

Every way to pool, such as `fit_mean`, `fit_attention` and `fit_contrast`, has one signature: (bags, outcome, folds,
settings) to one `FittedProbe` for each fold. Everything that is fitted or chosen is so inside the training fold.
"""

from parfocal.probes.attention import fit_attention
from parfocal.probes.bilinear import fit_bilinear
from parfocal.probes.contrast import fit_contrast
from parfocal.probes.directions import contrast_matrices
from parfocal.probes.finetune import fit_finetuned
from parfocal.probes.fitted import Fit, FittedProbe, ProbeState, average_predictions, predict
from parfocal.probes.linear import fit_mean
from parfocal.probes.loading import load_probe
from parfocal.probes.mlp import fit_mlp, fit_region_mlp
from parfocal.probes.moments import cross_moments
from parfocal.probes.settings import FoldPrediction, ProbeSettings
from parfocal.probes.steps import is_at_edge
from parfocal.probes.whitening import Preparation, Whitening, fit_whitening, preparations

__all__ = [
    "Fit",
    "FittedProbe",
    "FoldPrediction",
    "Preparation",
    "ProbeSettings",
    "ProbeState",
    "Whitening",
    "average_predictions",
    "contrast_matrices",
    "cross_moments",
    "fit_attention",
    "fit_bilinear",
    "fit_contrast",
    "fit_finetuned",
    "fit_mean",
    "fit_mlp",
    "fit_region_mlp",
    "fit_whitening",
    "is_at_edge",
    "load_probe",
    "predict",
    "preparations",
]
