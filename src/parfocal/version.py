"""The version of parfocal, in the one place that the build and every written file read."""

__version__ = "0.1.0"
