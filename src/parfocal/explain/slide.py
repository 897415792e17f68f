"""One slide explained: the head is asked with every set of its magnifications."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from parfocal.bags import Bag, Filler, bag_of_slide, empty_bag, read_bags
from parfocal.cohort import Outcome
from parfocal.errors import ConfigError, StoreError
from parfocal.explain.asked import Ask, Said, ShownSlide, way_to_ask
from parfocal.explain.result import RegionParts, SlideExplanation, SlideParts, TileParts
from parfocal.explain.shapley import coalitions, interactions, own_parts, shapley_values
from parfocal.geometry import format_mpp
from parfocal.heads import FittedProbe
from parfocal.predict import Head
from parfocal.predict.head import TILES, SourceBag
from parfocal.predict.parts import filler_of_head
from parfocal.predict.predict import read_in_part_at, refuse_nothing_to_pool
from parfocal.store import EmbeddingSet, SlideTokens

_EVERYTHING = 1 << 62  # attention sees all instances of a slide
_READOUTS = ("cls", "tokens")


@dataclass(frozen=True, eq=False)
class Branch:
    """One probe of a head.

    Attributes:
        probe: fitted.
        bags: what it pools, by source and name.
        players: the places of its bags among the head's magnifications; None of one that all of them make.
        ask: how it is asked.
    """

    probe: FittedProbe
    bags: tuple[SourceBag, ...]
    players: tuple[int | None, ...]
    ask: Callable[[ShownSlide], Ask]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its bags."""
        return tuple(name for _, name in self.bags)

    @property
    def of_tiles(self) -> bool:
        """Whether it pools tile embeddings alone, which are the same whatever other magnifications there are."""
        return all(source == TILES for source, _ in self.bags)


@dataclass(frozen=True, eq=False)
class PartRead:
    """How a slide was read in part.

    Attributes:
        budget: share of its finest tiles.
        share: of each region's tiles, of the magnifications of which a part was read; the others were read whole.
        filler: what fills the places of unread tiles; they are absent where None.
        unread: the regions and the places of these tiles.
    """

    budget: float
    share: Mapping[float, Float64[np.ndarray, " region"]]
    filler: Filler | None
    unread: tuple[Int32[np.ndarray, " tile"], Float32[np.ndarray, "tile 2"]]

    def seen(self, tokens: SlideTokens, there: frozenset[int]) -> SlideTokens:
        """The slide as a head sees it with some of its magnifications: what is filled in is expected of these alone."""
        finest = len(tokens.mpps) - 1
        if self.filler is None or finest not in there:
            return tokens
        absent = {mpp for place, mpp in enumerate(tokens.mpps) if place not in there}

        def left(of_mpps: Mapping[float, np.ndarray]) -> dict[float, np.ndarray]:
            return {mpp: rows[:0] if mpp in absent else rows for mpp, rows in of_mpps.items()}

        less = replace(
            tokens,
            features=left(tokens.features),
            region=left(tokens.region),
            center_um=left(tokens.center_um),
            tissue=left(tokens.tissue),
        )
        return self.filler.fill(less, *self.unread)


@dataclass(frozen=True, eq=False)
class Sources:
    """What slides are read from.

    Attributes:
        tiles: the set of tile embeddings that fits the head.
        made: what its region encoder made of every set of magnifications but none, by readout; nothing where it has
            none.
        filler: what fills the places of tiles that were not read, of a head that was fitted so; where None it is
            loaded for each slide that needs it.
    """

    tiles: EmbeddingSet
    made: Mapping[frozenset[int], Mapping[str, EmbeddingSet]] = field(default_factory=dict)
    filler: Filler | None = None

    def part_read(self, head: Head, slide: str) -> PartRead | None:
        """How a slide was read in part; None where it was read whole."""
        parts, reading = read_in_part_at(self.tiles, slide), self.tiles.reading(slide)
        if reading is None or not parts:
            return None
        filler = self.filler or filler_of_head(head, self.tiles, device="cpu")
        absent = parts - ({min(self.tiles.mpps)} if filler else set())
        share = {mpp: self.tiles.share_read(slide, mpp) for mpp in absent}
        return PartRead(reading.budget, share, filler, self.tiles.unread_tiles(slide))

    def shown(
        self, branch: Branch, tokens: SlideTokens, there: frozenset[int], part: PartRead | None = None
    ) -> ShownSlide:
        """A slide as a probe takes it with some of its magnifications, which are at least one."""
        bags, region, of_region = dict[int, Bag](), dict[int, np.ndarray](), dict[int, np.ndarray]()
        share = dict[int, np.ndarray]()
        seen = tokens if part is None else part.seen(tokens, there)
        for number, (place, (source, name)) in enumerate(zip(branch.players, branch.bags, strict=True)):
            if place is not None and place not in there:
                continue
            if source == TILES:
                assert place is not None  # bags of tiles are those of one magnification
                mpp = seen.mpps[place]
                if part is not None and mpp in part.share:
                    share[number] = part.share[mpp]
                elif not len(seen.region[mpp]):
                    continue  # there is nothing to expect its tiles from
                bags[number], region[number] = _bag_of(seen, mpp), seen.region[mpp]
                of_region[number] = np.arange(seen.n_regions)
                continue
            made = self.made[there][source]
            (bags[number],) = read_bags(made, [tokens.slide], names=[name], most_instances=_EVERYTHING)
            places = made.region_xy_um(tokens.slide)
            of_region[number] = _numbers_of(places, tokens.region_xy_um)
            rows = np.arange(len(places)) if place is None else made.read(tokens.slide).region[tokens.mpps[place]]
            region[number] = of_region[number][rows]
        return ShownSlide(bags, region, of_region, tokens.n_regions, share)


