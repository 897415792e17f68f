"""Step 8: a set of embeddings and a region encoder in, region embeddings and the bags of slides out.

`represent` writes region embeddings into a store; `read_bags` reads what the probes of the next step pool.
"""

from parfocal.bags.bag import Bag, read_bags
from parfocal.bags.represent import RepresentSettings, RepresentSummary, represent

__all__ = ["Bag", "RepresentSettings", "RepresentSummary", "read_bags", "represent"]
