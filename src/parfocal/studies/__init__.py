"""Step 11: whole questions, composed of the steps before; one function each, and one command each.

`evaluate` asks which arm predicts a label best; `demo` runs the whole chain on a cohort whose answer is known;
`synergy` asks, before any training, whether pairing magnifications can help on a label at all; `prove` whether a
checkpoint has learnt how magnifications belong together, or only what simpler explanations know too; `explore`
pretrains every cell of a design space and ranks the cells by one protocol.
"""

from parfocal.studies.arms import Arm, table_of_arms
from parfocal.studies.demo import DemoResult, DemoSettings, demo
from parfocal.studies.evaluate import EvaluateSettings, cross_validate, evaluate
from parfocal.studies.evaluation import ArmRun, EvaluateResult, TargetResult, arm_results, evaluation_page
from parfocal.studies.explore import ExploreResult, ExploreSettings, explore
from parfocal.studies.proof import ProofResult
from parfocal.studies.prove import ProveSettings, prove
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
    "ProofResult",
    "ProveSettings",
    "SynergyResult",
    "SynergySettings",
    "TargetResult",
    "arm_results",
    "cross_validate",
    "demo",
    "evaluate",
    "evaluation_page",
    "explore",
    "prove",
    "synergy",
    "table_of_arms",
]
