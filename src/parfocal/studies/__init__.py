"""Step 11: whole questions, composed of the steps before; one function each, and one command each.

`evaluate` asks which arm predicts a label best; `demo` runs the whole chain on a cohort whose answer is known;
`synergy` asks, before any training, whether pairing magnifications can help on a label at all; `prove` whether a
checkpoint has learnt how magnifications belong together, or only what simpler explanations know too; `explore`
pretrains every cell of a design space and ranks the cells by one protocol; `study` is the whole chain from one file.
`fit` keeps an arm as a calibrated head, and `predict` applies it to new slides.
"""

from parfocal.studies.arms import Arm, table_of_arms
from parfocal.studies.chain.file import read_study
from parfocal.studies.chain.plan import StudyPlan, plan_study
from parfocal.studies.chain.plan_tiles import TilesPlan
from parfocal.studies.chain.settings import Study
from parfocal.studies.demo import DemoResult, DemoSettings, demo
from parfocal.studies.evaluate import EvaluateSettings, evaluate
from parfocal.studies.evaluation import ArmRun, EvaluateResult, TargetResult, arm_results, evaluation_page
from parfocal.studies.explore import ExploreResult, ExploreSettings, explore
from parfocal.studies.fitting import cross_validate
from parfocal.studies.head import (
    FitSettings,
    Head,
    PredictSettings,
    PredictSummary,
    fit,
    fit_study,
    load_head,
    predict,
)
from parfocal.studies.proof import ProofResult
from parfocal.studies.prove import ProveSettings, prove
from parfocal.studies.study import StudyResult, study
from parfocal.studies.synergy import SynergyResult, SynergySettings, synergy

__all__ = [
    "Arm",
    "ArmRun",
    "DemoResult",
    "DemoSettings",
    "EvaluateResult",
    "EvaluateSettings",
    "ExploreResult",
    "ExploreSettings",
    "FitSettings",
    "Head",
    "PredictSettings",
    "PredictSummary",
    "ProofResult",
    "ProveSettings",
    "Study",
    "StudyPlan",
    "StudyResult",
    "SynergyResult",
    "SynergySettings",
    "TargetResult",
    "TilesPlan",
    "arm_results",
    "cross_validate",
    "demo",
    "evaluate",
    "evaluation_page",
    "explore",
    "fit",
    "fit_study",
    "load_head",
    "plan_study",
    "predict",
    "prove",
    "read_study",
    "study",
    "synergy",
    "table_of_arms",
]
