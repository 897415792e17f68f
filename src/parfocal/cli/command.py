"""What all commands share: flags made from a function's signature, and its docstring as the help text."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["Output", "help_text", "parse_and_call"]

Output = Annotated[Path, tyro.conf.arg(aliases=("-o",), metavar="PATH")]
"""Where a command writes: `-o PATH` or `--output PATH`."""


def help_text(function: Callable[..., int]) -> str:
    """The docstring of a command without its `Args`, which stand beside the options already."""
    lines = []
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if line in {"Args:", "Returns:", "Raises:"}:
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines)).strip()


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
