"""What is known at each place: vectors of every magnification, of its context, of controls, and the targets."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.evaluate.places.rows import (
    all_model_blocks,
    elsewhere,
    is_tiles,
    noise,
    read_made,
    rows_at,
)
from parfocal.geometry import format_mpp
from parfocal.regions.places import STEP_UM, Places, read_places
from parfocal.run.events import Notice, OnEvent
from parfocal.store import EmbeddingSet, LeftOut
from parfocal.table import some_of


@dataclass(frozen=True, eq=False)
class PlaceData:
    """Places that every set has a region for; entry i of everything is of place i, those of a slide together.

    Attributes:
        slides: the slide of each place, as the sets call it.
        groups: what stays together in a fold: the slide, or what a column of the places says.
        xy_um: where it lies on its slide.
        offset_um: how far it lies from the middle of its region.
        blocks: vectors by name, as `rows_at` and the arms call them.
        names: the targets. A class of several is a target of its own, called `column=class`.
        columns: of each target the column that it comes from.
        target: of each place and target; a class is 1 where it is there.
        is_class: whether a target is a class.
        notes: what was left out, one sentence each.
    """

    slides: tuple[str, ...]
    groups: tuple[str, ...]
    xy_um: Float64[np.ndarray, "place 2"]
    offset_um: Float64[np.ndarray, " place"]
    blocks: Mapping[str, Float32[np.ndarray, "place _dim"]]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    target: Float64[np.ndarray, "place target"]
    is_class: Bool[np.ndarray, " target"]
    notes: tuple[str, ...] = ()

    def with_targets(self, kept: Bool[np.ndarray, " target"]) -> "PlaceData":
        """The same with some of the targets."""
        names = tuple(name for name, is_kept in zip(self.names, kept, strict=True) if is_kept)
        columns = tuple(name for name, is_kept in zip(self.columns, kept, strict=True) if is_kept)
        target, is_class = self.target[:, kept], self.is_class[kept]
        return replace(self, names=names, columns=columns, target=target, is_class=is_class)

    @property
    def slide_numbers(self) -> Int64[np.ndarray, " place"]:
        """The slides as numbers from 0, in the order of their names."""
        return _numbers(self.slides)

    @property
    def unit_of_slide(self) -> dict[str, str]:
        """The group of each slide: what intervals count."""
        return dict(zip(self.slides, self.groups, strict=True))

    @property
    def group_numbers(self) -> Int64[np.ndarray, " place"]:
        """The groups as numbers from 0, in the order of their names."""
        return _numbers(self.groups)


def tiles_among(sets: Sequence[EmbeddingSet]) -> EmbeddingSet:
    """The one set of tiles.

    Raises:
        ConfigError: there is none, or there are several.
    """
    tiles = [one for one in sets if is_tiles(one)]
    if len(tiles) != 1:
        raise ConfigError(f"targets at places need one set of tiles beside region embeddings; {len(tiles)} are given.")
    return tiles[0]


def load_place_data(
    sets: Sequence[EmbeddingSet],
    path: Path,
    targets: Sequence[str],
    *,
    group: str | None,
    seed: int,
    tell: OnEvent,
) -> PlaceData:
    """Read a file of places, and of the sets what they know of them; what is left out is told.

    Args:
        sets: see `read_place_data`.
        path: see `parfocal.regions.read_places`.
        targets: names of columns; `all` stands for every one.
        group: see `read_place_data`.
        seed: see `read_place_data`.
        tell: told every note.

    Raises:
        ConfigError: the file cannot be read, or see `read_place_data`.
    """
    wanted = None if tuple(targets) == ("all",) else list(dict.fromkeys([*targets, *([group] if group else [])]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every note is told below
        data = read_place_data(sets, read_places(path, wanted), group=group, seed=seed)
    for note in data.notes:
        tell(Notice(note, is_warning=True))
    return data


def read_place_data(
    sets: Sequence[EmbeddingSet],
    places: Places,
    *,
    group: str | None = None,
    seed: int = 0,
) -> PlaceData:
    """Find the region of every place, and of it the vectors.

    A place takes the region whose middle is nearest among those that hold it, and of every magnification the tile that
    is nearest to it: in a set that was embedded at places, the one that has the place in its middle.

    Args:
        sets: one of tiles, and what region encoders made of its regions.
        places: with the targets.
        group: the target that says which places stay together in a fold, such as the patient; None takes the slide.
        seed: of the places that are put in the place of others, and of noise.

    Raises:
        ConfigError: there is not one set of tiles, no place has a region, or a target is the same everywhere.
    """
    tiles = tiles_among(sets)
    slides, notes = _slides_of(sets, places)
    left_out = LeftOut()
    parts: list[_Part] = []
    for slide in slides:
        with left_out.reading(slide):
            parts.append(_read_slide(sets, places, slide))
    left_out.refuse_none_left(slides, places.path.name)
    number = np.concatenate([part.number for part in parts])
    offset = np.concatenate([part.offset_um for part in parts])
    lost = sum(len(places.of(part.slide)) for part in parts) - len(number)
    if lost:
        notes.append(f"{lost} places have no region, or not a tile of every magnification, and are left out.")
    if not len(number):
        raise ConfigError(f"no place of {places.path} lies in a region. Embed with --places, or see --min-tissue.")
    blocks = {name: np.concatenate([part.blocks[name] for part in parts]) for name in parts[0].blocks}
    of_slide = np.concatenate([[part.slide] * len(part.number) for part in parts])
    blocks |= _controls(blocks, tiles.mpps, _numbers(of_slide), np.random.default_rng([seed, 11]))
    columns = {name: values[number] for name, values in places.targets.items()}
    owner = owners(columns, group, of_slide, places)
    names, sources, target, is_class = place_outcome(columns)
    varies = np.ptp(np.where(np.isnan(target), np.nanmin(target, axis=0), target), axis=0) > 0
    if not varies.all():
        same = [name for name, differs in zip(names, varies, strict=True) if not differs]
        notes.append(f"{len(same)} targets are the same at every place and are left out: {some_of(same)}.")
    if not varies.any():
        raise ConfigError(f"every target of {places.path} is the same at every place; nothing can be told apart.")
    known = np.isfinite(target).all(axis=1) & (owner != "")
    if not known.all():
        notes.append(f"{int((~known).sum())} places lack a target or their group and are left out.")
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=2)
    whole = PlaceData(
        tuple(of_slide[known].tolist()),
        tuple(owner[known].tolist()),
        np.concatenate([part.xy_um for part in parts])[known],
        offset[known],
        {name: rows[known] for name, rows in blocks.items()},
        names,
        sources,
        target[known],
        is_class,
        (*notes, *left_out.notes(), *offset_notes(offset[known])),
    )
    data = whole.with_targets(varies)
    _check(data, places)
    return data


@dataclass(frozen=True, eq=False)
class _Part:
    """One slide's share."""

    slide: str
    number: Int64[np.ndarray, " place"]
    xy_um: Float64[np.ndarray, "place 2"]
    offset_um: Float64[np.ndarray, " place"]
    blocks: Mapping[str, Float32[np.ndarray, "place _dim"]]

    def at(self, kept: Bool[np.ndarray, " place"]) -> "_Part":
        blocks = {name: rows[kept] for name, rows in self.blocks.items()}
        return replace(
            self, number=self.number[kept], xy_um=self.xy_um[kept], offset_um=self.offset_um[kept], blocks=blocks
        )


