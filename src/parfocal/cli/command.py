"""What all commands share: flags from a function's signature, its docstring as the help text, and how they answer."""

import inspect
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from parfocal.cli import FUNCTIONS
from parfocal.run import FailedSlide
from parfocal.terminal import printable, say, tell, write_out

Output = Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="PATH")]
"""Where a command writes: `-o PATH` or `--output PATH`."""

_SECTIONS = {"Args:", "Returns:", "Raises:"}
_PIPE_WIDTH = 200


@dataclass(frozen=True)
class Answer:
    """What a command has to say.

    Attributes:
        data: all of it as plain values, for `--json`.
        shown: lines and tables for a person, on stdout.
        told: what a person should know besides, on stderr.
        status: the exit status.
    """

    data: Any
    shown: tuple[str | Table, ...] = ()
    told: tuple[str, ...] = ()
    status: int = 0


def help_text(function: Callable[..., Answer]) -> str:
    """The docstring of a command without the sections that stand beside the options already."""
    lines = []
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if line in _SECTIONS:
            break
        lines.append(line)
    return "\n".join(lines).strip()


def in_python(name: str) -> str:
    """The function that a command calls, as a line of its help; nothing where there is none."""
    return f"In Python: parfocal.{FUNCTIONS[name]}. " if name in FUNCTIONS else ""


def run_command(name: str, command: Callable[..., Answer], argv: Sequence[str]) -> int:
    """Parse `argv` into the arguments of a command, call it, print its answer, and return its exit status.

    Nested settings lose their prefix (`--mpps`, not `--grid.mpps`): a command never has two of a kind.
    """
    # The parser would keep line ends inside an argument's help; of a wrapped function it reads the inner one's text.
    text = re.sub(r"\n {12,}(?=\S)", " ", command.__doc__ or "")
    command.__doc__ = inspect.unwrap(command).__doc__ = text
    answer: Answer = tyro.cli(
        command,
        prog=f"parfocal {name}",
        args=[argument for argument in argv if argument != "--json"],
        description=f"{help_text(command)}\n\n{in_python(name)}--json prints JSON in place of text.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    if "--json" in argv:
        write_out(json.dumps(answer.data, indent=2, default=str) + "\n")
    else:
        for part in answer.shown:
            print_table(part) if isinstance(part, Table) else say(part)
    tell(*answer.told)
    return answer.status


def failed_lines(failed: Iterable[FailedSlide]) -> tuple[str, ...]:
    """Each slide that failed, in a line."""
    return tuple(f"{one.slide} failed: {one.error}: {one.message}" for one in failed)


def print_table(table: Table, *, to_stderr: bool = False) -> None:
    """Print a table; into a file or a pipe at a width that cuts nothing off."""
    stream = sys.stderr if to_stderr else sys.stdout
    shown = copy(table)
    shown.title = printable(table.title) if isinstance(table.title, str) else table.title
    shown.columns = [
        replace(column, _cells=[printable(cell) if isinstance(cell, str) else cell for cell in column.cells])
        for column in table.columns
    ]
    is_terminal = stream.isatty()
    text = io.StringIO()
    # Without markup: names such as case[1] and extras such as parfocal[onnx] stand as they are. Not straight to the
    # stream, because the console ends the program where nobody reads it.
    width = get_terminal_size().columns if is_terminal else _PIPE_WIDTH
    Console(file=text, width=width, markup=False, force_terminal=is_terminal).print(shown)
    if to_stderr:
        print(text.getvalue(), end="", file=stream)
    else:
        write_out(text.getvalue())
