"""Embeddings as AnnData: one object for each slide, or one for the cohort, with all magnifications in it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py

from parfocal.errors import MismatchError
from parfocal.export.anndata import need_anndata, write_anndata
from parfocal.export.observations import Observations, observed_regions, observed_tiles
from parfocal.files import digest8, file_of
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, check_level0_known
from parfocal.store.h5 import file_digest
from parfocal.store.layout import index_path

ANNDATA = "anndata"
COHORT_FILE = "cohort.h5ad"
_MADE_OF = "made_of"


def object_path(out: Path, slide: str) -> Path:
    """The file of a slide's object."""
    return file_of(out, slide, ".h5ad")


def write_object(
    embeddings: EmbeddingSet, slides: Sequence[str], path: Path, *, overwrite: bool
) -> tuple[dict[str, dict[float, int]], bool]:
    """Write one object of these slides, whole or not at all; of their rows those of one slide are in memory.

    Returns:
        how many rows it has of each slide and magnification (of regions, the finest), and whether the file was there
        already, of the same rows.

    Raises:
        CalibrationError: the resolution of a slide is not known.
        MismatchError: another file is there, or the rows of two magnifications differ in width.
        MissingPackageError: anndata is not installed.
    """
    need_anndata("choose another --format")
    names = list(map(format_mpp, embeddings.mpps))
    files = {slide: file_digest(index_path(embeddings.path, slide)) for slide in slides}
    made_of = digest8({"set": embeddings.name, "mpps": names, "slides": files})
    counts = {slide: _n_rows(embeddings, slide) for slide in slides}
    if path.exists() and not overwrite:
        if _made_of(path) == made_of:
            return counts, True
        raise MismatchError(
            f"{path} is there and holds something else. Export into another folder, or pass --overwrite "
            "(overwrite=True)."
        )
    if embeddings.kind == "tiles" and len(set(embeddings.dims.values())) > 1:
        widths = ", ".join(f"{dim} at {format_mpp(mpp)} mpp" for mpp, dim in embeddings.dims.items())
        raise MismatchError(f"one object has rows of one width, and {embeddings.name} has {widths}. Choose by --mpps.")
    known = {"set": embeddings.name, "mpps": names, _MADE_OF: made_of}
    write_anndata(path, _observed(embeddings, slides), known=known)
    return counts, False


def _observed(embeddings: EmbeddingSet, slides: Sequence[str]) -> Iterator[Observations]:
    for slide in slides:
        if embeddings.kind == "regions":
            yield observed_regions(embeddings.read_regions(slide), embeddings.mpps)
            continue
        tokens = embeddings.read(slide)
        tile_um = embeddings.tile_um_of(tokens)
        for mpp in tokens.mpps:
            yield observed_tiles(tokens, mpp, side_um=tile_um[mpp])


def _n_rows(embeddings: EmbeddingSet, slide: str) -> dict[float, int]:
    check_level0_known(slide, float(embeddings.attributes(slide)["slide_mpp"]))
    if embeddings.kind == "regions":
        return {min(embeddings.mpps): embeddings.n_regions(slide)}
    return embeddings.n_tiles(slide)


def _made_of(path: Path) -> str | None:
    """What the object in a file was made of; None where it does not say it, or is no such file."""
    try:
        with h5py.File(path, "r") as file:
            found = file[f"uns/parfocal/{_MADE_OF}"][()]
    except (OSError, KeyError, ValueError, AttributeError):
        return None
    return found.decode() if isinstance(found, bytes) else str(found)
