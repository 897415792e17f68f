"""Why a head says what it says: what each magnification, each pair of them, each region and each tile adds to a score.

In: a store of tile embeddings and a head. Out: of every slide the exact Shapley values of its magnifications and their
interactions, tables of regions and tiles, the two ends of every contrast direction, and a short page. A magnification
that is left out is absent, not zero.
"""

from parfocal.explain.directions import EndRegion
from parfocal.explain.result import ExplainSummary, PartOfScore, RegionParts, SlideExplanation, SlideParts, TileParts
from parfocal.explain.run import explain_slides, merge_explanations, sources_of
from parfocal.explain.settings import ExplainSettings
from parfocal.explain.shapley import interactions, own_parts, shapley_values
from parfocal.explain.slide import Sources, explain_slide

__all__ = [
    "EndRegion",
    "ExplainSettings",
    "ExplainSummary",
    "PartOfScore",
    "RegionParts",
    "SlideExplanation",
    "SlideParts",
    "Sources",
    "TileParts",
    "explain_slide",
    "explain_slides",
    "interactions",
    "merge_explanations",
    "own_parts",
    "shapley_values",
    "sources_of",
]
