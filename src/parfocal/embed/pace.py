"""Whether a run goes as fast as it should: its rate beside the one that is expected, and what the encoders wait for."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# How long the beginning of a run is timed where nobody has said what to expect, and over how long its rate is looked
# at later: a few slides, so that opening one of them does not count as slow.
_FIRST_SECONDS = 60.0
_RECENT_SECONDS = 120.0
_SLOW = 0.7
# A mark of the past is kept this often.
_MARK_SECONDS = 1.0

# What a slide's time goes into, and what helps.
_STAGES = (
    "encoding: see what else uses the device, or the cores where they encode",
    "waiting for tiles to be read: see to the disk or network that the slides lie on, or read more slides at a time "
    "(--workers)",
    "opening slides, searching them for tissue and writing: more slides at a time (--workers) overlap that",
)


@dataclass(frozen=True)
class TilesDone:
    """How far a slide is.

    Attributes:
        done: how many of its tiles are done.
        total: how many it has.
        encode_seconds: how long the encoder has been at work for them.
        wait_seconds: how long it has waited for tiles to be read.
        between_seconds: what else the slide has taken, known at its end.
    """

    done: int
    total: int
    encode_seconds: float = 0.0
    wait_seconds: float = 0.0
    between_seconds: float = 0.0

    @property
    def spent(self) -> tuple[float, ...]:
        """Tiles, and the seconds of each stage."""
        return float(self.done), self.encode_seconds, self.wait_seconds, self.between_seconds


class PaceWatch:
    """Says once that a run has become, or is, slower than 70 % of what is expected of it."""

    def __init__(self, expected: float | None = None) -> None:
        """Watch a run.

        Args:
            expected: tiles per second; that of the first minute, from the first tile on, where None.
        """
        self._expected = expected
        self._whose = "of the first minute" if expected is None else "that are expected"
        self._marks: deque[tuple[float, Float[np.ndarray, " number"]]] = deque()
        self._is_over = False

    def end(self) -> None:
        """Say nothing any more: what comes now is no measure, such as the last slides of some workers."""
        self._is_over = True

    def look(self, now: float, slides: Mapping[str, TilesDone]) -> str | None:
        """What is to be said now; None where the run is fast enough, or it is too early to tell.

        Args:
            now: seconds of a clock.
            slides: how far each slide is that has been begun.
        """
        if self._is_over or (self._marks and now - self._marks[-1][0] < _MARK_SECONDS):
            return None
        spent = np.array([one.spent for one in slides.values()]).reshape(-1, 1 + len(_STAGES)).sum(axis=0)
        if not spent[0]:
            return None  # encoders are loaded, and the first slide is opened
        self._marks.append((now, spent))
        since, before = self._marks[0]
        seconds, (tiles, *stages) = now - since, (spent - before).tolist()
        if self._expected is None:
            if seconds >= _FIRST_SECONDS:
                self._expected = tiles / seconds
                self._marks = deque([(now, spent)])
            return None
        if seconds < _RECENT_SECONDS:
            return None
        self._marks.popleft()
        rate = tiles / seconds
        if rate >= _SLOW * self._expected:
            return None
        self.end()
        longest = max(range(len(stages)), key=stages.__getitem__)
        share = stages[longest] / max(sum(stages), 1e-9)
        return (
            f"the run is slow: {_number(rate)} tiles/s in the last {seconds / 60:.0f} minutes, "
            f"{rate / self._expected:.0%} of the {_number(self._expected)} tiles/s {self._whose}. {share:.0%} of the "
            f"time of its slides went into {_STAGES[longest]}."
        )


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
