"""What comes of a run of `embed_slides`, in numbers, words and a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from parfocal.geometry import format_mpp
from parfocal.run.failures import NOT_TRIED, FailedSlide, exit_status
from parfocal.store.reading import shares_text

TIMES = ("seconds", "encode_seconds", "wait_seconds")
"""What of a slide's outcome adds up where it is read in several passes."""


@dataclass(frozen=True)
class EmbeddedSlide:
    """What came of a slide's job.

    Attributes:
        slide: the slide's id.
        path: its file.
        kept: whether it was done before, so that nothing was computed.
        n_regions: how many regions hold tissue.
        n_tiles: how many tiles, per magnification.
        seconds: wall-clock time of the job.
        n_absent: how many planned tiles the file has no pixels for, per magnification; those with none are left out.
        absent_reason: why, for one of them.
        budget: the share of its finest tiles that has been read; 1 where all were.
        coarser: the shares of the magnifications before of which a part has been read, coarse to fine.
        remark: what else a reader of the log should know.
        encode_seconds: of `seconds`, those in which the encoder was at work.
        wait_seconds: of `seconds`, those in which it waited for tiles that were being read.
    """

    slide: str
    path: Path
    kept: bool
    n_regions: int
    n_tiles: Mapping[float, int]
    seconds: float
    n_absent: Mapping[float, int] = field(default_factory=dict)
    absent_reason: str | None = None
    budget: float = 1.0
    coarser: tuple[float, ...] = ()
    remark: str = ""
    encode_seconds: float = 0.0
    wait_seconds: float = 0.0

    @property
    def status(self) -> str:
        """`done` or `kept`; with a remark where no tissue was found, or a part of it was read."""
        status = "kept" if self.kept else "done"
        if not self.n_regions:
            return f"{status}, no tissue found"
        is_whole = self.budget >= 1 and not self.coarser
        return status if is_whole else f"{status}, {shares_text(self.budget, self.coarser)} read"

    @property
    def absence(self) -> str:
        """How many planned tiles its file has no pixels for, and why; empty where it has all."""
        absent = sum(self.n_absent.values())
        if not absent:
            return ""
        planned = absent + sum(self.n_tiles.values())
        return f"{absent} of {planned} planned tiles absent ({self.absent_reason})"

    @property
    def line(self) -> str:
        """What became of it, for a log of many."""
        work = "" if self.kept else f" {self.status}: {sum(self.n_tiles.values())} tiles in {self.seconds:.1f} s"
        return "; ".join(filter(None, (f"{self.slide}{work or ' kept'}", self.absence, self.remark)))


@dataclass(frozen=True)
class EmbedSummary:
    """What came of a run.

    Attributes:
        set_path: the set that was written.
        outcomes: one for each slide, in the order of the input.
        seconds: wall-clock time of the run.
        log: the log file of the run.
    """

    set_path: Path
    outcomes: tuple[EmbeddedSlide | FailedSlide, ...]
    seconds: float
    log: Path

    @property
    def done(self) -> tuple[EmbeddedSlide, ...]:
        """The slides that are in the store now, the kept ones and those without tissue included."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, EmbeddedSlide))

    @property
    def no_tissue(self) -> tuple[EmbeddedSlide, ...]:
        """The slides on which no tissue was found: they are in the store, and there is nothing in them."""
        return tuple(outcome for outcome in self.done if not outcome.n_regions)

    @property
    def failed(self) -> tuple[FailedSlide, ...]:
        """The slides that could not be embedded."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, FailedSlide))

    @property
    def exit_status(self) -> int:
        """0 when all slides have embeddings in the store, 1 when none has, 3 when some have."""
        return exit_status(len(self.failed) + len(self.no_tissue), len(self.outcomes))

    @property
    def idle_share(self) -> float | None:
        """Share of the slides' time in which no encoder was at work; None where no slide was embedded.

        Of the process that embeds a slide: where several share a device, that is busier than each of them.
        """
        seconds, encode, _ = (sum(getattr(one, name) for one in self.done) for name in TIMES)
        return 1 - encode / seconds if encode else None

    @property
    def pace(self) -> str:
        """How much of the time encoders were idle, and what they waited for; empty where no slide was embedded."""
        if self.idle_share is None:
            return ""
        seconds, encode, wait = (sum(getattr(one, name) for one in self.done) for name in TIMES)
        return (
            f"the encoder was idle {self.idle_share:.0%} of the slides' {seconds:.0f} s: {wait / seconds:.0%} waiting "
            f"for tiles to be read, {(seconds - encode - wait) / seconds:.0%} while slides were opened, searched for "
            "tissue and written"
        )

    def describe(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "set": str(self.set_path),
            "seconds": round(self.seconds, 3),
            "log": str(self.log),
            "encoder_idle": None if self.idle_share is None else round(self.idle_share, 4),
            "counts": summary_counts(self),
            "no_tissue": [outcome.slide for outcome in self.no_tissue],
            "slides": [_row(outcome) for outcome in self.outcomes],
        }


