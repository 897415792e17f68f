"""Step 8: a set of embeddings and a region encoder in, region embeddings and the bags of slides out.

`represent` writes region embeddings into a store; `read_bags` reads what the probes of the next step pool.
"""

from parfocal.bags.bag import Bag, read_bags

__all__ = ["Bag", "read_bags"]
