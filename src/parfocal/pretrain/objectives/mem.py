"""`mem`: the embeddings of hidden tokens are predicted (masked embedding modelling)."""

from parfocal.pretrain.losses import masked_embedding_loss
from parfocal.pretrain.objectives.objective import Objective

MEM = Objective("mem", masked_embedding_loss)
