"""What a run of `embed_slides` tells while it goes on, and what comes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.embed.slide import EmbeddedSlide
from parfocal.geometry import format_mpp
from parfocal.run.failures import NOT_TRIED, FailedSlide

__all__ = [
    "EmbedSummary",
    "Event",
    "Notice",
    "OnEvent",
    "RunStarted",
    "SlideFinished",
    "TilesDone",
]


@dataclass(frozen=True)
class RunStarted:
    """The run begins: where it writes, and how many slides it was given."""

    set_path: Path
    n_slides: int


@dataclass(frozen=True)
class TilesDone:
    """A slide has `done` of its `total` tiles encoded."""

    slide: str
    done: int
    total: int


@dataclass(frozen=True)
class SlideFinished:
    """A slide is embedded, kept or failed."""

    outcome: EmbeddedSlide | FailedSlide


@dataclass(frozen=True)
class Notice:
    """Something was resampled, dropped or looks wrong; one line, once."""

    text: str


Event = RunStarted | TilesDone | SlideFinished | Notice
OnEvent = Callable[[Event], None]


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
        without = len(self.failed) + len(self.no_tissue)
        if not without:
            return 0
        return 3 if without < len(self.outcomes) else 1

    def describe(self) -> dict[str, Any]:
        """The summary as plain values."""
        return {
            "set": str(self.set_path),
            "seconds": round(self.seconds, 3),
            "log": str(self.log),
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


def slide_status(outcome: EmbeddedSlide | FailedSlide) -> str:
    """`done`, `kept` or `failed`; with a remark where no tissue was found."""
    if isinstance(outcome, FailedSlide):
        return "failed"
    status = "kept" if outcome.kept else "done"
    return status if outcome.n_regions else f"{status}, no tissue found"


def absence(outcome: EmbeddedSlide) -> str:
    """How many planned tiles a slide's file has no pixels for, and why; empty where it has all."""
    absent = sum(outcome.n_absent.values())
    if not absent:
        return ""
    planned = absent + sum(outcome.n_tiles.values())
    return f"{absent} of {planned} planned tiles absent ({outcome.absent_reason})"


def tile_counts(n_tiles: Mapping[float, int]) -> dict[str, int]:
    """Tiles by the name of the magnification."""
    return {format_mpp(mpp): count for mpp, count in n_tiles.items()}


def _row(outcome: EmbeddedSlide | FailedSlide) -> dict[str, Any]:
    row: dict[str, Any] = {"slide": outcome.slide, "path": str(outcome.path), "status": slide_status(outcome)}
    if isinstance(outcome, FailedSlide):
        return row | {"error": outcome.error, "message": outcome.message}
    return row | {
        "regions": outcome.n_regions,
        "tiles": tile_counts(outcome.n_tiles),
        "absent": tile_counts(outcome.n_absent),
        "absent_reason": outcome.absent_reason,
        "seconds": round(outcome.seconds, 3),
    }
