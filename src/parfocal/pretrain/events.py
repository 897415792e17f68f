"""Whether a run is long enough: what is said before it begins, and when it has ended while it still improved.

What a run of `pretrain` tells while it goes on, and how it looks on a terminal or in a log.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console

from parfocal.geometry import format_mpp
from parfocal.pretrain.holdout import Split
from parfocal.pretrain.settings import PretrainSettings
from parfocal.run.events import Notice, Progress
from parfocal.run.progress import Bars

__all__ = [
    "OnPretrainEvent",
    "PretrainEvent",
    "PretrainProgress",
    "StepsDone",
    "TrainingStarted",
    "remarks_after",
    "remarks_before",
]


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
                self._bars(Progress("steps", first, total))
            case StepsDone(values=values):
                self._latest |= values
                numbers = progress_numbers(self._latest, self._mpps)
                step = int(values["step"])
                if "r2" in values and not self._bars.is_live:
                    self._bars.line(f"step {step}/{self._n_steps} {numbers}")
                else:
                    self._bars(Progress("steps", step, self._n_steps, numbers))
            case Notice():
                self._bars(event)

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


_FEW = 500
"""Steps. In docs/prove.md what magnifications share beyond a linear map shows after 500 to 1,500 of them, not before;
epochs that suit a hundred thousand regions are far fewer steps on a small cohort."""
_GOOD = 1500
_SINCE = (0.6, 0.85)
"""The share of the steps after which the look lies that the last one is compared with: by then the rate is low."""
_GAIN = 0.01
"""Of held-out R2 since then."""


def remarks_before(settings: PretrainSettings, n_steps: int, split: Split, *, world: int) -> tuple[str, ...]:
    """What is to be said of a number of steps that comes from epochs; one that was asked for is not doubted."""
    if settings.steps is not None or n_steps >= _FEW:
        return ()
    n_regions, per_step = sum(len(part.regions) for part in split.training), settings.batch * world
    epochs = math.ceil(_GOOD * per_step / n_regions)
    return (
        f"this pretraining is short for the cohort: {settings.epochs:g} epochs of {n_regions} regions of "
        f"{len(split.training)} slides are {n_steps} steps of {per_step} regions, and in fewer than {_FEW} hardly more "
        f"than means is learnt; train longer with --steps {_GOOD} (or --epochs {epochs}), or embed more slides",
    )


def remarks_after(rows: Sequence[Mapping[str, float]], n_steps: int, *, warmup: float) -> tuple[str, ...]:
    """What is to be said of a run whose held-out R2 was still rising when it ended.

    Args:
        rows: of `metrics.csv`.
        n_steps: of the run.
        warmup: share of the steps before which a look says nothing.
    """
    looks = {int(row["step"]): row["r2"] for row in rows if math.isfinite(row.get("r2", math.nan))}
    looks = {step: value for step, value in looks.items() if step >= warmup * n_steps}
    before = [step for step in looks if _SINCE[0] * n_steps <= step <= _SINCE[1] * n_steps]
    last = looks.get(n_steps, -math.inf)
    if not before or last < max(looks.values()) or last - looks[before[-1]] <= _GAIN:
        return ()
    return (
        f"still improving when it ended: held-out R2 was {looks[before[-1]]:.3f} at step {before[-1]} and is "
        f"{last:.3f} at the last, {n_steps}, the best of {len(looks)} looks; train longer, for example with "
        f"--steps {2 * n_steps}",
    )
