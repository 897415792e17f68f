"""Events and summaries for a person: bars on a terminal, lines elsewhere, and tables."""

from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from parfocal.embed.estimate import RunEstimate
from parfocal.embed.events import (
    EmbedSummary,
    Event,
    Notice,
    RunStarted,
    SlideFinished,
    TilesDone,
    absence,
    slide_status,
    tile_counts,
)
from parfocal.embed.slide import EmbeddedSlide
from parfocal.run.failures import FailedSlide
from parfocal.run.progress import Bars

__all__ = ["RunProgress", "estimate_table", "summary_table"]


class RunProgress:
    """Shows the events of a run on stderr: two bars on a terminal, lines for slides and tiles in a log or a pipe.

    Use it in a `with` statement and pass it as `on_event`.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`; by default stderr, so that stdout stays for data."""
        self._bars = Bars(console)
        self._n_slides = 0
        self._finished = 0
        self._failed = 0
        self._known: dict[str, tuple[int, int]] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case RunStarted(n_slides=n_slides):
                self._n_slides = n_slides
            case TilesDone(slide=slide, done=done, total=total):
                self._known[slide] = (done, total)
            case Notice(text=text):
                self._line(f"warning: {text}")
            case SlideFinished(outcome=outcome):
                self._finished += 1
                self._failed += isinstance(outcome, FailedSlide)
                self._finish(outcome)
        self._show()

    def __enter__(self) -> "RunProgress":
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)

    def _finish(self, outcome: EmbeddedSlide | FailedSlide) -> None:
        if isinstance(outcome, FailedSlide):
            # What it will never encode must not stay in the estimate.
            done, _ = self._known.get(outcome.slide, (0, 0))
            self._known[outcome.slide] = (done, done)
            self._line(f"{outcome.slide} failed: {outcome.error}: {outcome.message}")
        elif outcome.kept:
            self._known[outcome.slide] = (0, 0)
            self._line(_with_absence(f"{outcome.slide} kept", outcome))
        else:
            total = sum(outcome.n_tiles.values())
            self._known[outcome.slide] = (total, total)
            line = f"{outcome.slide} {slide_status(outcome)}: {total} tiles in {outcome.seconds:.1f} s"
            self._line(_with_absence(line, outcome))

    def _show(self) -> None:
        done = sum(done for done, _ in self._known.values())
        planned = sum(total for _, total in self._known.values())
        counted = [total for _, total in self._known.values() if total]
        # Slides that nobody has opened yet are taken to be like those that have been.
        unknown = max(0, self._n_slides - len(self._known))
        expected = planned + (round(planned / len(counted) * unknown) if counted else 0)
        if self._bars.is_live:  # elsewhere every slide has its line
            self._bars("slides", self._finished, self._n_slides, f"{self._failed} failed" if self._failed else "")
        self._bars("tiles", done, expected or None)

    def _line(self, text: str) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        self._bars.line(text if self._bars.is_live else f"[{self._finished}/{self._n_slides}{failed}] {text}")


def _with_absence(line: str, outcome: EmbeddedSlide) -> str:
    text = absence(outcome)
    return f"{line}; {text}" if text else line


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
            slide_status(outcome),
            str(outcome.n_regions),
            *(str(counts.get(f"{mpp:g}", "")) for mpp in mpps),
            str(sum(outcome.n_absent.values())),
            f"{outcome.seconds:.1f}",
        )
    return table


def estimate_table(estimate: RunEstimate) -> Table:
    """One row per slide and the sum: regions, tiles at each magnification, MB on disk."""
    total = estimate.n_tiles
    table = Table(title=f"{estimate.set_path} (nothing is written)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("slide", overflow="fold", min_width=12)
    table.add_column("status", overflow="fold", min_width=6)
    for name in ["regions", *(f"tiles {mpp:g}" for mpp in total), "MB"]:
        table.add_column(name, justify="right")
    for one in estimate.slides:
        status = "would fail" if one.problem else "in the store" if one.done else "to do"
        counts = [str(one.n_tiles[mpp]) if one.n_tiles else "" for mpp in total]
        table.add_row(one.slide, status, str(one.n_regions), *counts, f"{one.n_bytes / 1e6:.1f}")
    seconds = "time unknown" if estimate.seconds is None else f"about {estimate.seconds:.0f} s"
    todo = sum(one.n_regions for one in estimate.slides if not one.done)
    table.add_section()
    table.add_row("to do", seconds, str(todo), *map(str, total.values()), f"{estimate.n_bytes / 1e6:.1f}")
    return table