def _bag_of(tokens: SlideTokens, mpp: float) -> Bag:
    """The bag of one magnification, of which nothing may have been read."""
    if len(tokens.region[mpp]):
        return bag_of_slide(tokens, mpp)
    nothing = np.zeros(tokens.features[mpp].shape[1], dtype=np.float32)
    return empty_bag(tokens.slide, mpp, tokens.n_regions, nothing)


def _numbers_of(
    xy_um: Float64[np.ndarray, "kept 2"], among: Float64[np.ndarray, "region 2"]
) -> Int64[np.ndarray, " kept"]:
    """Which of a slide's regions some regions are, by where they lie."""
    number = {place: at for at, place in enumerate(map(tuple, among.tolist()))}
    return np.array([number[place] for place in map(tuple, xy_um.tolist())], dtype=np.int64)


def branches_of(head: Head, *, in_part: bool = False) -> tuple[Branch, ...]:
    """The probes of a head that can be explained.

    Args:
        head: what is asked.
        in_part: whether about slides that were read in part, for which it may have others.

    Raises:
        ConfigError: it pools what a region encoder made and cannot make without a magnification, or vectors of several
            magnifications, or it cannot be asked with one of them missing.
    """
    names = [format_mpp(mpp) for mpp in head.facts.tiles.mpps]
    found = []
    for probe, facts in zip(head.probes_of(in_part=in_part), head.facts.branches, strict=True):
        others = [source for source, _ in facts.bags if source not in (TILES, *_READOUTS)]
        if others:
            raise ConfigError(
                f"the head {head.path} pools the readout {others[0]} of a region encoder, which has a part for each "
                "magnification or predicts tiles, so nothing says what it is without one of them. Explain a head of "
                "the readout cls or tokens, or of tile embeddings."
            )
        derived = [name for _, name in facts.bags if name not in (*names, "region")]
        if derived:
            raise ConfigError(
                f"the head {head.path} pools {derived[0]!r}, which are not the tiles of one magnification. Explain a "
                "head of the arm contrast or union, or of one magnification."
            )
        players = tuple(names.index(name) if name in names else None for _, name in facts.bags)
        names_of = tuple(name for _, name in facts.bags)
        ask = way_to_ask(probe, names_of, str(head.path), knows_absent=head.knows_absent)
        found.append(Branch(probe, facts.bags, players, ask))
    return tuple(found)


def score_names(head: Head) -> tuple[str, ...]:
    """The names of a head's scores: a class, `above` a class, or the target."""
    nothing = np.zeros(0)
    outcome = Outcome(head.facts.target, head.facts.kind, head.facts.classes, nothing, nothing.astype(bool))
    return tuple(one.name for one in outcome.columns)


def explain_slide(head: Head, sources: Sources, slide: str) -> SlideExplanation:
    """What each magnification, region and tile of a slide adds to the head's scores before calibration.

    Args:
        head: what is asked.
        sources: as `sources_of` finds them.
        slide: id.

    Raises:
        ConfigError: the head cannot be explained.
        SlideError: the slide has no tile of a magnification.
        StoreError: it is not in the set, its files are damaged, or what the head says of it is not finite.
    """
    refuse_nothing_to_pool(head, sources.tiles, slide)
    branches = branches_of(head, in_part=bool(read_in_part_at(sources.tiles, slide)))
    return explain_tokens(head, branches, sources, sources.tiles.read(slide))


