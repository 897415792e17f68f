"""`cmem`: hidden tokens are predicted, and regions told apart by their two views."""

from typing import Any

from parfocal.pretrain.losses import masked_embedding_loss
from parfocal.pretrain.objectives.contrastive import tell_apart
from parfocal.pretrain.objectives.objective import Objective


def _weight(settings: Any) -> float:
    return float(settings.contrast_weight)


CMEM = Objective("cmem", masked_embedding_loss, tell_apart, _weight)
