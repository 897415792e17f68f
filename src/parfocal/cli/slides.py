"""The commands over slides and features: `inspect`, `embed` and `index`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer, Output, failed_lines, print_table
from parfocal.cli.encoders import encoder_table
from parfocal.config import GridConfig
from parfocal.embed import (
    EmbedSettings,
    FleetSettings,
    Zoom,
    embed_slides,
    estimate_run,
    estimate_table,
    fleet_table,
    plan_fleet,
    summary_table,
)
from parfocal.embed.onto import index_of
from parfocal.embed.summary import no_tissue_line, summary_counts
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.regions import SlideReport, inspect_slides
from parfocal.report.writer import Field, terminal_table
from parfocal.run.executors import RunsSlides
from parfocal.run.progress import Bars
from parfocal.slides import SlideIds
from parfocal.store import FeatureSettings, IndexedSlide, IndexSummary, index_features

_GRID, _RUNS, _EMBED = GridConfig(), RunsSlides(workers=1), EmbedSettings(workers=1)
_BUDGET = 0.1


def inspect(
    slides: Positional[tuple[Path, ...]],
    grid: GridConfig = _GRID,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    ids: SlideIds = "path",
    scan: int | None = None,
    runs: RunsSlides = _RUNS,
    qc: Path | None = None,
    shard: str | None = None,
) -> Answer:
    """Show what each of SLIDES is, and how many regions and tiles the grid would take from it.

    A slide that cannot be used is shown with the reason in one line; the others are shown all the same.

    Example:
        parfocal inspect case1.svs scans/ --mpps 2 1 0.5

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp][,scan]).
        grid: how a slide is cut into regions and tiles.
        slide_mpp: micrometres per pixel of every given slide, in place of what its file says.
        mpp_from_objective: take 10 um / power where a slide has an objective power and no resolution.
        ids: whether a slide in a folder is called by its path below the folder or by its file's name alone.
        scan: which scan of a file that holds several, from 0, where a manifest does not say.
        runs: where, and how many slides at a time.
        qc: a folder to write a picture of each slide with its tissue and regions to.
        shard: show one of N equal parts of the slides, I/N with I from 0 to N - 1, as every command over slides takes
            them. All when None.
    """
    if not slides:
        raise ConfigError("no slide is named. Give files, folders or a manifest: parfocal inspect case1.svs")
    reports = inspect_slides(
        slides,
        grid,
        slide_mpp=slide_mpp,
        mpp_from_objective=mpp_from_objective,
        ids=ids,
        scan=scan,
        qc=qc,
        runs=runs,
        shard=shard,
    )
    remarks = [f"{report.slide}: {line}" for report in reports for line in _remarks(report, grid)]
    usable = sum(report.is_usable for report in reports)
    without = sum(report.has_no_tissue for report in reports)
    if usable < len(reports) > 1:
        counts = {"usable": usable, "no tissue found": without, "failed": len(reports) - usable - without}
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        remarks.append(f"{len(reports)} slides: {listed}")
    status = 0 if usable == len(reports) else 3 if usable else 1
    return Answer([report.to_dict() for report in reports], (_inspect_table(reports, grid),), tuple(remarks), status)


def _remarks(report: SlideReport, grid: GridConfig) -> list[str]:
    """What a person should know of a slide, one line each."""
    remarks = [f"warning: {notice}" for notice in report.notices]
    if report.problem:
        remarks.append(report.problem)
    if report.has_no_tissue:
        found = f" (no region has {grid.min_tissue:.0%} of it, --min-tissue)" if report.tissue_share else ""
        remarks.append(f"no tissue found in {report.path}{found}. Say where it is with --tissue.")
    return remarks


def _inspect_table(reports: list[SlideReport], grid: GridConfig) -> Table:
    table = Table(title=f"{grid.words}, tiles of {grid.tile_px} px")
    table.add_column("slide", overflow="fold")
    for name in ("format", "size (px)", "levels", "mpp", "mpp from", "objective", "tissue", "regions"):
        table.add_column(name, justify="left" if name in {"format", "mpp from"} else "right")
    for mpp in grid.mpps:
        table.add_column(f"tiles at {format_mpp(mpp)}", justify="right")
    for report in reports:
        tiles = report.n_tiles or {}
        table.add_row(
            report.slide,
            report.format or "-",
            "-" if report.width_px is None else f"{report.width_px:,} x {report.height_px:,}",
            " ".join(f"{level:g}" for level in (round(level, 2) for level in report.levels)) or "-",
            "-" if report.mpp is None else f"{report.mpp:.4g}",
            report.mpp_source or "-",
            "-" if report.objective_power is None else f"{report.objective_power:g}x",
            "-" if report.tissue_share is None else f"{report.tissue_share:.1%}",
            "-" if report.n_regions is None else f"{report.n_regions:,}",
            *(f"{tiles[format_mpp(mpp)]:,}" if tiles else "-" for mpp in grid.mpps),
        )
    return table


def embed(
    slides: Positional[tuple[Path, ...]],
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",), metavar="PATH")] = None,
    settings: EmbedSettings = _EMBED,
    zoom: str | None = None,
    budget: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SHARE...")] = (),
    budget_total: float | None = None,
    seed: int = 0,
    dry_run: bool = False,
    plan: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME=VALUE...")] = None,
) -> Answer:
    """Embed the tiles of SLIDES at every magnification into a store.

    Tissue, regions, aligned tiles at every magnification in one pass, encoder, store. What is done already is kept;
    a slide that fails gets one line and a row in STORE/failures.csv, and the rest goes on. The same call continues a
    run that was stopped. A slide that is done and whose stored rows are lost or damaged fails too: its line names the
    file to remove to embed it anew.

    With --zoom the coarser magnifications of a slide are read first, from its own levels, and of the finest one only
    the tiles that a policy puts first: a share --budget of them. The same call with a larger budget reads the rest.
    With several shares the last magnifications are chosen among one after the other, coarse to fine: of 2, 1 and 0.5
    mpp, --budget 0.3 0.1 reads the first whole, of the second 0.3 and of the third 0.1, where the second was read.
    With --budget-total in its place the share is of all SLIDES together, and goes where tiles are worth most.

    With --add-to only the magnifications that a store of `parfocal index` does not have are encoded, on the lattice of
    its tiles: a set beside it has both, and names the rows that are there where they lie. A few of them are encoded
    again (--verify), and a slide of which they differ fails: another encoder, normalisation or place made them.

    Example:
        parfocal embed scans/ -o store --encoder filterbank --mpps 2 1 0.5
        parfocal embed scans/ --add-to store --encoder filterbank --mpps 2 1
        parfocal embed scans/ -o store --encoder filterbank --zoom stride --budget 0.1
        parfocal embed scans/ -o store --encoder filterbank --zoom diversity --budget 0.3 0.1
        parfocal embed few/ -o store --encoder uni2-h --dry-run --plan slides=10000 nodes=4 devices=8 rate=600

    Args:
        slides: slide files, folders of them, or manifests (CSV with slide,path[,mpp]).
        output: the store to write to, a folder or an address in a bucket (s3://, gs://); with --add-to that store where
            it is not named.
        settings: how.
        zoom: a policy (stride, random, random-regions, tissue, change, diversity), or the folder of a head (policy
            contrast or attention) or of a pretrained model (entropy) that says where to look; POLICY=FOLDER names both.
            The policy value asks a head and a model: value=HEAD,MODEL. The policy entropy-rounds looks at what has been
            read and orders the rest anew.
        budget: share of each slide's finest tiles that --zoom reads, 0 to 1; 0.1 where nothing is said. Several are of
            the last magnifications, coarse to fine.
        budget_total: share of the finest tiles of all given slides that --zoom reads, 0 to 1, in place of --budget; for
            the policies contrast, contrast-tiles, entropy and value. A slide may get none of them, or all.
        seed: of policies that draw.
        dry_run: show tiles per magnification, bytes and a time estimate, and write nothing.
        plan: with --dry-run, work out hours, bytes and costs of many slides like these on many machines. What is left
            out is as here: slides (how many), nodes, devices (of a node), readers (cores of a device), rate (tiles a
            device encodes in a second), network (megabytes a second of a node), price (of a node in an hour), failures
            (of a node in a day), restart (minutes until it is back).
    """
    if not slides:
        raise ConfigError("no slide is named. Give files, folders or a manifest: parfocal embed scans/ -o store ...")
    if not settings.encoder:
        print_table(encoder_table(), to_stderr=True)
        raise ConfigError("no tile encoder is named, and there is no silent default. Use --encoder with one of these.")
    how = _zoom(zoom, budget, budget_total, seed)
    if output is None:
        if settings.add_to is None:
            raise ConfigError("no store is named. Say where to write: parfocal embed scans/ -o store ...")
        output = index_of(settings.add_to).path.parent
    if dry_run and settings.add_to is not None:
        raise ConfigError("--dry-run does not know what tiles are there. Leave it or --add-to out.")
    if plan is not None and not dry_run:
        raise ConfigError("--plan only works out what a run would take. Add --dry-run.")
    if dry_run:
        fleet = None if plan is None else FleetSettings.parse(plan)
        estimate = estimate_run(slides, output, settings, zoom=how)
        remarks = [
            f"{slide.slide} would fail: {slide.problem}"
            if slide.problem
            else no_tissue_line(output, slide.slide, slide.path)
            for slide in estimate.slides
            if slide.problem or not slide.n_regions
        ]
        found, tables = estimate.describe(), [estimate_table(estimate)]
        if fleet is not None:
            planned = plan_fleet(estimate, fleet)
            found["plan"] = planned.describe()
            tables.append(fleet_table(planned))
        return Answer(found, tuple(tables), tuple(remarks), estimate.exit_status)
    with Bars() as bars:
        summary = embed_slides(slides, output, settings, zoom=how, on_event=bars)
    counts = ", ".join(f"{count} {name}" for name, count in summary_counts(summary).items())
    remarks = [no_tissue_line(output, empty.slide, empty.path) for empty in summary.no_tissue]
    remarks += [*([summary.pace] if summary.pace else []), counts, f"store: {summary.set_path}    log: {summary.log}"]
    return Answer(summary.describe(), (summary_table(summary),), tuple(remarks), summary.exit_status)


def _zoom(policy: str | None, budget: tuple[float, ...], total: float | None, seed: int) -> Zoom | None:
    if policy is None:
        if budget or total is not None or seed:
            raise ConfigError(
                "--budget, --budget-total and --seed say how --zoom reads slides. Name a policy, such as --zoom stride."
            )
        return None
    if budget and total is not None:
        raise ConfigError("--budget is of each slide, and --budget-total of all of them together. Leave one out.")
    from parfocal.predict import zoom_by  # torch, which reading and embedding do without

    if total is not None:
        return zoom_by(policy, total, seed=seed, over_slides=True)
    return zoom_by(policy, budget or _BUDGET, seed=seed)


_FEATURES = FeatureSettings()


def index(
    features: Positional[tuple[Path, ...]],
    output: Output,
    settings: FeatureSettings = _FEATURES,
) -> Answer:
    """Make a store of FEATURES that another tool has extracted at one or several magnifications.

    TRIDENT's files are taken, CLAM's, STAMP's, slide2vec's, AtlasPatch's and LazySlide's; which it is is recognised.

    Only an index is written; the features stay where they are, and are read once to see that they are whole. Tiles are
    joined into regions by where they lie in micrometres, so each slide's true resolution is needed: from the slide
    files, a manifest, or one value for all. A slide that cannot be used, or is not like most others, gets one line and
    a row in OUTPUT/failures.csv, and the rest goes on.

    Example:
        parfocal index trident_jobs/ -o store --slides scans/

    Args:
        features: the folders that the tool has written to, or one folder of files for each magnification.
        output: the store to write to.
        settings: how.
    """
    if not features:
        raise ConfigError("no folder of features is named: parfocal index trident_jobs/ -o store --slides scans/")
    with Bars() as bars:
        summary = index_features(features, output, settings, on_event=bars)
    remarks = failed_lines(summary.failed)
    if summary.failed:
        n_all = len(summary.slides) + len(summary.failed)
        remarks += (f"{len(summary.slides)} of {n_all} slides are indexed",)
    said = [f"{one.slide}: {remark}" for one in summary.slides for remark in one.remarks]
    more = (f"and {len(said) - _MOST_SAID} more such lines; --json has them all",) if len(said) > _MOST_SAID else ()
    return Answer(
        summary.describe(), (_index_table(summary),), (*said[:_MOST_SAID], *more, *remarks), summary.exit_status
    )


_MOST_SAID = 6


def _index_table(summary: IndexSummary) -> Table:
    columns = (
        Field("slide"),
        Field("mpp", "slide_mpp", show=".4g"),
        Field("mpp from", "mpp_source"),
        Field("regions", "n_regions"),
        *(Field(f"tiles at {format_mpp(mpp)}", partial(_tiles_at, mpp)) for mpp in summary.embeddings.mpps),
        Field("left out", lambda one: sum(one.n_left_out.values())),
        Field("misaligned by (um)", "largest_misalignment_um", show=".2f"),
    )
    return terminal_table(columns, summary.slides, title=str(summary.embeddings.path))


def _tiles_at(mpp: float, one: IndexedSlide) -> int:
    return one.n_tiles[mpp]
