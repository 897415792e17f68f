"""What every long run needs: devices, processes that may die, progress, and the table of failures."""

from parfocal.run.failures import FailedSlide, Failure, read_failures

__all__ = [
    "FailedSlide",
    "Failure",
    "read_failures",
]
