"""An arm in use: fitted on all labelled slides, calibrated, and kept in a folder that predicts slides by itself.

In: sets of embeddings, labels, and the arm that a study has settled on. Out: a `Head`, and a table of predictions for
new slides, each with a probability that means what it says and a flag where the slide is of a kind never seen. Or a
`PlaceHead`, fitted on places inside slides, and a table with a row for each place.
"""

from parfocal.predict.calibration import Calibration, fit_calibration
from parfocal.predict.finished import (
    FinishedPlaceStudy,
    FinishedStudy,
    fit_place_study,
    fit_study,
    is_study,
    read_finished_study,
    read_place_study,
)
from parfocal.predict.fit import fit_head
from parfocal.predict.fit_settings import FitSettings
from parfocal.predict.folder import is_place_head
from parfocal.predict.given import PredictSettings
from parfocal.predict.head import Head, load_head, write_head
from parfocal.predict.outside import Habits, Limit, fit_habits
from parfocal.predict.page import fit_sentences, outside_sentence
from parfocal.predict.parts import ShownInPart, shown_in_part, usual_zoom
from parfocal.predict.places import (
    MAPPED_SLIDES,
    PlaceHead,
    PlacePrediction,
    PlacesSummary,
    fit_places,
    load_place_head,
    place_head_sentences,
    predict_places,
)
from parfocal.predict.predict import (
    PredictSources,
    PredictSummary,
    SlidePrediction,
    predict_slide,
    predict_slides,
    sources_for,
)
from parfocal.predict.shards import MergedTable, merge_predictions
from parfocal.predict.zoom import zoom_by, zoom_until_settled

__all__ = [
    "MAPPED_SLIDES",
    "Calibration",
    "FinishedPlaceStudy",
    "FinishedStudy",
    "FitSettings",
    "Habits",
    "Head",
    "Limit",
    "MergedTable",
    "PlaceHead",
    "PlacePrediction",
    "PlacesSummary",
    "PredictSettings",
    "PredictSources",
    "PredictSummary",
    "ShownInPart",
    "SlidePrediction",
    "fit_calibration",
    "fit_habits",
    "fit_head",
    "fit_place_study",
    "fit_places",
    "fit_sentences",
    "fit_study",
    "is_place_head",
    "is_study",
    "load_head",
    "load_place_head",
    "merge_predictions",
    "outside_sentence",
    "place_head_sentences",
    "predict_places",
    "predict_slide",
    "predict_slides",
    "read_finished_study",
    "read_place_study",
    "shown_in_part",
    "sources_for",
    "usual_zoom",
    "write_head",
    "zoom_by",
    "zoom_until_settled",
]
