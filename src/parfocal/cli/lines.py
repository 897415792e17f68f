"""Lines on stdout and stderr that cannot steer the terminal, whatever they hold."""

import sys
from contextlib import suppress

from parfocal.terminal import printable

__all__ = ["say", "tell"]


def say(*lines: object) -> None:
    """Print lines of data to stdout."""
    for line in lines:
        print(printable(str(line)))


def tell(*lines: object) -> None:
    """Print lines for a person to stderr; where nobody reads them any more, the command goes on."""
    with suppress(BrokenPipeError):
        for line in lines:
            print(printable(str(line)), file=sys.stderr, flush=True)
