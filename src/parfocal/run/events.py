"""What long work tells while it goes on: how far it is, and sentences for a person."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from parfocal.errors import ParfocalWarning


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: what is counted, such as `slides` or `pretrain mem`.
        done: how many of them are done.
        total: how many there are; None where that is not known yet.
        item: what was finished last, or is said beside the numbers.
        line: what is worth a line of its own, also in a log.
        result: what came of it, where the work hands that out piece by piece.
    """

    stage: str
    done: int
    total: int | None
    item: str = ""
    line: str = ""
    result: object = None


@dataclass(frozen=True)
class Notice:
    """One line for a person, said once.

    Attributes:
        text: the line.
        is_warning: whether something was resampled, dropped or looks wrong; else it is for information.
    """

    text: str
    is_warning: bool = False


Event = Progress | Notice
OnEvent = Callable[[Event], None]


def warn_of(event: Event) -> None:
    """What listens where nobody else does: of a warning is warned, and the rest is for a terminal."""
    if isinstance(event, Notice) and event.is_warning:
        warnings.warn(event.text, ParfocalWarning, stacklevel=3)


def as_stage(on_event: OnEvent, stage: str, counted: str) -> OnEvent:
    """What listens to a part of longer work: what the part counts is a stage there, and notices pass.

    Args:
        on_event: listens to the whole.
        stage: what the part is called in it.
        counted: which of the part's own stages that is; others are not told.
    """

    def pass_on(event: Event) -> None:
        if isinstance(event, Notice):
            on_event(event)
        elif event.stage == counted:
            on_event(replace(event, stage=stage))

    return pass_on
