"""An arm in use inside slides: fitted on places where something was measured, it says what there is at others."""

from parfocal.predict.places.fit import fit_places
from parfocal.predict.places.head import PlaceHead, load_place_head, write_place_head
from parfocal.predict.places.page import place_head_sentences
from parfocal.predict.places.predict import MAPPED_SLIDES, PlacePrediction, PlacesSummary, predict_places

__all__ = [
    "MAPPED_SLIDES",
    "PlaceHead",
    "PlacePrediction",
    "PlacesSummary",
    "fit_places",
    "load_place_head",
    "place_head_sentences",
    "predict_places",
    "write_place_head",
]
