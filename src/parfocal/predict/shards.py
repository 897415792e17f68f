"""Tables of predictions of the shards of a run, and the one table that is joined of them.

predictions.shard-0-of-4.csv    the table of a shard
predictions.shard-0-of-4.json   what it is of, written last: where it is, the shard is done
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.embed import Zoom
from parfocal.errors import MismatchError, StoreError
from parfocal.files import digest8, file_digest8, file_sha256, read_csv, write_csv, writing
from parfocal.predict.given import PredictSettings
from parfocal.run.failures import FailedSlide
from parfocal.run.records import RUN_FILE, RunRecords
from parfocal.run.shards import Shard
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet
from parfocal.table import some_of
from parfocal.version import __version__

_NAME = re.compile(r"\.shard-(\d+)-of-(\d+)\.json")
_NAMES = {
    "head": "head",
    "tiles": "tile embeddings",
    "opening": "way to open slides",
    "zoom": "share of tiles that is read",
    "places": "file of places",
    "version": "version of parfocal",
    "slides": "list of slides",
}
# What else is set says where and how fast a slide is embedded, and changes no row.
_OPENING = {"slide_mpp", "mpp_from_objective", "scan", "max_absent"}


def table_of(out: Path, part: Shard | None) -> Path:
    """The table that a run writes: `out`, or that of its shard beside it."""
    return out if part is None else out.with_name(f"{out.stem}.shard-{part.number}-of-{part.count}{out.suffix}")


def described(
    head: str, tiles: str, settings: PredictSettings, *, zoom: Zoom | None = None, places: Path | None = None
) -> dict[str, Any]:
    """What all shards of a run have to have in common, beside their slides.

    Args:
        head: its digest.
        tiles: the name of the set that is predicted.
        settings: how slides are opened.
        zoom: which of their tiles are read.
        places: where regions lie.
    """
    rule = zoom.stop.rule if zoom is not None and zoom.stop is not None else None
    read = zoom and [zoom.policy, *zoom.coarser, zoom.budget, zoom.seed, zoom.bound, rule]
    return {
        "head": head,
        "tiles": tiles,
        "opening": settings.model_dump(mode="json", include=_OPENING),
        "zoom": read,
        "places": None if places is None else file_digest8(places),
        "version": __version__,
    }


def prediction_records(out: Path, table: Path, about: Mapping[str, Any], settings: PredictSettings) -> RunRecords:
    """The records of a run; all shards write to one file beside the table, `NAME.run.jsonl`."""
    return RunRecords(
        records_path(out), command="predict", sets=[table.name], settings=digest8(about), shard=settings.shard
    )


def records_path(out: Path) -> Path:
    """The file of records beside a table of predictions."""
    return out.with_name(f"{out.stem}.{RUN_FILE}")


def record_prediction(records: RunRecords, outcome: Any, tiles: EmbeddingSet, seconds: float) -> None:
    """Note what came of a slide."""
    if isinstance(outcome, FailedSlide):
        records.failed(outcome)
        return
    records.ended(
        SlideSource(outcome.slide, tiles.path),
        "done",
        seconds=seconds,
        tiles=sum(tiles.n_tiles(outcome.slide).values()),
    )


def mark_done(table: Path, part: Shard, everyone: Sequence[str], about: Mapping[str, Any]) -> None:
    """Write beside a shard's table what it is of.

    Args:
        table: whole, as `table_of` names it.
        part: the shard.
        everyone: the slides of all shards in the order of the joined table.
        about: what all shards have in common.
    """
    content = {
        **about,
        "shard": str(part),
        "slides": digest8(list(everyone)),
        "n_slides": len(everyone),
        "order": {slide: number for number, slide in enumerate(everyone) if part.holds(slide)},
        "table": file_sha256(table),
    }
    with writing(table.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


@dataclass(frozen=True)
class MergedTable:
    """A table that was joined.

    Attributes:
        out: the table.
        shards: how many it was joined of.
        slides: how many slides it has rows of.
        problems: of these, how many have a problem in place of a prediction.
    """

    out: Path
    shards: int
    slides: int
    problems: int


def merge_predictions(out: Path, *, head: str | None = None) -> MergedTable:
    """Join the tables of all shards of a run into the one that a run without shards would have written.

    Args:
        out: the table, named as each shard was told to.
        head: the digest of the head that they must be of; whatever they are of where None.

    Raises:
        StoreError: there is no shard, one is missing, not finished or damaged, or there are shards of several runs.
        MismatchError: they are of different heads, settings or lists of slides.
    """
    whole = read_shards(out, _NAMES, head=head)
    parts = [*whole]
    order = {slide: number for content in whole.values() for slide, number in content["order"].items()}
    header, rows = list[str](), list[list[str]]()
    for part in parts:
        columns, *own = read_csv(table_of(out, part))
        if header and columns != header:
            raise MismatchError(f"cannot merge {out}: {table_of(out, part).name} has other columns. Run {part} again.")
        header, rows = columns, rows + own
    write_csv(out, header, sorted(rows, key=lambda row: order[row[0]]))
    n_slides = len({row[0] for row in rows})
    spoken = {row[0] for row in rows if not row[header.index("problem")]}
    return MergedTable(out, len(parts), n_slides, n_slides - len(spoken))


def read_shards(out: Path, names: Mapping[str, str], *, head: str | None = None) -> dict[Shard, dict[str, Any]]:
    """What the marks of all shards of a run say, in their order.

    Args:
        out: the table that is joined of theirs.
        names: what they have in common, by its key in the marks, and how it is called.
        head: the digest of the head that they must be of; whatever they are of where None.

    Raises:
        StoreError: there is no shard, one is missing, not finished or damaged, or there are shards of several runs.
        MismatchError: they are of different heads, settings or lists of slides.
    """
    found = _shards_beside(out)
    counts = sorted({part.count for part in found})
    if not counts:
        raise StoreError(
            f"cannot merge {out}: there is no {table_of(out, Shard(0, 4)).name} or the like beside it. Run every shard "
            "first, with the same --output and --shard 0/4, 1/4 and so on."
        )
    if len(counts) > 1:
        raise StoreError(
            f"cannot merge {out}: there are shards of {' and of '.join(map(str, counts))}. Remove those that are not "
            "meant."
        )
    parts = [Shard(number, counts[0]) for number in range(counts[0])]
    contents = {part: _read(out, part, names) for part in parts if part in found}
    missing = [str(part) for part in parts if contents.get(part) is None]
    if missing:
        which = f"shard {missing[0]} is" if len(missing) == 1 else f"shards {', '.join(missing)} are"
        raise StoreError(f"cannot merge {out}: {which} missing or not finished. Run what is missing with --shard.")
    whole = {part: content for part, content in contents.items() if content is not None}
    _refuse_different(out, whole, names, head)
    return whole


def _shards_beside(out: Path) -> set[Shard]:
    """The shards of which something is there, a table or its mark."""
    found = set()
    for path in out.absolute().parent.iterdir() if out.absolute().parent.is_dir() else ():
        match = _NAME.fullmatch(path.with_suffix(".json").name.removeprefix(out.stem))
        if match and path.name.startswith(out.stem) and int(match[1]) < int(match[2]):
            found.add(Shard(int(match[1]), int(match[2])))
    return found


def _read(out: Path, part: Shard, names: Mapping[str, str]) -> dict[str, Any] | None:
    """What a shard is of; None where it is not finished, as where it is run anew."""
    table = table_of(out, part)
    mark = table.with_suffix(".json")
    try:
        content = json.loads(mark.read_text())
        is_whole = content["table"] == file_sha256(table)
        if content["shard"] != str(part) or not {*names} <= {*content} or not isinstance(content["order"], dict):
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot merge {out}: {mark.name} is damaged. Run shard {part} again.") from error
    return content if is_whole else None


def _refuse_different(
    out: Path, contents: Mapping[Shard, Mapping[str, Any]], names: Mapping[str, str], head: str | None
) -> None:
    first, *others = contents
    for name, what in names.items():
        odd = [str(part) for part in others if contents[part][name] != contents[first][name]]
        if odd:
            counts = sorted({content["n_slides"] for content in contents.values()})
            more = f" ({' and '.join(map(str, counts))} slides)" if name == "slides" and len(counts) > 1 else ""
            raise MismatchError(
                f"cannot merge {out}: shards {some_of(odd)} are of another {what} than {first}{more}. Run all of them "
                "with the same command; what is embedded is kept."
            )
    if head is not None and contents[first]["head"] != head:
        raise MismatchError(
            f"cannot merge {out}: its shards are of the head {contents[first]['head']}, and --head is {head}."
        )
