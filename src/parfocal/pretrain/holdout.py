"""Which regions training never sees: whole slides, whole patients, or tissue fragments where there is one slide only.

Random regions of a slide are never held out: their neighbours share cells, stain and scanner focus with them, and a
score on them says next to nothing. Where regions overlap, those that are held out lie side by side all the same: they
are the ones that are held out without a stride, no tile counts twice, and probes that are fitted on some of them and
scored on others share no tissue. What overlaps or touches one of them is not trained on.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from parfocal.errors import ConfigError
from parfocal.store import EmbeddingSet, LeftOut


@dataclass(frozen=True, eq=False)
class SlidePart:
    """Some regions of a slide, in the slide's order.

    Attributes:
        slide: the slide's id.
        regions: their numbers.
        n_apart: how many of them lie side by side; None where no two overlap.
    """

    slide: str
    regions: Int64[np.ndarray, " region"]
    n_apart: int | None = None


def regions_in_words(parts: Sequence[SlidePart]) -> str:
    """How many regions of how many slides, and how much tissue that is where they overlap."""
    n_regions = sum(len(part.regions) for part in parts)
    n_apart = sum(len(part.regions) if part.n_apart is None else part.n_apart for part in parts)
    tissue = "" if all(part.n_apart is None for part in parts) else f" that overlap, on the tissue of {n_apart},"
    return f"{n_regions} regions{tissue} of {len(parts)} slides"


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on and what is held out, with one sentence about it."""

    training: tuple[SlidePart, ...]
    held_out: tuple[SlidePart, ...]
    sentence: str

    def without(self, left_out: LeftOut) -> "Split":
        """The same split without the slides that cannot be read, which its sentence names.

        Raises:
            StoreError: no training slide, or no held-out one, is left.
        """
        for parts, what in ((self.training, "training slides"), (self.held_out, "held-out slides")):
            left_out.refuse_none_left([part.slide for part in parts], f"the {what}")
        training, held_out = (
            tuple(part for part in parts if part.slide not in left_out.reasons)
            for parts in (self.training, self.held_out)
        )
        note = left_out.note()
        return Split(training, held_out, self.sentence if note is None else f"{self.sentence}; {note.rstrip('.')}")


