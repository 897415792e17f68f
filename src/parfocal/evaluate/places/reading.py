"""What is known at each place: vectors of every magnification, of its context, of controls, and the targets."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.spatial import KDTree

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.geometry import format_mpp
from parfocal.regions.places import STEP_UM, Places, read_places
from parfocal.store import EmbeddingSet, LeftOut, SlideTokens
from parfocal.table import some_of

# Stored centres are float32, and a tile that ends where a footprint ends lies in it.
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class PlaceData:
    """Places that every set has a region for; entry i of everything is of place i, those of a slide together.

    Attributes:
        slides: the slide of each place, as the sets call it.
        groups: what stays together in a fold: the slide, or what a column of the places says.
        xy_um: where it lies on its slide.
        offset_um: how far it lies from the middle of its region.
        blocks: vectors by name; see `block_names`.
        names: the targets. A class of several is a target of its own, called `column=class`.
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
    target: Float64[np.ndarray, "place target"]
    is_class: Bool[np.ndarray, " target"]
    notes: tuple[str, ...] = ()

    def with_targets(self, kept: Bool[np.ndarray, " target"]) -> "PlaceData":
        """The same with some of the targets."""
        names = tuple(name for name, is_kept in zip(self.names, kept, strict=True) if is_kept)
        return replace(self, names=names, target=self.target[:, kept], is_class=self.is_class[kept])

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


def around(mpp: float) -> str:
    """The name of the mean of the finest tiles over the footprint of a coarser tile: context without its pixels."""
    return f"finest tiles around, {format_mpp(mpp)}"


def elsewhere(mpp: float) -> str:
    """The name of a coarse tile of another place of the same slide."""
    return f"{format_mpp(mpp)} of another place"


def noise(mpp: float) -> str:
    """The name of random numbers of the width of a magnification."""
    return f"noise for {format_mpp(mpp)}"


def is_tiles(one: EmbeddingSet) -> bool:
    """Whether a set holds the embeddings of tiles themselves, and not what a region encoder made of them."""
    return one.kind == "tiles" and "model" not in one.settings


def model_name(one: EmbeddingSet) -> str:
    """How to call what a region encoder made: the model and what was read out of it."""
    return f"{one.settings.get('model', one.name)}/{one.settings.get('readout', 'region')}"


def model_blocks(one: EmbeddingSet) -> tuple[str, ...]:
    """The names of its blocks: the vector of the region, or the contextual tokens of the tiles at the place."""
    if one.kind == "regions":
        return (model_name(one),)
    return tuple(f"{model_name(one)}, {format_mpp(mpp)}" for mpp in one.mpps)


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
    tiles = [one for one in sets if is_tiles(one)]
    if len(tiles) != 1:
        raise ConfigError(f"targets at places need one set of tiles beside region embeddings; {len(tiles)} are given.")
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
    blocks |= _controls(blocks, tiles[0].mpps, _numbers(of_slide), np.random.default_rng([seed, 11]))
    columns = {name: values[number] for name, values in places.targets.items()}
    owner = of_slide if group is None else columns.pop(group).astype(str)
    names, target, is_class = _outcome(columns)
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
        target[known],
        is_class,
        (*notes, *left_out.notes(), *_offset_notes(offset[known])),
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
    xy_um = np.empty((0, 2))
    offset = np.zeros(len(number))
    blocks: dict[str, np.ndarray] = {}
    kept = np.ones(len(number), dtype=bool)
    for one in sets:
        known = one.read(slide) if one.kind == "tiles" else one.read_regions(slide)
        xy_um = places.xy_um(number, known.slide_mpp)
        middle = known.region_xy_um + known.region_um / 2
        if not len(middle):
            kept[:] = False
            continue
        distance, region = KDTree(middle).query(xy_um, p=np.inf)
        kept &= distance <= known.region_um / 2 + STEP_UM
        if isinstance(known, SlideTokens):
            unit_um = int(one.tile_px or 0) * known.region_um / one.region_um
            rows, there = _blocks_of(known, region, xy_um - middle[region], unit_um)
            kept &= there
            if is_tiles(one):
                offset = np.hypot(*(xy_um - middle[region]).T)
                blocks |= rows
            else:
                blocks |= {name: rows[format_mpp(mpp)] for name, mpp in zip(model_blocks(one), one.mpps, strict=True)}
        else:
            blocks[model_name(one)] = known.features[region].astype(np.float32)
    if not kept.any():
        blocks = {name: rows[:0] for name, rows in blocks.items()}
    return _Part(slide, number, xy_um, offset, blocks).at(kept)


