"""Lines on stdout and stderr that cannot steer the terminal, whatever they hold."""

import os
import sys
from contextlib import suppress

from parfocal.terminal import printable


def say(*lines: object) -> None:
    """Print lines of data to stdout."""
    write_out("".join(f"{printable(str(line))}\n" for line in lines))


def tell(*lines: object) -> None:
    """Print lines for a person to stderr; where nobody reads them any more, the command goes on."""
    with suppress(BrokenPipeError):
        for line in lines:
            print(printable(str(line)), file=sys.stderr, flush=True)


def write_out(text: str) -> None:
    """Write a text to stdout at once, so that a full disk is known while it can be named.

    Raises:
        OSError: it cannot be written; then the error names stdout.
    """
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise OSError(error.errno, error.strerror, "stdout") from error


def discard_output() -> None:
    """Let what is still to be written to stdout go nowhere, so that the interpreter does not fail on it at its end."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
