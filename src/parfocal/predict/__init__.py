"""An arm in use: fitted on all labelled slides, calibrated, and kept in a folder that predicts slides by itself.

In: sets of embeddings, labels, and the arm that a study has settled on. Out: a `Head`, and a table of predictions for
new slides, each with a probability that means what it says and a flag where the slide is of a kind never seen.
"""

from parfocal.predict.calibration import Calibration, fit_calibration
from parfocal.predict.finished import FinishedStudy, fit_study, is_study, read_finished_study
from parfocal.predict.fit import FitSettings, fit_head
from parfocal.predict.head import Head, load_head, write_head
from parfocal.predict.outside import Habits, Limit, fit_habits
from parfocal.predict.page import fit_sentences, outside_sentence
from parfocal.predict.predict import PredictSettings, PredictSummary, SlidePrediction, predict_slides

__all__ = [
    "Calibration",
    "FinishedStudy",
    "FitSettings",
    "Habits",
    "Head",
    "Limit",
    "PredictSettings",
    "PredictSummary",
    "SlidePrediction",
    "fit_calibration",
    "fit_habits",
    "fit_head",
    "fit_sentences",
    "fit_study",
    "is_study",
    "load_head",
    "outside_sentence",
    "predict_slides",
    "read_finished_study",
    "write_head",
]
