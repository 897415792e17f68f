"""Targets at places inside slides: what each magnification knows of them, and how much of a gain is only context."""

from parfocal.evaluate.places.result import PlacesResult, places_table
from parfocal.evaluate.places.run import PlaceChoices, PlaceFitSettings, PlaceQuestion, PlaceSettings, evaluate_places

__all__ = [
    "PlaceChoices",
    "PlaceFitSettings",
    "PlaceQuestion",
    "PlaceSettings",
    "PlacesResult",
    "evaluate_places",
    "places_table",
]
