"""`mem`: the embeddings of hidden tokens are predicted (masked embedding modelling)."""

from parfocal.pretrain.losses import masked_embedding_loss
from parfocal.pretrain.objectives.objective import Objective

__all__ = ["MEM"]

MEM = Objective("mem", masked_embedding_loss)
