"""`parfocal inspect`."""

from pathlib import Path

from rich.table import Table
from tyro.conf import Positional

from parfocal.cli.command import Answer
from parfocal.config import GridConfig
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.regions import SlideReport, inspect_slides
from parfocal.slides import SlideIds, check_slide_mpp, find_slides

_GRID = GridConfig()


def inspect(
    slides: Positional[tuple[Path, ...]],
    grid: GridConfig = _GRID,
    slide_mpp: float | None = None,
    mpp_from_objective: bool = False,
    ids: SlideIds = "path",
    scan: int | None = None,
    workers: int = 1,
    qc: Path | None = None,
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
        workers: how many slides at a time, each in a process of its own; 0 uses this process, where a crash ends all.
        qc: a folder to write a picture of each slide with its tissue and regions to.
    """
    if not slides:
        raise ConfigError("no slide is named. Give files, folders or a manifest: parfocal inspect case1.svs")
    check_slide_mpp(slide_mpp)
    reports = inspect_slides(
        find_slides(slides, ids=ids),
        grid,
        slide_mpp=slide_mpp,
        mpp_from_objective=mpp_from_objective,
        scan=scan,
        qc=qc,
        workers=workers,
    )
    remarks = [f"{report.slide}: {line}" for report in reports for line in _remarks(report, grid)]
    usable = sum(report.is_usable for report in reports)
    without = sum(report.has_no_tissue for report in reports)
    if usable < len(reports) > 1:
        counts = {"usable": usable, "no tissue found": without, "failed": len(reports) - usable - without}
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        remarks.append(f"{len(reports)} slides: {listed}")
    status = 0 if usable == len(reports) else 3 if usable else 1
    return Answer([report.to_dict() for report in reports], (_table(reports, grid),), tuple(remarks), status)


def _remarks(report: SlideReport, grid: GridConfig) -> list[str]:
    """What a person should know of a slide, one line each."""
    remarks = [f"warning: {notice}" for notice in report.notices]
    if report.problem:
        remarks.append(report.problem)
    if report.has_no_tissue:
        found = f" (no region has {grid.min_tissue:.0%} of it, --min-tissue)" if report.tissue_share else ""
        remarks.append(f"no tissue found in {report.path}{found}. Say where it is with --tissue.")
    return remarks


def _table(reports: list[SlideReport], grid: GridConfig) -> Table:
    table = Table(title=f"regions of {grid.region_um:g} um, tiles of {grid.tile_px} px")
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
