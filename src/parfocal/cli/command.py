"""What all commands share: flags made from a function's signature, its docstring as the help text, and tables."""

import inspect
import io
import json
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from parfocal.cli.lines import say, tell
from parfocal.terminal import printable

__all__ = ["Output", "help_text", "parse_and_call", "print_json", "print_table", "say", "tell"]

Output = Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="PATH")]
"""Where a command writes: `-o PATH` or `--output PATH`."""

_SECTIONS = {"Args:", "Returns:", "Raises:"}
_PIPE_WIDTH = 200


def help_text(function: Callable[..., int]) -> str:
    """The docstring of a command without the sections that stand beside the options already."""
    lines = []
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if line in _SECTIONS:
            break
        lines.append(line)
    return "\n".join(lines).strip()


def parse_and_call(name: str, function: Callable[..., int], argv: Sequence[str]) -> int:
    """Parse `argv` into the arguments of `function`, call it, and return its exit status.

    Nested settings lose their prefix (`--mpps`, not `--grid.mpps`): a command never has two of a kind.
    """
    return int(
        tyro.cli(
            function,
            prog=f"parfocal {name}",
            args=list(argv),
            description=help_text(function),
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    )


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
    print(text.getvalue(), end="", file=stream)


def print_json(value: Any) -> None:
    """Print plain values as JSON for another program."""
    print(json.dumps(value, indent=2))
