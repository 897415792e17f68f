"""What all commands share: flags made from a function's signature, its docstring as the help text, and tables."""

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

__all__ = ["Output", "help_text", "parse_and_call", "print_json", "print_table"]

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
    # Without markup: names such as case[1] and extras such as parfocal[onnx] stand as they are.
    Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, markup=False).print(table)


def print_json(value: Any) -> None:
    """Print plain values as JSON for another program."""
    print(json.dumps(value, indent=2))
