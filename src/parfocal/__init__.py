"""parfocal: whole-slide images at several magnifications at once."""

from parfocal.version import __version__

__all__ = ["__version__"]
