"""`parfocal completion`."""

import re
from typing import Literal

from tyro.conf import Positional

from parfocal.cli import COMMANDS
from parfocal.cli.command import Answer
from parfocal.cli.help import stored_help
from parfocal.cli.reference import help_of

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
_SCRIPT = """\
_parfocal() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "$word" in
            -*) case "${{COMP_WORDS[1]}}" in
{cases}
                esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _parfocal parfocal
"""


def completion(shell: Positional[Literal["bash", "zsh"]]) -> Answer:
    """Print a script that completes commands, options and files in SHELL: bash or zsh.

    Example:
        parfocal completion bash > ~/.local/share/bash-completion/completions/parfocal

    Args:
        shell: bash, whose script goes into the folder above; or zsh, whose script is sourced in ~/.zshrc.
    """
    script = completion_script(shell)
    return Answer({"shell": shell, "script": script}, tuple(script.splitlines()))


def completion_script(shell: Literal["bash", "zsh"]) -> str:
    """The script, with the options of every command as they are now."""
    cases = []
    for name in COMMANDS:
        options = sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", stored_help(name) or help_of(name))))
        cases.append(f'                {name}) words="{" ".join(options)}" ;;')
    script = _SCRIPT.format(commands=" ".join([*COMMANDS, "--help", "--version"]), cases="\n".join(cases))
    return (_ZSH if shell == "zsh" else "") + script
