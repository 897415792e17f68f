"""What other packages add is found by their entry points, and an error in it names the package."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from parfocal.errors import ConfigError, PluginError
from parfocal.plugins import Plugin, Registry

FOLDER = "parfocal_test_things"


@dataclass(frozen=True)
class Thing(Plugin):
    double: Callable[[int], int]


def install(path: Path, package: str, module: str, source: str, name: str, target: str) -> None:
    """A package as an installer leaves it: a module and its dist-info."""
    (path / f"{module}.py").write_text(source)
    info = path / f"{package.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[parfocal.things]\n{name} = {module}:{target}\n")


HEADER = "from tests_things import Thing\n"


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Thing]:
    """A registry whose folder has one file of ours."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "plain.py").write_text(f"{HEADER}\nPLAIN = Thing('plain', lambda number: 2 * number)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "tests_things", sys.modules[__name__])
    yield Registry(Thing, "thing", FOLDER)
    for name in [name for name in sys.modules if name.startswith(FOLDER) or name.startswith("other_thing")]:
        del sys.modules[name]


def test_ours_are_the_files_of_a_folder(things: Registry[Thing]) -> None:
    assert things.names == ("plain",)
    assert things.get("plain").double(2) == 4
    assert things.origin("plain") is None


def test_a_package_adds_one_by_its_entry_point(tmp_path: Path, things: Registry[Thing]) -> None:
    source = f"{HEADER}\nTHING = Thing('odd', lambda number: 2 * number + 1)\n"
    install(tmp_path, "other-things", "other_thing", source, "odd", "THING")

    assert things.names == ("plain", "odd")
    assert "other_thing" not in sys.modules  # listing imports nothing of others
    assert things.get("odd").double(2) == 5
    assert str(things.origin("odd")) == "the thing 'odd' of the package other-things 1.2"


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("import nothing_of_the_kind", "odd", "cannot be imported .ModuleNotFoundError: No module named"),
        ("1 / 0", "odd", "cannot be imported .ZeroDivisionError: division by zero"),
        ("", "odd", "cannot be imported .AttributeError"),
        ("THING = 3", "odd", "leads to a int, and a Thing called 'odd' is expected"),
        (f"{HEADER}\nTHING = Thing('even', abs)", "odd", "leads to one called 'even'"),
        (f"{HEADER}\nTHING = Thing('plain', abs)", "plain", "parfocal itself adds one of that name too"),
    ],
)
def test_an_error_in_a_plug_in_is_one_line_that_names_its_package(
    tmp_path: Path, things: Registry[Thing], source: str, name: str, message: str
) -> None:
    install(tmp_path, "other-things", "other_thing", source, name, "THING")

    with pytest.raises(PluginError, match=message) as error:
        things.get(name)

    assert f"the thing '{name}' of the package other-things 1.2" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_packages_that_add_one_name_are_both_named(tmp_path: Path, things: Registry[Thing]) -> None:
    for package in ("other-things", "third-things"):
        install(tmp_path, package, "other_thing", "", "odd", "THING")

    with pytest.raises(PluginError, match="adds one of that name too") as error:
        things.get("odd")

    assert "other-things 1.2" in str(error.value)
    assert "third-things 1.2" in str(error.value)


def test_what_fails_when_it_runs_names_the_package_too(tmp_path: Path, things: Registry[Thing]) -> None:
    source = f"{HEADER}\nTHING = Thing('odd', lambda number: 1 // number)\n"
    install(tmp_path, "other-things", "other_thing", source, "odd", "THING")

    with pytest.raises(PluginError, match="ZeroDivisionError") as error:
        things.get("odd").double(0)

    assert str(error.value).startswith("the thing 'odd' of the package other-things 1.2")


def test_an_error_of_our_kinds_keeps_its_kind_and_gets_a_note(tmp_path: Path, things: Registry[Thing]) -> None:
    source = (
        f"{HEADER}from parfocal.errors import ConfigError\ndef f(number):\n    raise ConfigError('no')\n"
        "THING = Thing('odd', f)\n"
    )
    install(tmp_path, "other-things", "other_thing", source, "odd", "THING")

    with pytest.raises(ConfigError, match="no") as error:
        things.get("odd").double(0)

    assert error.value.__notes__ == ["in the thing 'odd' of the package other-things 1.2"]
