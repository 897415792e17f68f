"""Which regions of a cohort look alike: the nearest ones by the cosine of their embeddings, exactly.

In: a store of region embeddings or of tile embeddings, a slide and a place on it. Out: the regions that are most alike.
"""

from parfocal.similar.run import SimilarSummary, find_similar
from parfocal.similar.search import RegionSearch, SimilarRegion

__all__ = ["RegionSearch", "SimilarRegion", "SimilarSummary", "find_similar"]
