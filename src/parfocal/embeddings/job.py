"""The boundary of a slide's job: whatever goes wrong in it becomes that slide's recorded failure."""

import errno
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.embeddings.embed import EmbeddedSlide, OnTiles, embed_slide, kept_slide
from parfocal.embeddings.events import DISK_FULL, FailedSlide
from parfocal.embeddings.layout import index_path
from parfocal.embeddings.settings import EmbedSettings
from parfocal.encoders import TileEncoder
from parfocal.errors import ParfocalWarning
from parfocal.provenance import no_space
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
    """Embed one slide; an error of any kind is its failure and not the run's. Stopping (Ctrl-C) passes through.

    Another run may do the same slide at the same time. What comes of it counts like this job's own.
    """
    outcome: EmbeddedSlide | FailedSlide
    was_done = index_path(set_path, source.slide).is_file()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ParfocalWarning)
        try:
            outcome = embed_slide(source, encoders, settings, set_path, on_tiles=on_tiles)
        except Exception as error:
            # One slide of a thousand must not end the night's run, whatever a library raised on its file.
            done_elsewhere = None if was_done else _done_now(source, settings, set_path)
            outcome = done_elsewhere or failure(source, error, set_path)
    ours = [warning for warning in caught if issubclass(warning.category, ParfocalWarning)]
    for warning in caught:
        if not issubclass(warning.category, ParfocalWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return JobResult(outcome, {f"{warning.filename}:{warning.lineno}": str(warning.message) for warning in ours})


def failure(source: SlideSource, error: Exception, set_path: Path | None = None) -> FailedSlide:
    """An exception as a slide's failure, in one line, with the notes that it gathered on its way.

    Args:
        source: the slide.
        error: what was raised on it.
        set_path: what was written to, for the errors that say that there is no space and not where.
    """
    trace = "".join(traceback.format_exception(error))
    full = no_space(error, set_path) if set_path else None
    if full is not None:
        kind = DISK_FULL if full.errno != errno.EFBIG else "OSError"
        message = f"cannot write {full.filename}: {full.strerror}. Make room, and give the same command again."
        return FailedSlide(source.slide, source.path, kind, message, trace)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    message = " ".join(f"{error}{notes}".split()) or "no message"
    return FailedSlide(source.slide, source.path, type(error).__name__, message, trace)


def _done_now(source: SlideSource, settings: EmbedSettings, set_path: Path) -> EmbeddedSlide | None:
    """What another run has made of a slide while this one failed on it."""
    try:
        return kept_slide(source, settings, set_path)
    except Exception:  # then this run's own failure says more
        return None
