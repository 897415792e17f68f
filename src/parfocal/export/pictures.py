"""Tiles as pictures, for people who train elsewhere: WebDataset's tars, or one file for each tile.

A slide's pictures are made beside where they belong and moved there when all of them are there.
"""

import filecmp
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from pydantic import Field

from parfocal.errors import ConfigError, MismatchError, SlideError
from parfocal.export.features import ExportChoices, chosen_set, chosen_slides, outcomes_of
from parfocal.export.pixels import PlacedTile, read_tiles
from parfocal.files import staging, writable_folder
from parfocal.geometry import format_mpp
from parfocal.run.events import OnEvent, warn_of
from parfocal.run.failures import FailedSlide, SlideOutcomes
from parfocal.slides import SlideSource, find_slides, open_slide
from parfocal.slides.on_disk import path_problem
from parfocal.store import EmbeddingSet, stored_file
from parfocal.store.fingerprint import is_embedded_file
from parfocal.store.set import Source

_MEGABYTE = 1_000_000
# A shard ends with blocks of zeros, and each file in it begins with a block and is filled up to one.
_TAR_BLOCK = 512


class PictureSettings(ExportChoices):
    """How tiles become pictures."""

    pictures: Literal["tar", "png"] = Field(
        "tar", description="tar: shards as WebDataset reads them; png: a file SLIDE/MPP/X_Y for each tile."
    )
    jpeg: int | None = Field(
        None, ge=1, le=100, description="Write JPEG of this quality; PNG, which loses nothing, when None."
    )
    shard_mb: float = Field(500.0, gt=0, description="Most megabytes in a shard; one tile is always in it.")


@dataclass(frozen=True)
class PicturedSlide:
    """A slide whose tiles are pictures now.

    Attributes:
        slide: id.
        n_tiles: how many pictures.
        n_kept: how many files (shards or pictures) were there before.
    """

    slide: str
    n_tiles: int
    n_kept: int


@dataclass(frozen=True, eq=False)
class PictureSummary(SlideOutcomes[PicturedSlide]):
    """What came of an export of pictures.

    Attributes:
        embeddings: the set.
        folder: where the files are.
        slides: what came of each.
    """

    embeddings: EmbeddingSet
    folder: Path
    slides: tuple[PicturedSlide | FailedSlide, ...]


def export_pictures(
    source: Source,
    out: Path,
    settings: PictureSettings | None = None,
    *,
    slides: Sequence[Path] = (),
    set_name: str | None = None,
    on_event: OnEvent | None = None,
) -> PictureSummary:
    """Write the tiles of a set as pictures; a slide whose file is gone is recorded, the rest goes on.

    Args:
        source: a store of tiles, or a set of it; embedded or indexed.
        out: the folder.
        settings: how.
        slides: where slide files are now, where that is not where they were embedded: files, folders and manifests.
        set_name: the set, or the beginning of its name, where the source has several.
        on_event: told how many `slides` are done.

    Raises:
        ConfigError: there is no such set or slide, several sets are meant, or the set is one of regions.
        MismatchError: the set lacks a magnification.
        StoreError: the source holds no set.
    """
    settings = settings or PictureSettings()
    embeddings, tell = chosen_set(source, set_name, settings), on_event or warn_of
    if embeddings.kind == "regions":
        raise ConfigError(f"{embeddings.name} is a set of regions. Pictures are made of a set of tiles: name it.")
    named = {one.slide: one for one in find_slides(slides)} if slides else {}
    writable_folder(out)
    chosen = chosen_slides(embeddings, settings)
    outcomes = outcomes_of(
        embeddings, chosen, out, lambda slide: _export_slide(embeddings, slide, named, out, settings), tell
    )
    return PictureSummary(embeddings, out, outcomes)


def _export_slide(
    embeddings: EmbeddingSet, slide: str, named: Mapping[str, SlideSource], out: Path, settings: PictureSettings
) -> PicturedSlide:
    stored = embeddings.attributes(slide)
    found = stored_file(slide, stored, named)
    if found is None:
        raise SlideError(f"the store does not say where the file of {slide} is. Name it or its folder: --slides.")
    problem = path_problem(found.path)
    if problem is not None:
        raise SlideError(f"cannot read {found.path}: {problem}. Name where the slides are now: --slides.")
    # Features of another tool do not say which file they were made of.
    if embeddings.settings.get("grid", {}).get("tile_px") and not is_embedded_file(found.path, stored):
        raise MismatchError(
            f"the file of {slide} has changed since it was embedded: {found.path} is another one, and would lie "
            "wrongly under these tiles. Put the right file there, or embed it again into a store of its own."
        )
    with (
        open_slide(found.path, slide_mpp=found.slide_mpp, scan=found.scan) as opened,
        staging(out) as folder,
    ):
        tiles = read_tiles(opened, embeddings, slide)
        if settings.pictures == "tar":
            n_tiles = _write_shards(tiles, folder, slide, settings)
        else:
            n_tiles = _write_files(tiles, folder, slide, settings)
        return PicturedSlide(slide, n_tiles, _move(folder, out, slide, settings))


