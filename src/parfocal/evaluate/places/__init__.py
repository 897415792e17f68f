"""Targets at places inside slides: what each magnification knows of them, and how much of a gain is only context."""

from parfocal.evaluate.places.result import PlacesResult, places_table
from parfocal.evaluate.places.run import evaluate_places
from parfocal.evaluate.places.settings import PlaceChoices, PlaceFitSettings, PlaceQuestion, PlaceSettings

__all__ = [
    "PlaceChoices",
    "PlaceFitSettings",
    "PlaceQuestion",
    "PlaceSettings",
    "PlacesResult",
    "evaluate_places",
    "places_table",
]