def split_set(
    tiles: EmbeddingSet,
    *,
    share: float,
    slides: Sequence[str] = (),
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> Split:
    """Hold out the named slides, or a share of the slides, or fragments of the only one.

    With groups, such as patients, all slides of one are held out or none is: slides of a patient share stain, scanner
    and tissue, and a score on one of them says little while another one is trained on.

    Args:
        tiles: a set of tile embeddings.
        share: the share to hold out, of slides (rounded, at least one) or of the only slide's regions.
        slides: the slides to hold out; then `share` is not used.
        seed: which slides or fragments.
        groups: the group of slides, by id; a slide that is not in it stands for itself.

    Raises:
        ConfigError: a named slide is not in the set or leaves others of its group to train on, or nothing is left to
            train on or to hold out.
    """
    unknown = sorted(set(slides) - set(tiles.slides))
    if unknown:
        raise ConfigError(f"cannot hold out {', '.join(unknown)}: {tiles.path} has no such slide, done.")
    counts = {slide: tiles.n_regions(slide) for slide in tiles.slides}
    usable = [slide for slide in tiles.slides if counts[slide] > 0]
    if not usable:
        raise ConfigError(
            f"cannot pretrain on {tiles.path}: none of its {len(counts)} slides has a region with tissue."
        )
    empty = len(counts) - len(usable)
    without = f"; {empty} without tissue" if empty else ""
    rng = np.random.default_rng([seed, 0])
    if len(usable) == 1 and not slides:
        return _split_slide(tiles, usable[0], share, rng)
    of_group = _grouped(usable, groups or {})
    if slides:
        chosen = set(slides)
        _refuse_torn(of_group, chosen)
    elif len(of_group) < len(usable):
        chosen = _whole_groups(of_group, share * len(usable), rng)
    else:
        n_held = min(max(1, round(share * len(usable))), len(usable) - 1)
        chosen = set(rng.choice(np.array(usable, dtype=object), size=n_held, replace=False).tolist())
    held = [slide for slide in usable if slide in chosen]
    kept = [slide for slide in usable if slide not in chosen]
    if not held or not kept:
        raise ConfigError(
            f"cannot pretrain on {tiles.path}: {len(kept)} slides with tissue are left to train on and {len(held)} are "
            "held out; both need at least one. Change the held-out slides."
        )
    where = {slide: tiles.region_xy_um(slide) for slide in held} if _overlaps(tiles) else {}
    scored = {slide: np.arange(counts[slide]) for slide in held}
    scored |= {slide: np.flatnonzero(_lies_side_by_side(xy_um, tiles)) for slide, xy_um in where.items()}
    clause = f", and of their regions the {sum(map(len, scored.values()))} that lie side by side" if where else ""
    return Split(
        tuple(_training(tiles, slide, np.arange(counts[slide])) for slide in kept),
        tuple(SlidePart(slide, regions) for slide, regions in scored.items()),
        f"held out: {len(held)} of {len(usable)} slides{_of_groups(of_group, chosen, len(usable))}{clause}{without}",
    )


def shared_groups(slides: Sequence[str], groups: Mapping[str, str] | None) -> dict[str, str]:
    """The slides that share their group with another one of them; only for these a group decides anything."""
    counts = Counter(groups[slide] for slide in slides if slide in groups) if groups else {}
    return {slide: groups[slide] for slide in slides if groups and counts.get(groups.get(slide, ""), 0) > 1}


def _grouped(slides: Sequence[str], groups: Mapping[str, str]) -> dict[tuple[bool, str], list[str]]:
    """The slides of each group; a slide without one is a group of its own, whatever others are called."""
    found: dict[tuple[bool, str], list[str]] = {}
    for slide in slides:
        found.setdefault((slide in groups, groups.get(slide, slide)), []).append(slide)
    return found


def _whole_groups(of_group: Mapping[tuple[bool, str], list[str]], wanted: float, rng: np.random.Generator) -> set[str]:
    """Groups in random order while they fit; the smallest one where none does.

    Raises:
        ConfigError: there is one group only.
    """
    if len(of_group) < 2:
        (_, name), slides = next(iter(of_group.items()))
        raise ConfigError(
            f"cannot hold out a group: all {len(slides)} slides are of {name!r}. Embed others too, or name no group."
        )
    names = sorted(of_group)
    smallest = min(map(len, of_group.values()))
    most = min(max(round(wanted), 1), sum(map(len, of_group.values())) - smallest)
    held: list[str] = []
    for place in rng.permutation(len(names)):
        own = of_group[names[place]]
        if len(held) + len(own) <= most:
            held += own
    return set(held) or set(next(slides for slides in of_group.values() if len(slides) == smallest))


def _refuse_torn(of_group: Mapping[tuple[bool, str], Sequence[str]], chosen: Collection[str]) -> None:
    for (_, name), slides in of_group.items():
        inside, outside = [one for one in slides if one in chosen], [one for one in slides if one not in chosen]
        if inside and outside:
            raise ConfigError(
                f"cannot hold out {inside[0]} and train on {outside[0]}: both are of {name!r}. Hold out all of it."
            )


def _of_groups(of_group: Mapping[tuple[bool, str], Sequence[str]], chosen: Collection[str], n_slides: int) -> str:
    if len(of_group) == n_slides:
        return ""
    held = sum(not set(slides).isdisjoint(chosen) for slides in of_group.values())
    return f", {held} of {len(of_group)} groups"


def check_hidable(tiles: EmbeddingSet, split: Split) -> None:
    """Raise where no training region has a tile that could be hidden and predicted from another.

    Raises:
        ConfigError: all regions have one tile.
    """
    if all(sum(tiles.n_tiles(part.slide).values()) <= tiles.n_regions(part.slide) for part in split.training):
        raise ConfigError(
            f"cannot pretrain on {tiles.path}: its regions have one tile each, so none can be hidden and predicted "
            "from another. Embed several magnifications (--mpps 2 1 0.5), or larger regions."
        )


def tissue_fragments(region_xy_um: Float64[np.ndarray, "region 2"], region_um: float) -> Int64[np.ndarray, " region"]:
    """The number of the fragment of each region: regions that touch, at a side or a corner, are one fragment.

    Regions need not lie on one lattice: two touch when both their offsets are at most one side (and a thousandth).
    """
    n = len(region_xy_um)
    pairs = cKDTree(region_xy_um).query_pairs(region_um * 1.001, p=np.inf, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    numbers: np.ndarray = connected_components(graph, directed=False)[1]
    return numbers.astype(np.int64)


def _training(tiles: EmbeddingSet, slide: str, regions: Int64[np.ndarray, " region"]) -> SlidePart:
    if not _overlaps(tiles):
        return SlidePart(slide, regions)
    return SlidePart(slide, regions, int(_lies_side_by_side(tiles.region_xy_um(slide)[regions], tiles).sum()))


def _overlaps(tiles: EmbeddingSet) -> bool:
    return tiles.step_um < tiles.region_um


def _lies_side_by_side(xy_um: Float64[np.ndarray, "region 2"], tiles: EmbeddingSet) -> Bool[np.ndarray, " region"]:
    """The regions that there are without a stride too, or those that lie so at another offset where none of these is.

    Tissue at the edge of a slide may be in regions between them alone.
    """
    if not _overlaps(tiles):
        return np.ones(len(xy_um), dtype=bool)
    # Along a side that is shorter than a region there is one place only, before the slide's corner.
    number = np.rint(np.maximum(xy_um, 0) / tiles.step_um).astype(np.int64)
    offset = number % math.ceil(tiles.region_um / tiles.step_um - 1e-6)
    offsets, own, count = np.unique(offset, axis=0, return_inverse=True, return_counts=True)
    chosen = int(count.argmax()) if offsets[0].any() else 0
    return np.asarray(own.reshape(-1) == chosen)


def _split_slide(tiles: EmbeddingSet, slide: str, share: float, rng: np.random.Generator) -> Split:
    every = tiles.region_xy_um(slide)
    # With a stride too, the split is that of the regions side by side.
    apart = np.flatnonzero(_lies_side_by_side(every, tiles))
    xy_um = every[apart]
    n = len(xy_um)
    if n < 4:
        raise ConfigError(
            f"cannot pretrain on {tiles.path}: its only slide, {slide}, has {n} regions; nothing can be held out. "
            "Embed more slides."
        )
    fragment = tissue_fragments(xy_um, tiles.region_um)
    sizes = np.bincount(fragment)
    wanted = max(1.0, share * n)
    # Whole fragments in random order while they fit; where these are crumbs, one larger fragment, up to half of it all.
    held: list[int] = []
    for one in rng.permutation(len(sizes)):
        if sizes[held].sum() + sizes[one] <= wanted:
            held.append(int(one))
    if sizes[held].sum() < 0.5 * wanted:
        larger = [int(one) for one in np.argsort(sizes, kind="stable") if 0.5 * wanted <= sizes[one] <= n / 2]
        held = larger[:1] or held
    is_held = np.isin(fragment, held)
    side_by_side = " side by side" if _overlaps(tiles) else ""
    if is_held.sum() >= 0.5 * wanted:
        sentence = (
            f"held out: {len(held)} of {len(sizes)} tissue fragments of the only slide "
            f"({is_held.sum()} of {n} regions{side_by_side}); one slide says nothing about other slides"
        )
        kept = _touch_none(every, xy_um[is_held], tiles.region_um)
        return Split((_training(tiles, slide, np.flatnonzero(kept)),), (SlidePart(slide, apart[is_held]),), sentence)
    # One fragment holds nearly everything: its end along the longer axis, with a gap so that no two regions touch.
    axis = int(np.argmax(np.ptp(xy_um, axis=0).round(3)))  # rounding decides nothing
    position = xy_um[:, axis]
    # Regions lie in rows: the number of whole rows that comes nearest to what is wanted, one at least.
    rows = np.unique(position)[1:]
    n_beyond = np.array([(position >= row).sum() for row in rows], dtype=np.int64)
    is_held = position >= rows[np.abs(n_beyond - wanted).argmin()] if len(rows) else np.zeros(n, dtype=bool)
    first_held = position[is_held].min(initial=np.inf)
    last_kept = first_held - 1.001 * tiles.region_um
    in_gap = (position > last_kept) & ~is_held
    if not is_held.any() or (is_held | in_gap).all():
        raise ConfigError(
            f"cannot pretrain on {tiles.path}: its only slide, {slide}, has {n} regions that lie too close together to "
            "hold some out. Embed more slides."
        )
    sentence = (
        f"held out: one end of the only slide ({is_held.sum()} of {n} regions{side_by_side}, {in_gap.sum()} more left "
        f"out as a gap), as its {len(sizes)} tissue fragment{'s are' if len(sizes) > 1 else ' is'} too large to hold "
        "out; one slide says nothing about other slides"
    )
    kept = np.flatnonzero(every[:, axis] <= last_kept)
    return Split((_training(tiles, slide, kept),), (SlidePart(slide, apart[is_held]),), sentence)


def _touch_none(
    xy_um: Float64[np.ndarray, "region 2"], others: Float64[np.ndarray, "other 2"], region_um: float
) -> Bool[np.ndarray, " region"]:
    """The regions that neither overlap nor touch one of some others."""
    return np.asarray(cKDTree(others).query(xy_um, p=np.inf)[0] > region_um * 1.001)
