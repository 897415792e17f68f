"""The boundary of a slide's job: whatever goes wrong in it becomes that slide's recorded failure."""

import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.embeddings.embed import EmbeddedSlide, OnTiles, embed_slide
from parfocal.embeddings.events import FailedSlide
from parfocal.embeddings.settings import EmbedSettings
from parfocal.encoders import TileEncoder
from parfocal.errors import ParfocalWarning
from parfocal.slides import SlideSource

__all__ = ["JobResult", "run_job"]


@dataclass(frozen=True)
class JobResult:
    """What came of a slide, and the warnings of ours that its job gave.

    Attributes:
        outcome: the slide, embedded or failed.
        notices: the warnings' texts, by the place in the code that gave them, so that a run says each kind once.
    """

    outcome: EmbeddedSlide | FailedSlide
    notices: Mapping[str, str] = field(default_factory=dict)


def run_job(
    source: SlideSource,
    encoders: Mapping[float, TileEncoder],
    settings: EmbedSettings,
    set_path: Path,
    on_tiles: OnTiles | None = None,
) -> JobResult:
    """Embed one slide; an error of any kind is its failure and not the run's. Stopping (Ctrl-C) passes through."""
    outcome: EmbeddedSlide | FailedSlide
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ParfocalWarning)
        try:
            outcome = embed_slide(source, encoders, settings, set_path, on_tiles=on_tiles)
        except Exception as error:
            # One slide of a thousand must not end the night's run, whatever a library raised on its file.
            outcome = failure(source, error)
    ours = [warning for warning in caught if issubclass(warning.category, ParfocalWarning)]
    for warning in caught:
        if not issubclass(warning.category, ParfocalWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return JobResult(outcome, {f"{warning.filename}:{warning.lineno}": str(warning.message) for warning in ours})


def failure(source: SlideSource, error: Exception) -> FailedSlide:
    """An exception as a slide's failure, in one line, with the notes that it gathered on its way."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    message = " ".join(f"{error}{notes}".split()) or "no message"
    return FailedSlide(
        source.slide, source.path, type(error).__name__, message, "".join(traceback.format_exception(error))
    )