def _slides_of(sets: Sequence[EmbeddingSet], places: Places) -> tuple[list[str], list[str]]:
    """The slides of all sets that have a place, and what is left out."""
    common = set.intersection(*(set(one.slides) for one in sets))
    places.check_names(sorted(common))
    slides = [slide for slide in sorted(common) if len(places.of(slide))]
    if not slides:
        raise ConfigError(
            f"no slide of {places.path} is in the sets: it names {some_of(dict.fromkeys(places.slide))}, and they hold "
            f"{some_of(sorted(common))}."
        )
    without = sorted(set(places.slide) - set(slides) - {slide.rsplit("/", 1)[-1] for slide in slides})
    if not without:
        return slides, []
    return slides, [f"{len(without)} slides of {places.path.name} are not in all sets: {some_of(without)}."]


def _read_slide(sets: Sequence[EmbeddingSet], places: Places, slide: str) -> _Part:
    number = places.of(slide)
    tiles = tiles_among(sets)
    tokens = tiles.read(slide)
    made = [(all_model_blocks(one, tiles), read_made(one, slide)) for one in sets if not is_tiles(one)]
    xy_um = places.xy_um(number, tokens.slide_mpp)
    rows = rows_at(tokens, tiles.tile_um_of(tokens), made, xy_um)
    return _Part(slide, number, xy_um, rows.offset_um, rows.blocks).at(rows.there)


