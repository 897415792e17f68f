"""Step 5: files of embeddings, written, read, and made of what other tools have written.

One HDF5 file per slide and magnification in the layout that TRIDENT writes and the field reads, and per slide one
index that says which rows belong to which region. Features that other tools have written become a set by an index.
"""

from parfocal.store.files import SlideOrigin
from parfocal.store.formats.format import FeatureFile, FeatureFormat
from parfocal.store.index import IndexedSlide, IndexSummary, index_features
from parfocal.store.layout import RowDtype, create_set, settings_digest
from parfocal.store.left_out import LeftOut, with_readable_index, with_readable_rows
from parfocal.store.reading import Reading
from parfocal.store.set import EmbeddingSet, Source, only_mpps, open_set, open_sets
from parfocal.store.survey import FeatureSettings
from parfocal.store.tokens import SlidePlaces, SlideRegions, SlideTokens
from parfocal.store.write import SlideWriter, write_regions, write_tokens

__all__ = [
    "EmbeddingSet",
    "FeatureFile",
    "FeatureFormat",
    "FeatureSettings",
    "IndexSummary",
    "IndexedSlide",
    "LeftOut",
    "Reading",
    "RowDtype",
    "SlideOrigin",
    "SlidePlaces",
    "SlideRegions",
    "SlideTokens",
    "SlideWriter",
    "Source",
    "create_set",
    "index_features",
    "only_mpps",
    "open_set",
    "open_sets",
    "settings_digest",
    "with_readable_index",
    "with_readable_rows",
    "write_regions",
    "write_tokens",
]
