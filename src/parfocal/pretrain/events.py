"""What a run of `pretrain` tells while it goes on, and how it looks on a terminal or in a log."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console

from parfocal.embeddings import Notice
from parfocal.geometry import format_mpp
from parfocal.progress import Bars

__all__ = ["OnPretrainEvent", "PretrainEvent", "PretrainProgress", "StepsDone", "TrainingStarted"]


@dataclass(frozen=True)
class TrainingStarted:
    """Training begins, or goes on from a step.

    Attributes:
        first_step: 0, or where the run was left.
        n_steps: steps in all.
        mpps: coarse to fine.
        sentences: what is trained on what, and what is held out.
    """

    first_step: int
    n_steps: int
    mpps: tuple[float, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class StepsDone:
    """A row of `metrics.csv` was written."""

    values: Mapping[str, float]


PretrainEvent = TrainingStarted | StepsDone | Notice
OnPretrainEvent = Callable[[PretrainEvent], None]


class PretrainProgress:
    """Shows the events of a run on stderr: one live line on a terminal, else a line at each look at held-out regions.

    Use it in a `with` statement and pass it as `on_event`.
    """

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`; by default stderr, so that stdout stays for data."""
        self._bars = Bars(console)
        self._mpps: tuple[float, ...] = ()
        self._n_steps = 0
        self._latest: dict[str, float] = {}

    def __call__(self, event: PretrainEvent) -> None:
        """Show one event."""
        match event:
            case TrainingStarted(first_step=first, n_steps=total, mpps=mpps, sentences=sentences):
                self._mpps, self._n_steps = mpps, total
                for sentence in sentences:
                    self._bars.line(sentence)
                self._bars("steps", first, total)
            case StepsDone(values=values):
                self._latest |= values
                numbers = progress_numbers(self._latest, self._mpps)
                step = int(values["step"])
                if "r2" in values and not self._bars.is_live:
                    self._bars.line(f"step {step}/{self._n_steps} {numbers}")
                else:
                    self._bars("steps", step, self._n_steps, numbers)
            case Notice(text=text):
                self._bars.line(text)

    def __enter__(self) -> "PretrainProgress":
        self._bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.__exit__(kind, error, trace)


def progress_numbers(values: Mapping[str, float], mpps: Sequence[float]) -> str:
    """Loss, held-out R2 per magnification and rate, as they stand beside the bar."""
    text = [f"loss {values['loss']:.4f}"] if "loss" in values else []
    if not math.isnan(values.get("r2", math.nan)):
        r2 = [f"{format_mpp(m)} mpp {values.get(f'r2_{format_mpp(m)}', math.nan):.3f}" for m in mpps]
        text.append(f"held-out R2 {', '.join(r2)}")
    if not math.isnan(values.get("contrast_top1_same_slide", math.nan)):
        text.append(f"own view found {values['contrast_top1_same_slide']:.2f}")
    if "regions_per_s" in values:
        text.append(f"{values['regions_per_s']:.0f} regions/s")
    return "  ".join(text)
