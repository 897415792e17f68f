"""Step 5: files of embeddings, written, read, and made of what other tools have written.

One HDF5 file per slide and magnification in the layout that TRIDENT writes and the field reads, and per slide one
index that says which rows belong to which region. Features that other tools have written become a set by an index.
"""

from parfocal.store.files import SlideOrigin
from parfocal.store.formats.format import FeatureFile, FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.store.index import IndexedSlide, IndexSummary, index_features
from parfocal.store.layout import RowDtype, create_set, settings_digest
from parfocal.store.left_out import LeftOut, commonest, with_readable_index, with_readable_rows
from parfocal.store.reading import Reading
from parfocal.store.resolution import FeatureSettings, check_level0_known, stored_file
from parfocal.store.set import EmbeddingSet, Source, only_mpps, open_set, open_sets
from parfocal.store.slide_vectors import VectorFolder, find_vector_folders, read_slide_vector
from parfocal.store.status import RunRate, SetStatus, StoreStatus, read_status
from parfocal.store.tokens import SlidePlaces, SlideRegions, SlideTokens
from parfocal.store.write import SlideWriter, write_regions, write_tokens

__all__ = [
    "EmbeddingSet",
    "FeatureFile",
    "FeatureFormat",
    "FeatureSettings",
    "FeatureSource",
    "FeaturesToWrite",
    "IndexSummary",
    "IndexedSlide",
    "LeftOut",
    "Reading",
    "RowDtype",
    "RunRate",
    "SetStatus",
    "SlideOrigin",
    "SlidePlaces",
    "SlideRegions",
    "SlideTokens",
    "SlideWriter",
    "Source",
    "StoreStatus",
    "VectorFolder",
    "check_level0_known",
    "commonest",
    "create_set",
    "find_vector_folders",
    "index_features",
    "only_mpps",
    "open_set",
    "open_sets",
    "read_slide_vector",
    "read_status",
    "settings_digest",
    "stored_file",
    "with_readable_index",
    "with_readable_rows",
    "write_regions",
    "write_tokens",
]