def explain_tokens(head: Head, branches: Sequence[Branch], sources: Sources, tokens: SlideTokens) -> SlideExplanation:
    """The explanation of a slide that has been read; see `explain_slide`.

    Args:
        head: what is asked.
        branches: of it, for slides that were read as this one was.
        sources: what it was read from.
        tokens: its tiles.
    """
    part = sources.part_read(head, tokens.slide)
    of_branches = [_said(one, sources, tokens, part) for one in branches]
    every = list(zip(*of_branches, strict=True))
    worth = np.stack([_mean([said.total for said in saids]) for saids in every])
    if not np.isfinite(worth).all():
        raise StoreError(
            f"what the head {head.path} says of {tokens.slide} is not finite: its embeddings are too far from those "
            "that the head was fitted on. Look at how it was embedded."
        )
    values, pairs = shapley_values(worth), interactions(worth)
    score = worth[-1]
    parts = SlideParts(
        tokens.slide, worth[0], score, values, own_parts(values, pairs), pairs, _prediction(head, score[None], part)
    )
    by_region = [_mean_of_regions(saids) for saids in every]
    known = [one for one in by_region if one is not None]
    regions = None
    if len(known) == len(every):
        of_regions = np.stack(known)
        regions = RegionParts(of_regions[-1], shapley_values(of_regions), interactions(of_regions))
    seen = tokens if part is None else part.seen(tokens, frozenset(range(len(tokens.mpps))))
    return SlideExplanation(
        parts,
        tokens.region_xy_um,
        tokens.region_um,
        tokens.slide_mpp,
        regions,
        _tiles(sources.tiles, seen, branches, every[-1]),
    )


def _said(branch: Branch, sources: Sources, tokens: SlideTokens, part: PartRead | None) -> list[Said]:
    """What a probe says with every set of the magnifications."""
    every = coalitions(len(tokens.mpps))
    whole = sources.shown(branch, tokens, every[-1], part)
    ask = cache(branch.ask(whole))  # many sets are one where it pools few of them
    if branch.of_tiles and (part is None or part.filler is None):
        return [ask(frozenset(n for n, player in enumerate(branch.players) if player in there)) for there in every]
    # The model makes something else of every set.
    found = [ask(frozenset())]
    for there in every[1:-1]:
        shown = sources.shown(branch, tokens, there, part)
        found.append(branch.ask(shown)(frozenset(shown.bags)) if shown.bags else found[0])
    return [*found, ask(frozenset(whole.bags))]


def _mean(several: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(several, axis=0))


def _mean_of_regions(saids: Sequence[Said]) -> Float64[np.ndarray, "region column"] | None:
    known = [said.of_regions for said in saids if said.of_regions is not None]
    return _mean(known) if len(known) == len(saids) else None


def _tiles(
    tiles: EmbeddingSet, tokens: SlideTokens, branches: Sequence[Branch], saids: Sequence[Said]
) -> dict[float, TileParts]:
    found = dict[float, TileParts]()
    sides_um = tiles.tile_um_of(tokens)
    for place, mpp in enumerate(tokens.mpps):
        added = [
            said.of_tiles[number]
            for branch, said in zip(branches, saids, strict=True)
            for number, player in enumerate(branch.players)
            if player == place and number in said.of_tiles
        ]
        if added:
            middle = tokens.region_xy_um[tokens.region[mpp]] + tokens.region_um / 2 + tokens.center_um[mpp]
            found[mpp] = TileParts(
                middle - sides_um[mpp] / 2, sides_um[mpp], np.asarray(np.sum(added, axis=0) / len(branches))
            )
    return found


def _prediction(head: Head, score: Float64[np.ndarray, "one column"], part: PartRead | None) -> dict[str, float]:
    """What a score means, under the names that tables of predictions have."""
    classes, calibration = head.facts.classes, head.calibration_at(None if part is None else part.budget)
    if classes:
        probability = calibration.probability(score)[0].tolist()
        named = dict(zip(classes, probability, strict=True))
        return {
            f"probability_{name}": named[name] for name in (classes[1:] if head.facts.kind == "binary" else classes)
        }
    name = "risk_percentile" if head.facts.kind == "survival" else head.facts.target
    return {name: float(calibration.value(score)[0])}
