"""The parts of a proof: what else could explain a score (baselines), what is taken away (controls), and the verdict.

`parfocal.studies.prove` composes them. Every baseline is a function of what is visible (`Query`) on a raster of slots
(`Layout`), and gives standardised embeddings of the hidden tiles.
"""

from parfocal.studies.proof.baselines import BASELINES, FittedBaselines, Sampling, fit_baselines
from parfocal.studies.proof.controls import CONTROLS
from parfocal.studies.proof.layout import Layout, Query, query_of, slot_regions
from parfocal.studies.proof.patterns import Pattern, draw_hidden, patterns_of
from parfocal.studies.proof.result import ProofResult
from parfocal.studies.proof.scores import ScoreTable
from parfocal.studies.proof.verdict import PatternVerdict

__all__ = [
    "BASELINES",
    "CONTROLS",
    "FittedBaselines",
    "Layout",
    "Pattern",
    "PatternVerdict",
    "ProofResult",
    "Query",
    "Sampling",
    "ScoreTable",
    "draw_hidden",
    "fit_baselines",
    "patterns_of",
    "query_of",
    "slot_regions",
]
