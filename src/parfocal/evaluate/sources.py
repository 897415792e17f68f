"""The sets that an evaluation reads: which slides all of them hold, what a tile costs, and whether a test set fits."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from parfocal.bags import mpps_behind
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning
from parfocal.evaluate.arm import Arm
from parfocal.evaluate.arms import set_label
from parfocal.geometry import format_mpp
from parfocal.store import EmbeddingSet, LeftOut, open_sets
from parfocal.table import some_of


def open_all(inputs: Sequence[Path | EmbeddingSet] | Path | EmbeddingSet) -> list[EmbeddingSet]:
    """All sets of the inputs, each once; a set that is given itself stays as it is, with the slides that it names.

    Raises:
        ConfigError: there is none, or two could not be told apart.
        StoreError: one cannot be read.
    """
    several = [inputs] if isinstance(inputs, (str, Path, EmbeddingSet)) else inputs
    found = {one.path.resolve(): one for given in several for one in _sets_of(given)}
    sets = list(found.values())
    labels = [set_label(one) for one in sets]
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise ConfigError(f"two of the sets are called {doubled[0]!r}; their arms could not be told apart. Name one.")
    if not sets:
        raise ConfigError("there is nothing to evaluate: name at least one store or set.")
    return sets


def matching_sets(sets: Sequence[EmbeddingSet], inputs: Sequence[Path | EmbeddingSet]) -> list[EmbeddingSet]:
    """For each set of the training cohort, that of the test cohort that was made in the same way.

    Raises:
        MismatchError: there is none, or it has other tile encoders, magnifications, regions, source of coarse tiles or
            threshold of tissue, or was made by another region encoder.
        ConfigError: two sets of the test cohort could not be told apart.
        StoreError: one cannot be read.
    """
    theirs = open_all(inputs)
    result = []
    for one in sets:
        same_readout = [other for other in theirs if _role(other) == _role(one)]
        if not same_readout:
            raise MismatchError(
                f"the test cohort has no set like {set_label(one)}; it has {', '.join(map(set_label, theirs))}. "
                "Make it in the same way, or evaluate without that set."
            )
        fitting = [other for other in same_readout if _made_alike(one, other) is None]
        if not fitting:
            other = same_readout[0]
            raise MismatchError(f"{other.name} of the test cohort cannot be used: {_made_alike(one, other)}.")
        if len(fitting) > 1:
            raise ConfigError(
                f"the test cohort has {len(fitting)} sets like {set_label(one)}: "
                f"{', '.join(other.name for other in fitting)}. Name one."
            )
        result.append(fitting[0])
    return result


def common_slides(sets: Sequence[EmbeddingSet]) -> tuple[list[str], list[str]]:
    """Slides that have a vector in every bag of every set, and what had to be left out, each said as a warning too."""
    notes = []
    common = set.intersection(*(set(one.slides) for one in sets))
    partial = set.union(*(set(one.slides) for one in sets)) - common
    if partial:
        notes.append(f"{len(partial)} slides are not in all sets and are left out: {', '.join(sorted(partial)[:3])}.")
    left_out, empty = LeftOut(), []
    for slide in sorted(common):
        with left_out.reading(slide):
            if any(_is_empty(one, slide) for one in sets):
                empty.append(slide)
    left_out.refuse_none_left(common, named(sets))
    if empty:
        notes.append(f"{len(empty)} slides have no vector in one of the bags and are left out: {', '.join(empty[:3])}.")
    there = sorted(set(left_out.keep(common)) - set(empty))
    notes += [note for one in sets for note in _parts(one, there)]
    for note in notes:
        warnings.warn(note, ParfocalWarning, stacklevel=3)
    return there, [*notes, *left_out.notes(stacklevel=3)]


def _parts(one: EmbeddingSet, slides: Sequence[str]) -> list[str]:
    """What has to be known of slides that were read in part."""
    how = {slide: reading for slide in slides if (reading := one.reading(slide)) is not None}
    if not how:
        return []
    ways = some_of(sorted({f"{reading.policy} {reading.shares}" for reading in how.values()}))
    mpps = [min(one.mpps)]
    if one.kind == "tiles":
        unread = [one.n_unread(slide) for slide in how]
        mpps = [mpp for mpp in one.mpps if any(counts[mpp] for counts in unread)] or mpps
    names = " and ".join(map(format_mpp, mpps))
    rest = "" if len(how) == len(slides) else f", and {len(slides) - len(how)} whole"
    return [
        f"{len(how)} slides of {one.name} were read in part at {names} mpp ({ways}){rest}: what is said of that is "
        "said of the tiles that were read."
    ]


def encodings_per_slide(sets: Sequence[EmbeddingSet], arms: Sequence[Arm], slides: Sequence[str]) -> list[float | None]:
    """For each arm the mean number of tiles that must be embedded for it; None where no set of tiles tells.

    Of tile embeddings that is the magnifications it reads; a region encoder reads all that it was given.
    """
    return [None if one is None else float(sum(one.values())) for one in tiles_per_slide(sets, arms, slides)]


def tiles_per_slide(
    sets: Sequence[EmbeddingSet], arms: Sequence[Arm], slides: Sequence[str]
) -> list[dict[float, float] | None]:
    """What `encodings_per_slide` counts, by magnification; of several sets all tiles of one together."""
    counts: dict[int, dict[float, float]] = {}
    for number, one in enumerate(sets):
        tiles = one if one.kind == "tiles" else next((other for other in sets if _holds_tiles_of(other, one)), None)
        if tiles is not None:
            per_slide = [tiles.n_rows(slide) for slide in slides]
            counts[number] = {mpp: sum(each[mpp] for each in per_slide) / len(slides) for mpp in one.mpps}
    result: list[dict[float, float] | None] = []
    for arm in arms:
        numbers = sorted({number for number, _ in arm.bags})
        if not all(number in counts for number in numbers):
            result.append(None)
            continue
        total: dict[float, float] = {}
        for number in numbers:
            names = {name for of_set, name in arm.bags if of_set == number}
            for mpp in _embedded_for(sets[number], names):
                total[mpp] = total.get(mpp, 0.0) + counts[number][mpp]
        result.append(total)
    return result


def named(sets: Sequence[EmbeddingSet]) -> str:
    """How to call the sets in a message."""
    return sets[0].name if len(sets) == 1 else f"all {len(sets)} sets"


def _sets_of(given: Path | EmbeddingSet) -> Sequence[EmbeddingSet]:
    return [given] if isinstance(given, EmbeddingSet) else open_sets(given)


def _holds_tiles_of(other: EmbeddingSet, regions: EmbeddingSet) -> bool:
    return other.kind == "tiles" and set(regions.mpps) <= set(other.mpps) and set(regions.slides) <= set(other.slides)


def _embedded_for(one: EmbeddingSet, names: set[str]) -> list[float]:
    """The magnifications that must be embedded to have some bags of a set."""
    needed = set(one.mpps) if "model" in one.settings else {mpp for name in names for mpp in mpps_behind(one, name)}
    return [mpp for mpp in one.mpps if mpp in needed]


def _role(one: EmbeddingSet) -> tuple[object, ...]:
    """What a set is for: tiles, or a readout of a model; of which magnifications is asked by `_made_alike`."""
    settings = one.settings
    if "model" not in settings:
        return (one.kind,)
    return one.kind, str(settings["model"]), str(settings["readout"]), settings.get("predict_mpp")


def _sides(one: EmbeddingSet) -> list[float]:
    """The sides of its tiles, in micrometres; nothing of a set of regions."""
    return list(one.tile_um.values()) if one.kind == "tiles" else []


def _made_alike(one: EmbeddingSet, other: EmbeddingSet) -> str | None:
    """What a set of the test cohort has otherwise than that of the training cohort; None when nothing."""
    if one.mpps != other.mpps:
        expected = ", ".join(map(format_mpp, one.mpps))
        return f"it has magnifications {', '.join(map(format_mpp, other.mpps))} mpp, the training cohort {expected}"
    if one.encoder_digests != other.encoder_digests:
        return f"its tile encoder is {other.encoder_digest}, that of the training cohort {one.encoder_digest}"
    if one.region_um != other.region_um or _sides(one) != _sides(other):
        return f"its regions have {other.region_um:g} um, those of the training cohort {one.region_um:g} um"
    if one.step_um != other.step_um:
        return f"it has a region every {other.step_um:g} um, the training cohort every {one.step_um:g} um"
    for what, ours, theirs in (
        ("its coarse tiles are", one.settings.get("coarse"), other.settings.get("coarse")),
        ("its tiles have at least a share of tissue of", _min_tissue(one), _min_tissue(other)),
    ):
        if ours != theirs:
            return f"{what} {theirs}, those of the training cohort {ours}"
    if one.settings.get("model_digest") != other.settings.get("model_digest"):
        return f"another model of the name {one.settings.get('model')!r} has made it"
    return None


def _min_tissue(one: EmbeddingSet) -> float | None:
    """From which share of tissue on a tile is kept; None where it is not known, as of another tool's features."""
    value = one.settings.get("grid", {}).get("min_tissue")
    return None if value is None else float(value)


def _is_empty(one: EmbeddingSet, slide: str) -> bool:
    if one.kind == "regions":
        return one.n_regions(slide) == 0
    return min(one.n_tiles(slide).values()) == 0
