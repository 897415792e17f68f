"""How much of a gain over the finest magnification is context and how much magnification, in the same words for all.

A coarse tile shows more of the surroundings than a fine one. What means of fine tiles over its area gain too is
context; what it gains on top of them is magnification.
"""

from dataclasses import dataclass

from parfocal.report import show_signed
from parfocal.stats import Interval, verdict

_WORDS = {"better": "helps", "worse": "costs", "open": "open"}


@dataclass(frozen=True)
class SplitGain:
    """The gain of all tiles with their context over the finest magnification alone, and its two parts.

    Attributes:
        alone: what the finest magnification alone reaches.
        everything: what all magnifications with the context reach.
        whole: the gain.
        context: the part that means of fine tiles over the areas of coarse ones bring.
        magnification: the part that coarse tiles bring beyond them.
    """

    alone: float
    everything: float
    whole: Interval
    context: Interval
    magnification: Interval

    @property
    def brought(self) -> str:
        """What each part brings, in few words: "context brings +0.02 (open) and magnification +0.40 (helps)"."""
        return f"context brings {show_part(self.context)} and magnification {show_part(self.magnification)}"

    def sentences(self, alone: str, metric: str, brought: str, who: str, units: str) -> tuple[str, str]:
        """The answer in two sentences: how the gain is split, and what of it is shown.

        Args:
            alone: what the finest magnification is called.
            metric: the name of the number.
            brought: who brings the context as well, and how.
            who: of what it was measured, and what the intervals are about.
            units: what the intervals count, with its number, such as "48 patients".
        """
        return (
            f"Against {alone} alone ({metric} {self.alone:.3f}), context and coarser magnifications together gain "
            f"{show_signed3(self.whole)}, to {self.everything:.3f}. Of this {show_signed3(self.context)} is context, "
            f"which {brought}, and {show_signed3(self.magnification)} is magnification, which only coarse tiles bring "
            f"({who}).",
            f"{_verdict(self.context, 'Context', units)} {_verdict(self.magnification, 'Magnification', units)}",
        )


def show_part(part: Interval) -> str:
    """One part with two decimals and what is shown of it: helps, costs or open; without ends the number alone."""
    return f"{show_signed(part.estimate)} ({_WORDS[verdict(part)]})" if part.has_ends else show_signed(part.estimate)


def _verdict(interval: Interval, what: str, units: str) -> str:
    found = verdict(interval)
    if found != "open":
        return f"{what} {_WORDS[found]} in this data."
    if not interval.has_ends:
        return f"{units} cannot show whether {what.lower()} helps."
    return f"{units} do not show whether {what.lower()} helps."


def show3(interval: Interval) -> str:
    """A number with three decimals and the ends of its interval, where it has one."""
    return _shown(interval, ".3f")


def show_signed3(interval: Interval) -> str:
    """The same with signs."""
    return _shown(interval, "+.3f")


def _shown(interval: Interval, shape: str) -> str:
    text = format(interval.estimate, shape)
    if interval.has_ends:
        text += f" ({interval.low:{shape}} to {interval.high:{shape}})"
    return text.replace("-", "\u2212")
