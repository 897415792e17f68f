"""Between the steps: tile encoder, region encoder and head trained together, from pixels, on slides or on places.

`finetune_encoder` ends with weights that `embed` takes and a region encoder that `represent` takes.
(`heads/finetune.py` is something else: the arm that trains a region encoder on, from stored embeddings.)
"""

from parfocal.finetune.gradients import cached_backward
from parfocal.finetune.reading import KeptTiles
from parfocal.finetune.run import FinetuneResult, finetune_encoder
from parfocal.finetune.settings import FinetuneSettings
from parfocal.finetune.tuning import Tune, TunedEncoder

__all__ = [
    "FinetuneResult",
    "FinetuneSettings",
    "KeptTiles",
    "Tune",
    "TunedEncoder",
    "cached_backward",
    "finetune_encoder",
]
