"""The command line: every command parses, calls its public function (`FUNCTIONS`), and prints.

Data goes to stdout, progress and warnings to stderr. Exit status: 0 done, 1 nothing could be done, 2 wrong usage,
3 some slides failed and the rest is done, 130 and 143 stopped by Ctrl-C and by SIGTERM, 141 nobody reads it any more.
A command's module is imported only when it is called, so that `parfocal --help` answers at once and the steps that need
no torch never import it.
"""

import importlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TextIO

from parfocal.cli.stopping import leave_threads
from parfocal.errors import ConfigError, ParfocalDeprecationWarning, ParfocalError, ParfocalWarning
from parfocal.signals import raised
from parfocal.terminal import discard_output, say, tell
from parfocal.version import __version__

__all__ = ["COMMANDS", "FUNCTIONS", "call", "main", "stored_help"]

COMMANDS = {
    "inspect": "Show what a slide is and what the grid would take from it.",
    "convert": "Write PICTURES that are too large or too slow to read as tiled pyramids.",
    "embed": "Embed the tiles of SLIDES at every magnification into a store.",
    "index": "Make a store of features that other tools have extracted at several magnifications.",
    "pretrain": "Pretrain a region encoder on a STORE by masked embedding modelling.",
    "prove": "Compare the predictions of a MODEL with baselines and controls on regions it never saw.",
    "export-model": "Write a MODEL as one file that runs wherever torch runs, without parfocal.",
    "represent": "Turn the tile embeddings of a STORE into region embeddings.",
    "explore": "Pretrain every cell of a design space and rank the cells by one protocol.",
    "evaluate": "Compare magnifications, mixtures and poolings on a labelled cohort.",
    "budget": "Measure how few fine tiles of a STORE, or of a STUDY, are enough to tell a label.",
    "synergy": "Test, before any training, whether pairing the magnifications of STORE knows a label.",
    "study": "Run the whole chain that a FILE describes and write one report.",
    "fit": "Fit one arm of a STUDY on all of its labelled slides, as a head that predicts new slides.",
    "predict": "Predict SLIDES, or the slides of a store of tile embeddings, with a head that `fit` has made.",
    "explain": "Say what each magnification, pair, region and tile of STORE adds to the score of a head.",
    "view": "Look at the slides of STORE in a browser: regions, magnifications side by side, what a head says and why.",
    "similar": "Find the regions of the cohort in STORE that are most like the one at a place of a slide.",
    "export": "Write the embeddings of STORE in the layout of another tool, or its tiles as pictures.",
    "finetune": "Train a tile encoder, a region encoder and a head together from the pixels of SLIDES.",
    "status": "Show how far STORE is: slides that are done, failed and why, missing, bytes, and the last run's rate.",
    "encoders": "List the tile encoders, what each needs and whether it is installed.",
    "completion": "Print a script that completes commands, options and files in a shell.",
    "demo": "Render a small cohort, run the whole chain on it and write a report.",
}
"""The commands, in the order of a datum's path, with the first line of their help."""

# Of these a stopped run leaves nothing that the next one could go on from; they are short, or only show something.
_NOTHING_KEPT = frozenset(
    {"inspect", "index", "export-model", "explain", "view", "similar", "status", "encoders", "completion"}
)

FUNCTIONS = {
    "inspect": "inspect_slides",
    "convert": "convert_pictures",
    "embed": "embed_slides",
    "index": "index_features",
    "pretrain": "pretrain_encoder",
    "prove": "prove_encoder",
    "export-model": "export_model",
    "represent": "represent_regions",
    "explore": "explore_designs",
    "evaluate": "evaluate_arms",
    "budget": "measure_budgets",
    "synergy": "measure_synergy",
    "study": "run_study",
    "fit": "fit_head",
    "predict": "predict_slides",
    "explain": "explain_slides",
    "view": "view_store",
    "similar": "find_similar",
    "export": "export_features",
    "finetune": "finetune_encoder",
    "status": "read_status",
    "encoders": "available_encoders",
    "demo": "run_demo",
}
"""The function in `parfocal` that a command calls."""

_MODULES = {
    "slides": ("inspect", "embed", "index"),
    "converting": ("convert",),
    "encoders": ("encoders",),
    "models": ("pretrain", "represent", "export-model", "prove", "explore"),
    "cohorts": ("evaluate", "synergy", "study", "demo"),
    "budgets": ("budget",),
    "heads": ("fit", "predict"),
    "explaining": ("explain",),
    "viewing": ("view",),
    "searching": ("similar",),
    "watching": ("status",),
    "exporting": ("export",),
    "finetuning": ("finetune",),
    "reference": ("completion",),
}
"""The module of this folder that a command is in."""

# In an installed package, and in a checkout.
_PAGES = (Path(__file__).with_name("cli.md"), Path(__file__).parents[3] / "docs" / "cli.md")

# An address of the validation library in an error about a flag helps nobody; it is read when the first error is shown.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

