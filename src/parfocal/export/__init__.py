"""Back to other tools: embeddings in the layouts that they read, and tiles as pictures for people who train elsewhere.

In: a store, of tiles or of regions, embedded or indexed. Out: files of TRIDENT, CLAM, STAMP, slide2vec or AtlasPatch,
AnnData, or pictures in WebDataset's tars or in folders.
"""

from parfocal.export.anndata import need_anndata, write_anndata
from parfocal.export.features import ExportedSlide, ExportSettings, ExportSummary, export_features, export_formats
from parfocal.export.observations import Observations, observed_regions, observed_tiles
from parfocal.export.pictures import PictureSettings, PictureSummary, export_pictures

__all__ = [
    "ExportSettings",
    "ExportSummary",
    "ExportedSlide",
    "Observations",
    "PictureSettings",
    "PictureSummary",
    "export_features",
    "export_formats",
    "export_pictures",
    "need_anndata",
    "observed_regions",
    "observed_tiles",
    "write_anndata",
]
