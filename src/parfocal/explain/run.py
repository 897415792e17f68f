"""From a store and a head to the explanations of its slides, their tables and a page."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.explain.anndata import need_anndata, write_anndata
from parfocal.explain.directions import Direction, EndRegion, all_ends, along_directions, furthest
from parfocal.explain.files import write_explanations, write_slide, write_slides
from parfocal.explain.folder import EMBEDDINGS, replacing
from parfocal.explain.heatmaps import part_maps, pictures, write_heatmaps
from parfocal.explain.page import explain_page, map_figures, sentences
from parfocal.explain.result import ExplainSummary, PartOfScore, SlideExplanation, SlideParts
from parfocal.explain.settings import ExplainSettings
from parfocal.explain.shapley import coalitions, pairs_of_players
from parfocal.explain.shards import SLIDES, join_shards, mark_shard
from parfocal.explain.slide import Branch, Sources, branches_of, explain_tokens, score_names
from parfocal.explain.slide_page import slide_page
from parfocal.files import digest8, file_of
from parfocal.geometry import format_mpp
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.predict import Head, PredictSettings, load_head
from parfocal.predict.given import represented_slides
from parfocal.predict.parts import filler_of_head
from parfocal.predict.predict import read_in_part_at, refuse_nothing_to_pool, warn_of_doubt
from parfocal.predict.shards import table_of
from parfocal.predict.source import HeadModel, find_tiles
from parfocal.report import make_report
from parfocal.run.events import OnEvent, Progress, warn_of
from parfocal.run.failures import FailedSlide
from parfocal.run.jobs import attempt_slide, own_warnings
from parfocal.slides import SlideSource
from parfocal.store import EmbeddingSet, SlideTokens, Source
from parfocal.table import some_of

REPORT = "report.html"
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
        out: the folder; what an earlier run wrote there is replaced when this one is done, and nothing else is touched.
            What the head's region encoder makes is kept there. A shard replaces what the same shard wrote, and writes
            no page and no table of all slides: `merge_explanations` does when all shards are done.
        settings: how much is listed and drawn, and which shard of the slides is explained.
        slides: ids; all of the store where none is named.
        on_event: told how far it is.

    Raises:
        ConfigError: the head cannot be asked without a magnification, a slide is not in the store, `out` holds
            something else, or AnnData is asked for and not installed.
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
    everyone = list(dict.fromkeys(slides)) or list(tiles.slides)
    asked, part = settings.own(everyone), settings.part
    if settings.anndata:
        need_anndata()
    described: dict[str, Any] = {
        **settings.model_dump(mode="json", exclude={"shard"}),
        "slides": list(slides),
        "head": fitted.digest,
    }
    inputs = {tiles.name: digest8(tiles.settings), "head": fitted.digest}
    outcomes, ends = list[SlideParts | FailedSlide](), dict[Direction, list[EndRegion]]()
    warned = list[str]()
    with replacing(out, part) as fresh:
        store, asked_tiles = out / EMBEDDINGS, replace(tiles, slides=tuple(asked))
        sources, failed = sources_of(fitted, asked_tiles, store, settings, tell) if asked else (Sources(tiles), {})
        run = _Run(fitted, branches, columns, sources, fresh, settings, ends, described, inputs)
        with threadpool_limits(1):
            for number, slide in enumerate(asked):
                tell(Progress("explain", number, len(asked)))
                job = partial(run.explain, slide)
                with own_warnings() as caught:
                    outcomes.append(
                        failed[slide] if slide in failed else attempt_slide(SlideSource(slide, tiles.path), job)
                    )
                warned += [str(one.message) for one in caught[:1]]
        tell(Progress("explain", len(asked), len(asked)))
        summary = ExplainSummary(out, None, fitted, tiles, columns, tuple(outcomes), (), all_ends(ends), ())
        if part is None:
            summary = _write_together(summary, sources, fresh, settings.maps, described, inputs)
        else:
            table = table_of(fresh / SLIDES, part)
            write_slides(summary, table)
            mark_shard(table, part, everyone, outcomes, summary.ends, inputs=inputs, settings=described)
    if warned:
        warnings.warn(f"{len(warned)} slides gave a warning; the first: {warned[0]}", ParfocalWarning, stacklevel=2)
    return summary


def merge_explanations(
    source: Source, head: Path, out: Path, *, device: str = "cpu", on_event: OnEvent | None = None
) -> ExplainSummary:
    """Join what the shards of an explanation have found into the tables and the page of a run without shards.

    What they wrote of each slide stays as it is. What is in `out` of other runs is removed.

    Args:
        source: as each shard was told to.
        head: likewise.
        out: likewise.
        device: where the head's region encoder runs.
        on_event: told how far it is.

    Raises:
        StoreError: there is no shard, one is missing, not finished or damaged, or the store cannot be read.
        MismatchError: shards are of different heads, settings or lists of slides.
    """
    tell, fitted = on_event or warn_of, load_head(head)
    tiles, columns = find_tiles(source, fitted.facts, head), score_names(fitted)
    joined = join_shards(out, fitted.digest)
    settings = ExplainSettings.model_validate(
        {name: joined.settings[name] for name in ExplainSettings.model_fields if name != "shard"} | {"device": device}
    )
    inputs = {tiles.name: digest8(tiles.settings), "head": fitted.digest}
    done = tuple(one.slide for one in joined.slides if isinstance(one, SlideParts))
    with replacing(out, keep=joined.files) as fresh:
        sources, _ = (
            sources_of(fitted, replace(tiles, slides=done), out / EMBEDDINGS, settings, tell)
            if done
            else (Sources(tiles), {})
        )
        summary = ExplainSummary(out, None, fitted, tiles, columns, joined.slides, (), joined.ends, ())
        return _write_together(summary, sources, fresh, settings.maps, joined.settings, inputs)


def _write_together(
    summary: ExplainSummary,
    sources: Sources,
    fresh: Path,
    maps: int,
    described: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> ExplainSummary:
    """Write what is about all slides; the summary with it."""
    explained, columns = summary.explained, summary.columns
    parts = tuple(parts_of_scores(explained, columns, part_names(summary.head)))
    said = sentences(summary.head.facts.target, explained, columns, parts)
    whole = replace(summary, report=summary.out / REPORT, parts=parts, sentences=said)
    write_explanations(whole, fresh, settings=described, inputs=inputs)
    figures = map_figures(summary.head, sources, explained, columns, maps)
    make_report(explain_page(whole, figures, settings=described, inputs=inputs), fresh / REPORT)
    return whole


@dataclass(frozen=True, eq=False)
class _Run:
    """What the slides of a run have in common."""

    head: Head
    branches: Sequence[Branch]
    columns: Sequence[str]
    sources: Sources
    out: Path
    settings: ExplainSettings
    ends: dict[Direction, list[EndRegion]]
    described: Mapping[str, Any]
    inputs: Mapping[str, str]

    def explain(self, slide: str) -> SlideParts:
        """One slide: its files are written, and what lies furthest along the directions is kept."""
        tiles = self.sources.tiles
        refuse_nothing_to_pool(self.head, tiles, slide)
        is_whole, tokens = not read_in_part_at(tiles, slide), tiles.read(slide)
        branches = self.branches if is_whole else branches_of(self.head, in_part=True)
        one = explain_tokens(self.head, branches, self.sources, tokens)
        warn_of_doubt(self.head, tiles, slide)
        write_slide(one, self.columns, self.head.facts.tiles.mpps, self.out)
        self._write_exports(one)
        if self.settings.ends and is_whole:  # regions are centred on their slide's mean, which must be known
            see_ends(self.ends, self.branches, self.columns, self.sources, tokens, self.settings)
        return one.parts

    def _write_exports(self, one: SlideExplanation) -> None:
        slide, tiles = one.parts.slide, self.sources.tiles
        maps = part_maps(one, self.columns, self.head.facts.tiles.mpps)
        if self.settings.pictures:
            drawn = pictures(one, maps, tiles)
            if maps:
                write_heatmaps(one, maps, drawn, tiles, self.out / "heatmaps" / slide)
            parts = list(parts_of_scores([one.parts], self.columns, part_names(self.head)))
            page = slide_page(
                self.head, one.parts, self.columns, parts, maps, drawn, settings=self.described, inputs=self.inputs
            )
            make_report(page, file_of(self.out / "slides", slide, ".html"))
        if maps and not math.isfinite(one.slide_mpp):
            warnings.warn(
                f"{slide} has no file for QuPath{' and no AnnData' if self.settings.anndata else ''}, whose places are "
                "in pixels of level 0: its resolution is not known, as it was indexed from files in micrometres. Index "
                "it again with --slides or --slide-mpp.",
                ParfocalWarning,
                stacklevel=2,
            )
        elif self.settings.anndata and maps:
            described = {**self.described, "inputs": dict(self.inputs)}
            path = file_of(self.out / "anndata", slide, ".h5ad")
            write_anndata(one, maps, self.columns, path, described=described)


def see_ends(
    ends: dict[Direction, list[EndRegion]],
    branches: Sequence[Branch],
    columns: Sequence[str],
    sources: Sources,
    tokens: SlideTokens,
    settings: ExplainSettings,
) -> None:
    """Keep what lies furthest along the directions of contrast probes when one slide more is seen.

    Args:
        ends: of the slides before, and then with this one; directions come in the order of the probes.
        branches: of the head; those of other kinds have no directions.
        columns: the names of the scores.
        sources: what the slide was read from.
        tokens: the slide.
        settings: how many directions and regions.
    """
    xy_um, side_um = tokens.region_xy_um, tokens.region_um
    for branch in branches:
        if not isinstance(branch.probe, FittedContrast):
            continue
        shown = sources.shown(branch, tokens, frozenset(range(len(tokens.mpps))))
        along = along_directions(branch.probe, branch.names, columns, shown, settings.directions)
        for direction, projection in along:
            before = ends.get(direction, [])
            ends[direction] = furthest(before, direction, projection, tokens.slide, xy_um, side_um, settings.ends)


def sources_of(
    head: Head, tiles: EmbeddingSet, store: Path, settings: ExplainSettings, tell: OnEvent
) -> tuple[Sources, dict[str, FailedSlide]]:
    """What slides are read from, and those that the head's region encoder could make nothing of.

    Args:
        head: its region encoder, where it has one, is asked with every set of the magnifications.
        tiles: the set that it fits, with the slides that are explained.
        store: where region embeddings are written; what is there is not made again.
        settings: where the model runs.
        tell: told how far that is.

    Raises:
        MismatchError: the region encoder is not the one that the head was fitted with.
    """
    if not head.readouts:
        needs_filler = head.fills_in and any(read_in_part_at(tiles, slide) for slide in tiles.slides)
        return Sources(tiles, filler=filler_of_head(head, tiles, device=settings.device) if needs_filler else None), {}
    assert head.model is not None  # a head with a readout has a model
    assert head.facts.model is not None
    made, failed = dict[frozenset[int], dict[str, EmbeddingSet]](), dict[str, FailedSlide]()
    for there in coalitions(len(tiles.mpps))[1:]:
        mpps = tuple(tiles.mpps[place] for place in sorted(there))
        model = HeadModel(head.model, head.facts.model.model_copy(update={"read_mpps": mpps}))
        how = PredictSettings(device=(settings.device,))
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
