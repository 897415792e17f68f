"""Every exception and warning of parfocal, as one tree.

A message says what could not be done and to which thing, what was found, what is expected and what to do.
Wrong arguments from a caller stay `ValueError` and `TypeError`.
"""

from parfocal.terminal import printable


class ParfocalError(Exception):
    """Anything that parfocal itself refuses; its text is one message for a person."""


class SlideError(ParfocalError):
    """A slide cannot be used."""


class UnreadableSlideError(SlideError):
    """The file is missing, is not a slide, or fails while its pixels are read."""


class CalibrationError(SlideError):
    """The slide's microns per pixel are missing or implausible."""


class ResolutionError(SlideError):
    """A magnification was asked that the slide does not hold."""


class ClosedSlideError(SlideError):
    """The slide was used after it had been closed."""


class EncoderError(ParfocalError):
    """A tile encoder cannot be loaded or run."""


class StoreError(ParfocalError):
    """A store, an index or a checkpoint cannot be used."""


class FormatVersionError(StoreError):
    """The file was written by a newer version of the format."""


class MismatchError(StoreError):
    """Two things that must belong together do not: encoder and model, settings and store, slide and features."""


class NotFiniteError(StoreError):
    """Rows of a slide hold values that are not finite, so nothing can be computed from them."""


class ConfigError(ParfocalError):
    """The settings contradict each other or the data."""


class PluginError(ParfocalError):
    """Something that another package adds cannot be used; the text names the package."""


class ParfocalWarning(UserWarning):
    """Something was dropped, clipped, resampled or looks wrong; said once per run, with a count."""


class ParfocalDeprecationWarning(DeprecationWarning):
    """A public name will go; the text names its replacement and the version of removal."""


def as_problem(error: BaseException) -> str:
    """Any exception as one line for a person, with its notes: ours as it is, a library's with the name of its kind.

    Where a file from elsewhere is read, whatever a library raises on it is a fact about that file.
    """
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    text = printable(" ".join(f"{error}{notes}".split()))
    if isinstance(error, ParfocalError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text or 'no message'}"
