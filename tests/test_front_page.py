"""`import parfocal` offers the whole chain, and what it offers is there."""

import subprocess
import sys

import parfocal
from parfocal.cli import COMMANDS, FUNCTIONS
from parfocal.cli.command import in_python


def test_every_public_name_can_be_had() -> None:
    assert all(getattr(parfocal, name) is not None for name in parfocal.__all__)


def test_no_public_name_hides_a_stage() -> None:
    # A module of the same name would take its place as soon as somebody imports the stage.
    import pkgutil

    assert not {module.name for module in pkgutil.iter_modules(parfocal.__path__)} & set(parfocal.__all__)


def test_the_function_of_every_command_is_public_and_its_help_names_it() -> None:
    assert set(FUNCTIONS) == set(COMMANDS) - {"completion"}
    for command, function in FUNCTIONS.items():
        assert function in parfocal.__all__
        assert in_python(command) == f"In Python: parfocal.{function}. "


def test_public_functions_work_after_every_module_has_been_imported() -> None:
    # An imported folder takes the place of a function of its name; each is called, and says what it lacks.
    code = """
import importlib, pkgutil, types
import parfocal
for module in pkgutil.walk_packages(parfocal.__path__, "parfocal."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in parfocal.__all__:
    value = getattr(parfocal, name)
    assert not isinstance(value, types.ModuleType), name
    if isinstance(value, types.FunctionType):
        try:
            value()
        except TypeError as error:
            assert f"{value.__name__}()" in str(error), (name, error)
        else:
            assert name == "available_encoders", name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
