"""From a store, a slide and a place on it to the regions that are alike, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.errors import ConfigError
from parfocal.files import write_csv
from parfocal.run.events import OnEvent
from parfocal.similar.search import RegionSearch, SimilarRegion
from parfocal.store import EmbeddingSet, Source, open_sets, settings_digest
from parfocal.store.choose import the_set


@dataclass(frozen=True, eq=False)
class SimilarSummary:
    """What was found.

    Attributes:
        embeddings: the set that says what regions look like.
        slide: whose region was asked for.
        region: its number.
        n_compared: how many regions were compared with it.
        found: the most similar ones, first the most similar.
    """

    embeddings: EmbeddingSet
    slide: str
    region: int
    n_compared: int
    found: tuple[SimilarRegion, ...]


def find_similar(
    source: Source,
    slide: str,
    at_um: tuple[float, float],
    *,
    n: int = 12,
    other_slides: bool = False,
    set_name: str | None = None,
    out: Path | None = None,
    on_event: OnEvent | None = None,
) -> SimilarSummary:
    """Find the regions of a cohort that are most like the one at a place, by the cosine of their embeddings.

    Region embeddings are taken where the store has them, else the means of each region's tiles at every magnification,
    side by side. Columns are standardised over the cohort. Every region is compared, so the answer is exact.

    Args:
        source: a store, or a set of it, open or by its folder.
        slide: id.
        at_um: x and y of the place in the slide's frame, in micrometres from the top-left corner of level 0.
        n: how many regions.
        other_slides: leave the regions of the same slide out; else those that overlap the region.
        set_name: the set, or the beginning of its name, where the source has several.
        out: a table to write, a CSV.
        on_event: told how many slides are read.

    Raises:
        ConfigError: there is no such slide, no region at the place, or the store has several sets.
        StoreError: no slide can be read.
    """
    if n < 1:
        raise ConfigError(f"n={n}: there is nothing to look for. Ask for at least 1.")
    embeddings = searched_set(open_sets(source), str(source), set_name)
    with RegionSearch(embeddings, on_event=on_event) as search:
        region = search.region_at(slide, *at_um)
        found = tuple(search.nearest(slide, region, n, other_slides=other_slides))
        n_compared = len(search.vectors.rows)
    summary = SimilarSummary(embeddings, slide, region, n_compared, found)
    if out is not None:
        write_csv(out, ("slide", "region", "x_um", "y_um", "side_um", "similarity"), map(_row, found))
    return summary


def _row(one: SimilarRegion) -> list[str]:
    return [
        one.slide,
        str(one.region),
        *(f"{value:.6g}" for value in (one.x_um, one.y_um, one.side_um, one.similarity)),
    ]


def searched_set(sets: Sequence[EmbeddingSet], source: str, name: str | None = None) -> EmbeddingSet:
    """The set that says what regions look like: the one that is named, the only one of regions, or that of tiles.

    Raises:
        ConfigError: there are several, or none of that name.
    """
    return the_set(sets, source, name, kind="regions")


def regions_of(tiles: EmbeddingSet, sets: Sequence[EmbeddingSet]) -> EmbeddingSet | None:
    """Region embeddings that were made of a set of tiles: the readout cls where it is there; None without any."""
    digest = settings_digest(tiles.settings)
    made = [one for one in sets if one.kind == "regions" and one.settings.get("source_digest") == digest]
    made.sort(key=lambda one: (one.settings.get("readout") != "cls", one.name))
    return made[0] if made else None