_OLD_OPTIONS = {
    "pretrain": {"--devices": "--device", "--workers": "--read-threads"},
    "explore": {"--devices": "--device"},
}
"""Options under another name than they have now; they go with version 0.3."""

_OVERVIEW = """\
parfocal {version}: whole-slide images at several magnifications at once.

Usage: parfocal COMMAND ...

{commands}

parfocal COMMAND --help shows its options and an example.
--traceback, anywhere, shows where an error came from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what comes back is the exit status.

    Args:
        argv: the command and its arguments; those of the process when None, which may then end in here.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # as in a program that a daemon starts
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
    try:
        try:
            status = _main(argv)
        finally:  # also where the parser ends the program, after a help text
            sys.stdout.flush()
    except BrokenPipeError:  # nobody reads it any more, as after `| head`: the status of a program that SIGPIPE ends
        discard_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        tell(f"parfocal: cannot use stdout: {error.strerror or error}.")
        status = 1
    if argv is None:
        leave_threads(status)
    return status


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    name, *rest = arguments or [""]
    if name == "--version":
        say(__version__)
        return 0
    if name in {"", "-h", "--help"}:
        width = max(map(len, COMMANDS))
        listing = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
        say(*_OVERVIEW.format(version=__version__, commands=listing).splitlines())
        return 0 if arguments else 2
    if name not in COMMANDS:
        tell(f"parfocal: there is no command {name!r}. Choose one of: {', '.join(COMMANDS)}.")
        return 2
    text = stored_help(name) if {"-h", "--help"} & set(rest) else None
    if text is not None:
        say(*text.splitlines())
        return 0
    with warnings.catch_warnings(), raised() as signals:
        warnings.simplefilter("default", ParfocalWarning)
        warnings.simplefilter("default", ParfocalDeprecationWarning)
        warnings.showwarning = _show_warning
        status = 0
        for old, new in _OLD_OPTIONS.get(name, {}).items():
            if old in rest:
                tell(f"parfocal {name}: {old} is called {new} now; the old name goes with version 0.3.")
                rest = [new if argument == old else argument for argument in rest]
        try:
            status = _run(name, rest, show_traceback=show_traceback)
        except KeyboardInterrupt:
            signals.append(signals[-1] if signals else signal.SIGINT)
        if signals:
            kept = "" if name in _NOTHING_KEPT else "; what is done is kept, and the same command goes on"
            tell(f"parfocal {name}: stopped{kept}.")
            return 128 + signals[0]
        return status


def stored_help(name: str) -> str | None:
    """The help text of a command as `docs/cli.md` has it, without the import of a library; None where it is not there.

    A test keeps the page equal to what the parser itself would show, which takes seconds to import.
    """
    page = next((page for page in _PAGES if page.is_file()), None)
    if page is None:
        return None
    found = re.search(rf"^## parfocal {re.escape(name)}\n.*?^```text\n(.*?)^```$", page.read_text(), re.M | re.S)
    if found is None:
        return None
    width = get_terminal_size((100, 24)).columns
    return re.sub(r"-{40,}", lambda rule: rule[0][: max(1, width - 2)], found[1].rstrip())


def call(name: str, arguments: Sequence[str]) -> int:
    """Call the function that is called like the command, in its module of this folder; the exit status."""
    module = next(module for module, names in _MODULES.items() if name in names)
    command = getattr(importlib.import_module(f"parfocal.cli.{module}"), name.replace("-", "_"))
    return int(importlib.import_module("parfocal.cli.command").run_command(name, command, arguments))


def _run(name: str, arguments: Sequence[str], *, show_traceback: bool) -> int:
    """The exit status of a command; what goes wrong is one line."""
    try:
        return call(name, arguments)
    except BrokenPipeError:
        raise
    except Exception as error:
        if show_traceback:
            raise
        kind, said = type(error).__name__, " ".join(str(error).split()) or "no message"
        # What a command puts together of its options may be no settings; pydantic is not imported to know that kind.
        is_no_setting = kind == "ValidationError"
        if isinstance(error, ParfocalError):
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            line = f"{kind}: {error}{notes}"
        elif isinstance(error, OSError):  # a full disk, a folder without permission, a file in a folder's place
            where = f" {error.filename}" if error.filename else ""
            line = f"cannot use{where}: {error.strerror or error}."
        elif is_no_setting:
            line = importlib.import_module("parfocal.config").first_problem(error)
        else:
            line = f"unexpected {kind}: {said} (a fault of parfocal; --traceback shows where)"
        tell(f"parfocal {name}: {line}")
        return 2 if is_no_setting or isinstance(error, ConfigError) else 1


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of ours as one line; a library's with the place that it speaks of."""
    ours = issubclass(category, (ParfocalWarning, ParfocalDeprecationWarning))
    place = "" if ours else f" ({category.__name__}, {filename}:{lineno})"
    tell(f"parfocal: warning: {message}{place}")
