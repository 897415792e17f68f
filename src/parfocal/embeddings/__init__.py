"""Step 5: slides and tile encoders in, files of embeddings out, and back again.

One HDF5 file per slide and magnification in the layout that TRIDENT writes and the field reads, and per slide one
index that says which rows belong to which region. Features that other tools have written become a set by an index.
"""

from parfocal.embeddings.embed import EmbeddedSlide, embed_slide
from parfocal.embeddings.estimate import RunEstimate, SlideEstimate, estimate_run
from parfocal.embeddings.events import (
    EmbedSummary,
    Event,
    FailedSlide,
    Notice,
    OnEvent,
    RunStarted,
    SlideFinished,
    TilesDone,
)
from parfocal.embeddings.files import RowDtype, SlideOrigin
from parfocal.embeddings.index import IndexedSlide, IndexSummary, index_features
from parfocal.embeddings.left_out import LeftOut, with_readable_index, with_readable_rows
from parfocal.embeddings.normalise import SetStatistics, compute_statistics
from parfocal.embeddings.progress import RunProgress, estimate_table, summary_table
from parfocal.embeddings.records import Failure, read_failures
from parfocal.embeddings.run import create_embedding_set, embed_slides
from parfocal.embeddings.sets import create_set, settings_digest
from parfocal.embeddings.settings import EmbedSettings, load_encoders
from parfocal.embeddings.store import EmbeddingSet, open_set, open_sets
from parfocal.embeddings.subset import only_mpps
from parfocal.embeddings.tokens import SlideRegions, SlideTokens
from parfocal.embeddings.write import SlideWriter, write_regions, write_tokens

__all__ = [
    "EmbedSettings",
    "EmbedSummary",
    "EmbeddedSlide",
    "EmbeddingSet",
    "Event",
    "FailedSlide",
    "Failure",
    "IndexSummary",
    "IndexedSlide",
    "LeftOut",
    "Notice",
    "OnEvent",
    "RowDtype",
    "RunEstimate",
    "RunProgress",
    "RunStarted",
    "SetStatistics",
    "SlideEstimate",
    "SlideFinished",
    "SlideOrigin",
    "SlideRegions",
    "SlideTokens",
    "SlideWriter",
    "TilesDone",
    "compute_statistics",
    "create_embedding_set",
    "create_set",
    "embed_slide",
    "embed_slides",
    "estimate_run",
    "estimate_table",
    "index_features",
    "load_encoders",
    "only_mpps",
    "open_set",
    "open_sets",
    "read_failures",
    "settings_digest",
    "summary_table",
    "with_readable_index",
    "with_readable_rows",
    "write_regions",
    "write_tokens",
]
