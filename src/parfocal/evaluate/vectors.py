"""Vectors of whole slides by other encoders, as inputs of an evaluation: which slides have one, and their bags."""

import hashlib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from parfocal.bags import Bag, bag_of_vectors
from parfocal.cohort import ids_of_slides
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.store import LeftOut, VectorFolder, commonest, read_slide_vector
from parfocal.table import some_of

SLIDE_VECTOR = "slide vector"
"""The name of the bag that has one vector of each slide."""


@dataclass(frozen=True, eq=False)
class SlideVectors:
    """What one whole-slide encoder says of the slides of a cohort.

    Attributes:
        name: the encoder's, which its arms are called by.
        slides: those that have a vector, sorted.
        rows: the vectors, in that order.
        notes: which slides have none, or none that can be used.
    """

    name: str
    slides: tuple[str, ...]
    rows: Float32[np.ndarray, "slide dim"]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """The first eight hexadecimal digits of a digest of all vectors."""
        said = hashlib.sha256("\n".join(self.slides).encode("utf-8", "surrogateescape"))
        said.update(np.ascontiguousarray(self.rows).tobytes())
        return said.hexdigest()[:8]

    def bag(self, slides: Sequence[str]) -> Bag:
        """The bag of some of the slides, in their order."""
        place = {slide: number for number, slide in enumerate(self.slides)}
        return bag_of_vectors(SLIDE_VECTOR, slides, self.rows[[place[slide] for slide in slides]])


def read_all_vectors(
    folders: Sequence[VectorFolder], slides: Collection[str], *, like: Sequence[SlideVectors] = ()
) -> tuple[list[SlideVectors], list[str]]:
    """The vectors of every folder, and the slides that have one in each of them, sorted.

    Args:
        folders: from `find_vector_folders`.
        slides: ids, those that have embeddings.
        like: of the training cohort, where this is another one.

    Raises:
        ConfigError: no slide has a vector in one of them, or in all of them.
        StoreError: none of a folder's vectors can be read.
        MismatchError: as many vectors have one width as another.
    """
    widths = [one.rows.shape[1] for one in like] or [None] * len(folders)
    found = [_read(folder, sorted(slides), width) for folder, width in zip(folders, widths, strict=True)]
    if not found:
        return [], sorted(slides)
    common = set(slides).intersection(*(one.slides for one in found))
    if not common:
        raise ConfigError(
            f"no slide has a vector in each of {', '.join(one.name for one in found)}. Leave one of them out."
        )
    return found, sorted(common)


def _read(folder: VectorFolder, slides: Sequence[str], width: int | None) -> SlideVectors:
    ids = ids_of_slides(list(folder.files), slides)
    taken: dict[str, list[str]] = {}
    for slide, own in ids.items():
        for one in own:
            taken.setdefault(one, []).append(slide)
    without = [slide for slide in slides if not ids[slide]]
    if len(without) == len(slides):
        raise ConfigError(
            f"no slide has a vector in {folder.path}: its files are called {some_of(list(folder.files))}, the slides "
            f"{some_of(slides)}. Call a file as its slide."
        )
    left_out, vectors = LeftOut(), dict[str, Float32[np.ndarray, " dim"]]()
    for slide in slides:
        if ids[slide]:
            with left_out.reading(slide):
                vectors[slide] = _vector_of(slide, folder, ids[slide], taken)
    left_out.refuse_none_left([slide for slide in slides if ids[slide]], str(folder.path))
    n_all = {slide: len(vector) for slide, vector in vectors.items()}
    usual = width or commonest(n_all, lambda n: f"{n} numbers", f"cannot use the slide vectors in {folder.path}")
    whose = "those of the training cohort have" if width else "most vectors there have"
    for slide, n in n_all.items():
        if n != usual:
            path = folder.files[ids[slide][0]]
            left_out.reasons[slide] = f"cannot use {path}: it has {n} numbers, and {whose} {usual}"
    left_out.refuse_none_left(list(vectors), str(folder.path))
    there = [slide for slide in vectors if n_all[slide] == usual]
    notes = []
    if without:
        alone = len(without) == 1
        notes.append(
            f"{len(without)} of {len(slides)} slides {'has' if alone else 'have'} no vector of {folder.name} and "
            f"{'is' if alone else 'are'} left out of all arms: {some_of(without)}."
        )
    nobody = [one for one in folder.files if one not in taken]
    if nobody:
        n_nobody = (
            f"1 vector of {folder.name} is" if len(nobody) == 1 else f"{len(nobody)} vectors of {folder.name} are"
        )
        notes.append(f"{n_nobody} of no slide with embeddings: {some_of(nobody)}.")
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=4)
    return SlideVectors(
        folder.name,
        tuple(there),
        np.stack([vectors[slide] for slide in there]),
        (*notes, *left_out.notes(stacklevel=4)),
    )


def _vector_of(
    slide: str, folder: VectorFolder, own: Sequence[str], taken: dict[str, list[str]]
) -> Float32[np.ndarray, " dim"]:
    if len(own) > 1:
        raise StoreError(
            f"{len(own)} files are its vector: {some_of([str(folder.files[one]) for one in own])}. Keep one"
        )
    if len(taken[own[0]]) > 1:
        raise StoreError(
            f"{folder.files[own[0]]} may be of {len(taken[own[0]])} slides: {some_of(taken[own[0]])}. "
            "Call it by its slide's folder too"
        )
    return read_slide_vector(folder.files[own[0]])
