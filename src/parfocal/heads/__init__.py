"""Step 9: bags and an outcome in, probes out that score the slides a fold holds out, and any slide later.

Every way to pool, such as `fit_mean`, `fit_attention` and `fit_contrast`, has one signature: (bags, outcome, folds,
settings) to one `FittedProbe` for each fold. Everything that is fitted or chosen is so inside the training fold.
"""

from parfocal.heads.attention import fit_attention
from parfocal.heads.base import (
    Fit,
    FittedProbe,
    FoldPrediction,
    ProbeChoices,
    ProbeSettings,
    ProbeState,
    average_predictions,
    predict,
)
from parfocal.heads.bilinear import fit_bilinear
from parfocal.heads.contrast.fit import fit_contrast
from parfocal.heads.contrast.moments import cross_moments
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.heads.finetune import fit_finetuned
from parfocal.heads.linear import fit_mean
from parfocal.heads.mlp import fit_mlp, fit_region_mlp
from parfocal.heads.network import is_at_edge
from parfocal.heads.preparation import Preparation, preparations
from parfocal.heads.registry import HEADS, RegisteredHead, load_probe

__all__ = [
    "HEADS",
    "Fit",
    "FittedProbe",
    "FoldPrediction",
    "Preparation",
    "ProbeChoices",
    "ProbeSettings",
    "ProbeState",
    "RegisteredHead",
    "average_predictions",
    "cross_moments",
    "fit_attention",
    "fit_bilinear",
    "fit_contrast",
    "fit_finetuned",
    "fit_mean",
    "fit_mlp",
    "fit_region_mlp",
    "is_at_edge",
    "load_probe",
    "predict",
    "preparations",
    "score_partly_read",
]
