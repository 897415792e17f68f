"""What the shards of an explanation leave behind, and what is joined of them.

slides.shard-0-of-4.csv    the table of the slides of a shard
slides.shard-0-of-4.json   what it is of, and all of it in numbers as they are; written last
files.shard-0-of-4.json    the files that the shard wrote
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.explain.directions import Direction, EndRegion, joined_ends
from parfocal.explain.folder import list_of, written
from parfocal.explain.result import SlideParts
from parfocal.files import digest8
from parfocal.predict.shards import mark_done, read_shards
from parfocal.run.failures import FailedSlide
from parfocal.run.shards import Shard
from parfocal.version import __version__

SLIDES = "slides.csv"
"""The table of slides, of all or of a shard's."""

_NAMES = {
    "head": "head",
    "tiles": "tile embeddings",
    "settings": "settings",
    "version": "version of parfocal",
    "slides": "list of slides",
}


@dataclass(frozen=True, eq=False)
class Joined:
    """What all shards have found.

    Attributes:
        slides: the parts of every slide, and the failures in between, in the order of a run without shards.
        ends: regions at the ends of contrast directions.
        settings: of the run, as plain values.
        files: what the shards have written, relative to the folder.
    """

    slides: tuple[SlideParts | FailedSlide, ...]
    ends: tuple[EndRegion, ...]
    settings: Mapping[str, Any]
    files: tuple[str, ...]


def mark_shard(
    table: Path,
    part: Shard,
    everyone: Sequence[str],
    outcomes: Sequence[SlideParts | FailedSlide],
    ends: Sequence[EndRegion],
    *,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
) -> None:
    """Write beside the table of a shard what it is of, and what it found.

    Args:
        table: as `table_of` names it.
        part: the shard.
        everyone: the slides of all shards, in the order of a run without shards.
        outcomes: what came of the shard's slides.
        ends: of the directions, as far as these slides show them.
        inputs: the digests of head and tiles.
        settings: of the run.
    """
    tiles = {name: digest for name, digest in inputs.items() if name != "head"}
    about = {"head": inputs["head"], "tiles": tiles, "settings": digest8(settings), "version": __version__}
    found = {
        "outcomes": [_as_plain(one) for one in outcomes],
        "ends": [asdict(one) for one in ends],
        "asked": settings,
    }
    mark_done(table, part, everyone, {**about, "found": found})


def join_shards(out: Path, head: str) -> Joined:
    """What all shards of an explanation have found.

    Args:
        out: its folder.
        head: the digest of the head that they must be of.

    Raises:
        StoreError: there is no shard, one is missing, not finished or damaged, or there are shards of several runs.
        MismatchError: they are of different heads, settings or lists of slides.
    """
    contents = read_shards(out / SLIDES, _NAMES, head=head)
    found = [content["found"] for content in contents.values()]
    order = {slide: number for content in contents.values() for slide, number in content["order"].items()}
    outcomes = [_from_plain(one) for own in found for one in own["outcomes"]]
    outcomes.sort(key=lambda one: order[one.slide])
    settings = found[0]["asked"]
    files = tuple(name for part in contents for name in (*written(out, part), list_of(part)))
    ends = [[EndRegion(**{**one, "direction": _direction(one["direction"])}) for one in own["ends"]] for own in found]
    return Joined(tuple(outcomes), joined_ends(ends, order, settings["ends"]), settings, files)


def _direction(plain: Mapping[str, Any]) -> Direction:
    first, second = plain["pair"]
    return Direction(**{**plain, "pair": (first, second)})


def _as_plain(one: SlideParts | FailedSlide) -> dict[str, Any]:
    if isinstance(one, FailedSlide):
        return {"failed": {**vars(one), "path": str(one.path)}}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(one).items()}


def _from_plain(plain: Mapping[str, Any]) -> SlideParts | FailedSlide:
    if "failed" in plain:
        return FailedSlide(**{**plain["failed"], "path": Path(plain["failed"]["path"])})
    arrays = {one.name for one in fields(SlideParts)} - {"slide", "prediction"}
    values: dict[str, Any] = {**plain, **{name: np.array(plain[name], dtype=np.float64) for name in arrays}}
    return SlideParts(**values)