def _blocks_of(
    tokens: SlideTokens, region: Int64[np.ndarray, " place"], offset_um: Float64[np.ndarray, "place 2"], unit_um: float
) -> tuple[dict[str, Float32[np.ndarray, "place _dim"]], Bool[np.ndarray, " place"]]:
    """The tile of every magnification at each place, and means of the finest ones over the coarser footprints."""
    finest = tokens.mpps[-1]
    blocks = {
        format_mpp(mpp): np.zeros((len(region), rows.shape[1]), np.float32) for mpp, rows in tokens.features.items()
    }
    width = tokens.features[finest].shape[1]
    blocks |= {around(mpp): np.zeros((len(region), width), np.float32) for mpp in tokens.mpps[:-1]}
    there = np.ones(len(region), dtype=bool)
    bounds = {mpp: np.searchsorted(own, np.arange(tokens.n_regions + 1)) for mpp, own in tokens.region.items()}
    per_side = round(tokens.region_um / (finest * unit_um))
    for place, number in enumerate(region.tolist()):
        nearest: dict[float, int] = {}
        for mpp in tokens.mpps:
            first, beyond = bounds[mpp][number : number + 2].tolist()
            if first == beyond:
                there[place] = False
                break
            away = np.abs(tokens.center_um[mpp][first:beyond] - offset_um[place]).max(axis=1)
            nearest[mpp] = first + int(away.argmin())
            blocks[format_mpp(mpp)][place] = tokens.features[mpp][nearest[mpp]]
        else:
            own = slice(*bounds[finest][number : number + 2].tolist())
            centers = tokens.center_um[finest][own].astype(np.float64)
            # Tiles of the region's lattice alone: one more in its middle would count what it shows twice.
            column = (centers / tokens.region_um + 0.5) * per_side - 0.5
            on_lattice = (np.abs(column - np.rint(column)) < 0.25).all(axis=1)
            for mpp in tokens.mpps[:-1]:
                reach = (mpp - finest) * unit_um / 2 + _TOLERANCE * finest * unit_um
                inside = (np.abs(centers - tokens.center_um[mpp][nearest[mpp]]) <= reach).all(axis=1) & on_lattice
                picked = own.start + np.flatnonzero(inside) if inside.any() else [nearest[finest]]
                blocks[around(mpp)][place] = tokens.features[finest][picked].mean(axis=0, dtype=np.float64)
    return blocks, there


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


def _outcome(
    columns: Mapping[str, np.ndarray],
) -> tuple[tuple[str, ...], Float64[np.ndarray, "place target"], Bool[np.ndarray, " target"]]:
    """Numbers as they are, and classes as one column for each class (of two, for the later one)."""
    names: list[str] = []
    values: list[np.ndarray] = []
    is_class: list[bool] = []
    for name, cells in columns.items():
        numbers = _as_numbers(cells)
        if numbers is not None:
            names.append(name)
            values.append(numbers)
            is_class.append(False)
            continue
        texts = cells.astype(str)
        classes = sorted(set(texts.tolist()) - {""})
        for one in classes if len(classes) > 2 else classes[1:]:
            names.append(f"{name}={one}")
            values.append(np.where(texts == "", np.nan, (texts == one).astype(np.float64)))
            is_class.append(True)
    if not names:
        raise ConfigError(f"no target is left to predict; {some_of(columns)} hold one class or nothing.")
    return tuple(names), np.stack(values, axis=1), np.array(is_class)


def _as_numbers(cells: np.ndarray) -> Float64[np.ndarray, " place"] | None:
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
    torn = sorted({slide for slide, _ in {*zip(data.slides, data.groups, strict=True)} - {*data.unit_of_slide.items()}})
    if torn:
        raise ConfigError(f"the places of {some_of(torn)} are of several groups; a slide belongs to one.")


def _offset_notes(offset_um: Float64[np.ndarray, " place"]) -> list[str]:
    if offset_um.max(initial=0.0) <= 2 * STEP_UM:
        return []
    return [
        f"Places lie {np.median(offset_um):.0f} um (median; at most {offset_um.max():.0f}) from the middle of their "
        "regions. Embedded with --places, every magnification has the place in its middle."
    ]


def _numbers(names: Sequence[str] | np.ndarray) -> Int64[np.ndarray, " place"]:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64).reshape(-1)


def read_places_of(path: Path, targets: Sequence[str], group: str | None) -> Places:
    """Places with the targets that are named, `all` standing for all, and with the column of the group.

    Raises:
        ConfigError: see `parfocal.regions.read_places`.
    """
    wanted = None if tuple(targets) == ("all",) else list(dict.fromkeys([*targets, *([group] if group else [])]))
    return read_places(path, wanted)
