"""Step 8: a set of embeddings and a region encoder in, region embeddings and the bags of slides out.

`represent` writes region embeddings into a store; `read_bags` reads what the probes of the next step pool.
"""

from parfocal.bags.bag import Bag, bag_of_vectors
from parfocal.bags.decoded import DECODED, PredictedTiles, TileDecoder, open_decoder
from parfocal.bags.derived import (
    PARENTS,
    PLACED,
    derived_names,
    elsewhere_name,
    mpps_behind,
    one_by_one,
    pseudo_name,
)
from parfocal.bags.parts import Filler, empty_bag, fine_bag, glance_at, open_filler, read_in_part
from parfocal.bags.reading import MOST_BYTES, bag_of_slide, own_names, read_bags
from parfocal.bags.represent import (
    RepresentChoices,
    RepresentSettings,
    RepresentSummary,
    readout_label,
    represent_regions,
    seen_by,
)
from parfocal.bags.rows import RowsAsNeeded

__all__ = [
    "DECODED",
    "MOST_BYTES",
    "PARENTS",
    "PLACED",
    "Bag",
    "Filler",
    "PredictedTiles",
    "RepresentChoices",
    "RepresentSettings",
    "RepresentSummary",
    "RowsAsNeeded",
    "TileDecoder",
    "bag_of_slide",
    "bag_of_vectors",
    "derived_names",
    "elsewhere_name",
    "empty_bag",
    "fine_bag",
    "glance_at",
    "mpps_behind",
    "one_by_one",
    "open_decoder",
    "open_filler",
    "own_names",
    "pseudo_name",
    "read_bags",
    "read_in_part",
    "readout_label",
    "represent_regions",
    "seen_by",
]