_SUFFIXES = (".png", ".jpg")


def _name(tile: PlacedTile, slide: str) -> str:
    return f"{slide}/{format_mpp(tile.mpp)}/{tile.x_l0px}_{tile.y_l0px}"


def _encoded(tile: PlacedTile, settings: PictureSettings) -> tuple[str, bytes]:
    """The picture's suffix and its bytes."""
    file = io.BytesIO()
    if settings.jpeg is None:
        Image.fromarray(tile.pixels).save(file, "PNG")
        return ".png", file.getvalue()
    Image.fromarray(tile.pixels).save(file, "JPEG", quality=settings.jpeg, subsampling=0)
    return ".jpg", file.getvalue()


def _write_files(tiles: Iterable[PlacedTile], folder: Path, slide: str, settings: PictureSettings) -> int:
    n_tiles = 0
    for tile in tiles:
        suffix, content = _encoded(tile, settings)
        path = folder / f"{_name(tile, slide)}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        n_tiles += 1
    return n_tiles


def _write_shards(tiles: Iterable[PlacedTile], folder: Path, slide: str, settings: PictureSettings) -> int:
    """Shards of one slide: each picture with its facts, under a key that no other tile has."""
    n_tiles = n_shards = 0
    room, shard = 0.0, None
    try:
        for tile in tiles:
            suffix, picture = _encoded(tile, settings)
            name, facts = _name(tile, slide), json.dumps(tile.describe(slide)).encode()
            size = sum(_TAR_BLOCK * (2 + len(content) // _TAR_BLOCK) for content in (picture, facts))
            if shard is None or size > room:
                if shard is not None:
                    shard.close()
                path = _shard(folder, slide, n_shards)
                path.parent.mkdir(parents=True, exist_ok=True)
                shard = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed with the next one
                room, n_shards = settings.shard_mb * _MEGABYTE - tarfile.RECORDSIZE, n_shards + 1
            for ending, content in ((suffix, picture), (".json", facts)):
                member = tarfile.TarInfo(name + ending)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
            room, n_tiles = room - size, n_tiles + 1
    finally:
        if shard is not None:
            shard.close()
    return n_tiles


def _shard(folder: Path, slide: str, number: int) -> Path:
    return folder / f"{slide}-{number:06d}.tar"


def _move(made: Path, out: Path, slide: str, settings: PictureSettings) -> int:
    """Move what was made where it belongs; how many files were there before, the same byte for byte.

    Raises:
        MismatchError: other ones are there, and must not be written over; then nothing is moved.
    """
    files = [file.relative_to(made) for file in sorted(made.rglob("*")) if file.is_file()]
    there = [file for file in files if (out / file).exists()]
    same = {file for file in there if filecmp.cmp(made / file, out / file, shallow=False)}
    others = [file for file in there if file not in same]
    stale = list(_stale(out, slide, files, settings))
    if (others or stale) and not settings.overwrite:
        raise MismatchError(
            f"{(*(out / file for file in others), *stale)[0]} is there and holds other pictures. Export into another "
            "folder, or pass --overwrite (overwrite=True)."
        )
    for file in files:
        if file not in same:
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).replace(out / file)
    for path in stale:
        path.unlink()
    return len(same)


def _stale(out: Path, slide: str, files: Sequence[Path], settings: PictureSettings) -> Iterator[Path]:
    """What is there of the slide and would be taken for a part of what was made now."""
    if settings.pictures == "tar":
        # Shards of before that go on after the last one of now.
        number = len(files)
        while (path := _shard(out, slide, number)).exists():
            yield path
            number += 1
        return
    made = set(files)
    for folder in sorted({file.parent for file in files}):
        for path in sorted((out / folder).glob("*_*")):
            if path.suffix in _SUFFIXES and path.relative_to(out) not in made:
                yield path
