"""The parts of a proof: what else could explain a score (baselines), what is taken away (controls), and the verdict.

`parfocal.lab.prove.run` composes them. Every baseline is a function of what is visible (`Query`) on a raster of slots
(`Layout`), and gives standardised embeddings of the hidden tiles.
"""

from parfocal.lab.prove.baselines import BASELINES, FittedBaselines, fit_baselines
from parfocal.lab.prove.controls import CONTROLS
from parfocal.lab.prove.data import ProveSettings
from parfocal.lab.prove.layout import Layout, Pattern, Query, draw_hidden, patterns_of, query_of, slot_regions
from parfocal.lab.prove.result import ProofResult
from parfocal.lab.prove.run import prove_encoder
from parfocal.lab.prove.scores import ScoreTable
from parfocal.lab.prove.verdict import PatternVerdict

__all__ = [
    "BASELINES",
    "CONTROLS",
    "FittedBaselines",
    "Layout",
    "Pattern",
    "PatternVerdict",
    "ProofResult",
    "ProveSettings",
    "Query",
    "ScoreTable",
    "draw_hidden",
    "fit_baselines",
    "patterns_of",
    "prove_encoder",
    "query_of",
    "slot_regions",
]