def _controls(
    blocks: Mapping[str, Float32[np.ndarray, "place _dim"]],
    mpps: Sequence[float],
    slide: Int64[np.ndarray, " place"],
    rng: np.random.Generator,
) -> dict[str, Float32[np.ndarray, "place _dim"]]:
    """Coarse tiles of other places of the same slide, and noise of the same width."""
    other = np.arange(len(slide))
    for number in np.unique(slide):
        shuffled = rng.permutation(np.flatnonzero(slide == number))
        other[shuffled] = np.roll(shuffled, 1)  # one cycle: no place keeps its own
    result = {}
    for mpp in mpps[:-1]:
        rows = blocks[format_mpp(mpp)]
        result[elsewhere(mpp)] = rows[other]
        result[noise(mpp)] = rng.standard_normal(rows.shape).astype(np.float32)
    return result


def owners(columns: dict[str, np.ndarray], group: str | None, of_slide: np.ndarray, places: Places) -> np.ndarray:
    """Which places stay together, by the column `group`, which is taken out of the targets, or by their slides.

    Raises:
        ConfigError: there is no such column, or no target beside it.
    """
    if group is None:
        return of_slide
    if group not in columns:
        raise ConfigError(f"{places.path} has no {group!r} to group by; it has {some_of(columns)}.")
    if len(columns) == 1:
        raise ConfigError(f"{group!r} says which places stay together, and no other target is named. Name one.")
    return columns.pop(group).astype(str)


def place_outcome(
    columns: Mapping[str, np.ndarray],
) -> tuple[tuple[str, ...], tuple[str, ...], Float64[np.ndarray, "place target"], Bool[np.ndarray, " target"]]:
    """Numbers as they are, and classes as one target for each class (of two, for the later one), with their columns."""
    found: list[tuple[str, str, np.ndarray, bool]] = []
    for column, cells in columns.items():
        if as_numbers(cells) is not None:
            found.append((column, column, target_values(cells, None), False))
            continue
        classes = sorted(set(cells.astype(str).tolist()) - {""})
        for one in classes if len(classes) > 2 else classes[1:]:
            found.append((f"{column}={one}", column, target_values(cells, one), True))
    if not found:
        raise ConfigError(f"no target is left to predict; {some_of(columns)} hold one class or nothing.")
    names, sources, values, is_class = zip(*found, strict=True)
    return names, sources, np.stack(values, axis=1), np.array(is_class)


def target_values(cells: np.ndarray, class_name: str | None) -> Float64[np.ndarray, " place"]:
    """The values of a target by its column: numbers, or 1 where a class is there and 0 where another; NaN is missing.

    Cells that are no numbers where numbers are asked for are missing too.
    """
    if class_name is not None:
        texts = cells.astype(str)
        return np.where(texts == "", np.nan, (texts == class_name).astype(np.float64))
    numbers = as_numbers(cells)
    return np.full(len(cells), np.nan) if numbers is None else numbers


def as_numbers(cells: np.ndarray) -> Float64[np.ndarray, " place"] | None:
    """The cells as numbers, empty ones as NaN; None where one is neither."""
    if cells.dtype.kind in "fiu":
        return np.asarray(cells, np.float64)
    try:
        return np.array([float(cell) if str(cell) else np.nan for cell in cells], np.float64)
    except ValueError:
        return None


def _check(data: PlaceData, places: Places) -> None:
    if len(set(data.groups)) < 2:
        raise ConfigError(
            f"all places of {places.path} are of one group ({some_of(data.groups[:1])}); nothing can be held out. "
            "Give places of several slides, or name another --group COLUMN."
        )
    refuse_torn_slides(data)


def refuse_torn_slides(data: PlaceData) -> None:
    """Raise where the places of a slide are of several groups.

    Raises:
        ConfigError: they are.
    """
    torn = sorted({slide for slide, _ in {*zip(data.slides, data.groups, strict=True)} - {*data.unit_of_slide.items()}})
    if torn:
        raise ConfigError(f"the places of {some_of(torn)} are of several groups; a slide belongs to one.")


def offset_notes(offset_um: Float64[np.ndarray, " place"]) -> list[str]:
    """One sentence that says how far places lie from the middle of their regions; none where they lie in it."""
    if offset_um.max(initial=0.0) <= 2 * STEP_UM:
        return []
    return [
        f"Places lie {np.median(offset_um):.0f} um (median; at most {offset_um.max():.0f}) from the middle of their "
        "regions. Embedded with --places, every magnification has the place in its middle."
    ]


def _numbers(names: Sequence[str] | np.ndarray) -> Int64[np.ndarray, " place"]:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64).reshape(-1)
