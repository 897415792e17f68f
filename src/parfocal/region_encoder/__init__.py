"""Step 6: the tokens of a region go in; contextual tokens and the region's vector come out.

`RegionEncoder.from_pretrained(folder).encode(tokens, xy_um, mpp, present)` takes any subset of tiles at any
magnification. The decoder can be asked what a tile looks like that was never read. Training is the next step's.
"""

from parfocal.region_encoder.batch import READOUTS, EncodedRegions, Readout, RegionBatch, collate_regions
from parfocal.region_encoder.config import SIZES, DecoderBias, RegionEncoderConfig, Size
from parfocal.region_encoder.decoder import Decoded, EmbeddingDecoder, RegionModel
from parfocal.region_encoder.encoder import RegionEncoder
from parfocal.region_encoder.export import export_encoder, export_model

__all__ = [
    "READOUTS",
    "SIZES",
    "Decoded",
    "DecoderBias",
    "EmbeddingDecoder",
    "EncodedRegions",
    "Readout",
    "RegionBatch",
    "RegionEncoder",
    "RegionEncoderConfig",
    "RegionModel",
    "Size",
    "collate_regions",
    "export_encoder",
    "export_model",
]
