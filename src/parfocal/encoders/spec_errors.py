"""The words of errors that several kinds of encoders share."""

from collections.abc import Sequence
from difflib import get_close_matches

from parfocal.errors import EncoderError

__all__ = ["WHAT_THERE_IS", "first_line", "unknown_encoder"]

WHAT_THERE_IS = (
    "Use filterbank (needs nothing), a preset such as virchow2, timm:NAME, file:PATH or python:MODULE:FUNCTION; "
    "docs/encoders.md lists the presets."
)


def unknown_encoder(name: str, names: Sequence[str]) -> EncoderError:
    """The error for a name that no encoder has, with the names that are close."""
    close = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"Close: {', '.join(close)}. " if close else ""
    return EncoderError(f"there is no tile encoder {name!r}. {hint}{WHAT_THERE_IS}")


def first_line(error: Exception) -> str:
    """The first line of an error of another library, short enough for one message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
