"""An arm in use: fitted on all labelled slides, calibrated, and kept in a folder that predicts slides by itself.

In: sets of embeddings, labels, and the arm that a study has settled on. Out: a `Head`, and a table of predictions for
new slides, each with a probability that means what it says and a flag where the slide is of a kind never seen.
"""

from parfocal.studies.head.calibration import Calibration, fit_calibration
from parfocal.studies.head.finished import FinishedStudy, fit_study, is_study, read_finished_study
from parfocal.studies.head.fit import FitSettings, fit
from parfocal.studies.head.head import Head, load_head, write_head
from parfocal.studies.head.limit import Limit
from parfocal.studies.head.outside import Habits, fit_habits
from parfocal.studies.head.page import fit_sentences, outside_sentence
from parfocal.studies.head.predict import PredictSettings, predict
from parfocal.studies.head.predictions import PredictSummary, SlidePrediction

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
    "fit",
    "fit_calibration",
    "fit_habits",
    "fit_sentences",
    "fit_study",
    "is_study",
    "load_head",
    "outside_sentence",
    "predict",
    "read_finished_study",
    "write_head",
]
