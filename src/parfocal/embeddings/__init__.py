"""Step 5: slides and tile encoders in, files of embeddings out, and back again.

One HDF5 file per slide and magnification in the layout that TRIDENT writes and the field reads, and per slide one
index that says which rows belong to which region. Features that other tools have written become a set by an index.
"""

from parfocal.embeddings.store import EmbeddingSet, open_set, open_sets
from parfocal.embeddings.tokens import SlideRegions, SlideTokens
from parfocal.embeddings.write import (
    RowDtype,
    SlideOrigin,
    SlideWriter,
    create_set,
    settings_digest,
    write_regions,
    write_tokens,
)

__all__ = [
    "EmbeddingSet",
    "RowDtype",
    "SlideOrigin",
    "SlideRegions",
    "SlideTokens",
    "SlideWriter",
    "create_set",
    "open_set",
    "open_sets",
    "settings_digest",
    "write_regions",
    "write_tokens",
]
