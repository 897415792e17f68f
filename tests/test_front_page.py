"""`import parfocal` offers the whole chain, and what it offers is there."""

import importlib
import pkgutil
import re
import types

import pytest

import parfocal
from parfocal.cli import COMMANDS, FUNCTIONS
from parfocal.cli.command import in_python

from .run.forked import forked


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(parfocal, name) is not None for name in parfocal.__all__)


def test_no_public_name_hides_a_stage() -> None:
    # A module of the same name would take its place as soon as somebody imports the stage.
    assert not {module.name for module in pkgutil.iter_modules(parfocal.__path__)} & set(parfocal.__all__)


def test_the_function_of_every_command_is_public_and_its_help_names_it() -> None:
    assert set(FUNCTIONS) == set(COMMANDS) - {"completion"}
    for command, function in FUNCTIONS.items():
        assert function in parfocal.__all__
        assert in_python(command) == f"In Python: parfocal.{function}. "


def _call_all_functions() -> None:
    # An imported folder takes the place of a function of its name; each is called, and says what it lacks.
    for module in pkgutil.walk_packages(parfocal.__path__, "parfocal."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in parfocal.__all__:
        value = getattr(parfocal, name)
        assert not isinstance(value, types.ModuleType), name
        if isinstance(value, types.FunctionType) and name != "available_encoders":
            with pytest.raises(TypeError, match=re.escape(f"{value.__name__}()")):
                value()


def test_public_functions_work_after_every_module_has_been_imported() -> None:
    ended = forked(_call_all_functions)
    assert ended.status == 0, ended.stderr
