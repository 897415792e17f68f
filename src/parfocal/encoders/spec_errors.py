"""The error for an encoder name that means nothing, for the spec and for the presets alike."""

from collections.abc import Sequence
from difflib import get_close_matches

from parfocal.errors import EncoderError

__all__ = ["WHAT_THERE_IS", "unknown_encoder"]

WHAT_THERE_IS = (
    "Use filterbank (needs nothing), a preset such as virchow2, timm:NAME, file:PATH or python:MODULE:FUNCTION; "
    "docs/encoders.md lists the presets."
)


def unknown_encoder(name: str, names: Sequence[str]) -> EncoderError:
    """The error for a name that no encoder has, with the names that are close."""
    close = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"Close: {', '.join(close)}. " if close else ""
    return EncoderError(f"there is no tile encoder {name!r}. {hint}{WHAT_THERE_IS}")