def summary_counts(summary: EmbedSummary) -> dict[str, int]:
    """How many slides became what; every slide counts once, and what did not happen is not there."""
    with_tissue = [outcome for outcome in summary.done if outcome.n_regions]
    not_tried = sum(outcome.error == NOT_TRIED for outcome in summary.failed)
    counts = {
        "embedded": sum(not outcome.kept for outcome in with_tissue),
        "kept": sum(outcome.kept for outcome in with_tissue),
        "no tissue found": len(summary.no_tissue),
        "failed": len(summary.failed) - not_tried,
        "not tried": not_tried,
    }
    return {name: count for name, count in counts.items() if count}


def no_tissue_line(store: Path, slide: str, path: Path) -> str:
    """What to do about a slide on which no tissue was found, and the picture that shows what was seen."""
    picture = store / "qc" / f"{slide}.jpg"
    look = f" Look at {picture}." if picture.is_file() else ""
    return f"{slide}: no tissue found in {path}.{look} Say where it is with --tissue."


def tile_counts(n_tiles: Mapping[float, int]) -> dict[str, int]:
    """Tiles by the name of the magnification."""
    return {format_mpp(mpp): count for mpp, count in n_tiles.items()}


def _row(outcome: EmbeddedSlide | FailedSlide) -> dict[str, Any]:
    row: dict[str, Any] = {"slide": outcome.slide, "path": str(outcome.path)}
    if isinstance(outcome, FailedSlide):
        return row | {"status": "failed", "error": outcome.error, "message": outcome.message}
    return row | {
        "status": outcome.status,
        "regions": outcome.n_regions,
        "tiles": tile_counts(outcome.n_tiles),
        "absent": tile_counts(outcome.n_absent),
        "absent_reason": outcome.absent_reason,
        "budget": outcome.budget,
        "coarser_budgets": list(outcome.coarser),
        "remark": outcome.remark,
        **{name: round(getattr(outcome, name), 3) for name in TIMES},
    }


def summary_table(summary: EmbedSummary) -> Table:
    """One row per slide: status, regions, tiles by magnification, absent ones, seconds; reasons are in the events."""
    mpps = sorted({mpp for outcome in summary.done for mpp in outcome.n_tiles}, reverse=True)
    table = Table(title=f"{summary.set_path}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("slide", overflow="fold", min_width=12)
    table.add_column("status", overflow="fold", min_width=6)
    for name in ["regions", *(f"tiles {mpp:g}" for mpp in mpps), "absent", "seconds"]:
        table.add_column(name, justify="right")
    for outcome in summary.outcomes:
        if isinstance(outcome, FailedSlide):
            table.add_row(outcome.slide, f"failed: {outcome.error}", *[""] * (len(mpps) + 3))
            continue
        counts = tile_counts(outcome.n_tiles)
        table.add_row(
            outcome.slide,
            outcome.status,
            str(outcome.n_regions),
            *(str(counts.get(f"{mpp:g}", "")) for mpp in mpps),
            str(sum(outcome.n_absent.values())),
            f"{outcome.seconds:.1f}",
        )
    return table
