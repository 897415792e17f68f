"""Step 4 of the path: RGB tiles go in, embeddings come out, one row for each tile.

An encoder is named by a spec (`load_tile_encoder("filterbank")`, `"virchow2"`, `"timm:resnet18,pretrained"`,
`"file:model.onnx"`, `"python:my_module:my_function"`) and never sees a slide. torch is imported only when a spec needs
it.
"""

from parfocal.encoders.base import (
    EncoderInfo,
    Symmetry,
    TileEncoder,
    check_tiles,
    check_trained_mpps,
    symmetries_of_square,
)
from parfocal.encoders.kind import ENCODERS, EncoderKind, EncoderSpec
from parfocal.encoders.kinds.filterbank import FilterBank
from parfocal.encoders.loading import available_encoders, load_tile_encoder, parse_encoder_specs

__all__ = [
    "ENCODERS",
    "EncoderInfo",
    "EncoderKind",
    "EncoderSpec",
    "FilterBank",
    "Symmetry",
    "TileEncoder",
    "available_encoders",
    "check_tiles",
    "check_trained_mpps",
    "load_tile_encoder",
    "parse_encoder_specs",
    "symmetries_of_square",
]
