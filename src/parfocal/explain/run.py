"""From a store and a head to the explanations of its slides, their tables and a page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.errors import ConfigError
from parfocal.explain.directions import Direction, EndRegion, all_ends, along_directions, furthest
from parfocal.explain.files import write_explanations, write_slide
from parfocal.explain.page import explain_page, map_figures, sentences
from parfocal.explain.result import ExplainSummary, PartOfScore, SlideParts
from parfocal.explain.settings import ExplainSettings
from parfocal.explain.shapley import coalitions, pairs_of_players
from parfocal.explain.slide import Branch, Sources, branches_of, explain_tokens, read_whole, score_names
from parfocal.files import digest8, writable_folder
from parfocal.geometry import format_mpp
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.predict import Head, PredictSettings, load_head
from parfocal.predict.given import represented_slides
from parfocal.predict.source import HeadModel, find_tiles
from parfocal.report import make_report
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide
from parfocal.run.jobs import attempt_slide
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, Source
from parfocal.table import some_of

_FEWEST = 10
"""Slides from which on their differences are spoken of; of fewer the means are."""


def explain_slides(
    source: Source,
    head: Path,
    out: Path,
    settings: ExplainSettings | None = None,
    *,
    slides: Sequence[str] = (),
    on_event: OnEvent | None = None,
) -> ExplainSummary:
    """Explain what a head says of the slides of a store, and write tables and a page into a folder.

    The numbers are about the score before calibration. A slide that fails has its reason in the table, and the rest
    goes on.

    Args:
        source: a store of tile embeddings, or a set of it, open or by its folder.
        head: the folder of a head.
        out: the folder; files of an earlier run are written over. What the head's region encoder makes is kept there.
        settings: how much is listed and drawn.
        slides: ids; all of the store where none is named.
        on_event: told how far it is.

    Raises:
        ConfigError: the head cannot be asked without a magnification, or a slide is not in the store.
        MismatchError: the embeddings are of another encoder, other magnifications or other regions than the head's.
        StoreError: the head or the store cannot be read, or `out` cannot be written.
    """
    settings = settings or ExplainSettings()
    tell = on_event or warn_of
    fitted = load_head(head)
    branches, columns = branches_of(fitted), score_names(fitted)
    tiles = find_tiles(source, fitted.facts, head)
    unknown = [slide for slide in slides if slide not in tiles.slides]
    if unknown:
        raise ConfigError(f"{tiles.name} has no slide {some_of(unknown)}. Name slides as `predict` lists them.")
    asked = list(dict.fromkeys(slides)) or list(tiles.slides)
    writable_folder(out)
    sources, failed = sources_of(fitted, replace(tiles, slides=tuple(asked)), out / "embeddings", settings, tell)
    outcomes, ends = list[SlideParts | FailedSlide](), dict[Direction, list[EndRegion]]()
    for number, slide in enumerate(asked):
        tell(Progress("explain", number, len(asked)))
        job = partial(_explain, fitted, branches, columns, sources, slide, out, settings, ends)
        with threadpool_limits(1):
            outcomes.append(failed[slide] if slide in failed else attempt_slide(SlideSource(slide, tiles.path), job))
    tell(Progress("explain", len(asked), len(asked)))
    explained = [one for one in outcomes if isinstance(one, SlideParts)]
    parts = tuple(parts_of_scores(explained, columns, part_names(fitted)))
    summary = ExplainSummary(
        out,
        out / "report.html",
        fitted,
        tiles,
        columns,
        tuple(outcomes),
        parts,
        all_ends(ends),
        sentences(fitted.facts.target, explained, columns, parts),
    )
    described: dict[str, Any] = {**settings.model_dump(mode="json"), "slides": list(slides), "head": fitted.digest}
    inputs = {tiles.name: digest8(tiles.settings), "head": fitted.digest}
    write_explanations(summary, settings=described, inputs=inputs)
    figures = map_figures(fitted, sources, explained, columns, settings.maps)
    make_report(explain_page(summary, figures, settings=described, inputs=inputs), summary.report)
    return summary


def _explain(
    head: Head,
    branches: Sequence[Branch],
    columns: Sequence[str],
    sources: Sources,
    slide: str,
    out: Path,
    settings: ExplainSettings,
    ends: dict[Direction, list[EndRegion]],
) -> SlideParts:
    """One slide: its tables are written, and what lies furthest along the directions is kept."""
    tokens = read_whole(sources.tiles, slide)
    explanation = explain_tokens(head, branches, sources, tokens)
    write_slide(explanation, columns, head.facts.tiles.mpps, out)
    xy_um, side_um = tokens.region_xy_um, tokens.region_um
    for branch in branches if settings.ends else ():
        if not isinstance(branch.probe, FittedContrast):
            continue
        shown = sources.shown(branch, tokens, frozenset(range(len(tokens.mpps))))
        along = along_directions(branch.probe, branch.names, columns, shown, settings.directions)
        for direction, projection in along:
            before = ends.get(direction, [])
            ends[direction] = furthest(before, direction, projection, slide, xy_um, side_um, settings.ends)
    return explanation.parts


def sources_of(
    head: Head, tiles: EmbeddingSet, store: Path, settings: ExplainSettings, tell: OnEvent
) -> tuple[Sources, dict[str, FailedSlide]]:
    """What slides are read from, and those that the head's region encoder could make nothing of.

    Args:
        head: its region encoder, where it has one, is asked with every set of the magnifications.
        tiles: the set that it fits, with the slides that are explained.
        store: where region embeddings are written; what is there is not made again.
        settings: where the region encoder runs.
        tell: told how far that is.

    Raises:
        MismatchError: the region encoder is not the one that the head was fitted with.
    """
    if not head.readouts:
        return Sources(tiles), {}
    assert head.model is not None  # a head with a readout has a model
    assert head.facts.model is not None
    made, failed = dict[frozenset[int], dict[str, EmbeddingSet]](), dict[str, FailedSlide]()
    for there in coalitions(len(tiles.mpps))[1:]:
        mpps = tuple(tiles.mpps[place] for place in sorted(there))
        model = HeadModel(head.model, head.facts.model.model_copy(update={"read_mpps": mpps}))
        how = PredictSettings(device=settings.device)
        made[there], lost = represented_slides(tiles, model, head.readouts, head.path, how, store, tell)
        failed |= lost
    return Sources(tiles, made), failed


def part_names(head: Head) -> tuple[str, ...]:
    """The names of the parts that a score falls into: each magnification alone, then every pair."""
    names = [format_mpp(mpp) for mpp in head.facts.tiles.mpps]
    pairs = (f"{names[a]} with {names[b]} mpp" for a, b in pairs_of_players(len(names)))
    return (*(f"{name} mpp alone" for name in names), *pairs)


def parts_of_scores(
    slides: Sequence[SlideParts], columns: Sequence[str], names: Sequence[str]
) -> Iterator[PartOfScore]:
    """Mean, spread and share of the differences of every part, over slides."""
    if not slides:
        return
    for place, column in enumerate(columns):
        score = np.array([one.score[place] for one in slides])
        rows = np.array([[*one.own[:, place], *one.interaction[:, place]] for one in slides])
        variance = float(score.var())
        # Scores that differ by rounding alone have no differences to share out.
        differ = len(slides) >= _FEWEST and variance > 1e-18 * max(float(np.square(score).mean()), 1e-300)
        for name, values in zip(names, rows.T, strict=True):
            yield PartOfScore(
                column,
                name,
                float(values.mean()),
                float(values.std()) if len(slides) >= _FEWEST else None,
                float(((values - values.mean()) * (score - score.mean())).mean() / variance) if differ else None,
            )
