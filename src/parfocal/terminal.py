"""What a person sees, on stdout and stderr: text of any origin that cannot steer the terminal."""

import os
import re
import sys
from contextlib import suppress

# C0 and C1 controls and DEL start escape sequences or move the cursor; marks of direction turn text around; the last
# range stands for bytes of a file's name that are no UTF-8, which no stream can encode.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with every control character shown as `\x1b`, so that an id or a message is only ever read.

    Args:
        text: anything.
        keep: characters that may stay, such as the newline of a text of several lines.
    """
    return _STEERING.sub(lambda found: found[0] if found[0] in keep else _shown(found[0]), text)


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python holds it in names of files
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
