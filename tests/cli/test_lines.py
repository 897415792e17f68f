"""What a command prints: plain, harmless, into a pipe that closes as well; and its help comes at once."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import parfocal.cli.encoders
from parfocal.cli import COMMANDS, main
from parfocal.cli.reference import completion_script, help_of

from ..run import fresh

CLI = Path(parfocal.cli.encoders.__file__).parent
EVIL = "a\x1b[2J\x1b]0;owned\x07\nb"


def glass(path: Path) -> None:
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    pixels = np.full((300, 500, 3), 243, np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", compression="zlib", **resolution)


@pytest.mark.parametrize("command", ["inspect", "embed", "embed --dry-run", "embed --json", "embed twice"])
def test_names_of_files_do_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / f"{EVIL}.svs").write_text("no slide")
    glass(tmp_path / "scans" / f"glass{EVIL}.tif")
    name, *flags = command.replace(" twice", "").split()
    grid = ["--region-um", "128", "--tile-px", "64"]
    more = ["-o", str(tmp_path / "store"), "--encoder", "filterbank,tile_px=64", "--workers", "0"]
    call = [name, str(tmp_path / "scans"), *grid, *(more if name == "embed" else []), *flags]

    main(call)
    if command.endswith("twice"):
        main(call)
    told = capsys.readouterr()

    assert "\x1b" not in told.out + told.err
    assert "\x07" not in told.out + told.err
    assert "\\x1b" in told.out + told.err or "\\u001b" in told.out
    assert not any(line.lstrip().startswith("b") for line in (told.out + told.err).splitlines()), told


def printing(source: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_commands_print_through_the_one_place_that_makes_text_harmless() -> None:
    own = {"command.py", "reference.py"}
    found = {path.name: printing(path.read_text()) for path in CLI.glob("*.py") if path.name not in own}

    assert {name: lines for name, lines in found.items() if lines} == {}
    assert printing("def f():\n    print('x')") == [2]


def run(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    return fresh.run([sys.executable, "-m", "parfocal", *arguments], text=True, stderr=subprocess.PIPE, **how)


@pytest.mark.parametrize("arguments", [["--help"], ["encoders"], ["embed", "--help"]])
def test_a_reader_that_goes_away_is_no_event(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = run(*arguments, stdout=gone)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device is full here")
@pytest.mark.parametrize("arguments", [["--help"], ["encoders", "--json"], ["embed", "--help"]])
def test_a_full_disk_below_stdout_is_named(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*arguments, stdout=full)

    command = "" if "--help" in arguments else f" {arguments[0]}"
    assert (done.returncode, done.stderr) == (1, f"parfocal{command}: cannot use stdout: No space left on device.\n")


@pytest.mark.parametrize("arguments", ["encoders", "--version", "embed --help"])
def test_a_closed_stdout_is_no_fault(arguments: str) -> None:
    call = f"'{sys.executable}' -m parfocal {arguments} >&-"
    done = subprocess.run(["sh", "-c", call], text=True, stderr=subprocess.PIPE, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("name", "flag"), [*((name, "--help") for name in COMMANDS), ("embed", "-h")])
def test_help_is_what_the_parser_says(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, flag]) == 0
    said = capsys.readouterr().out

    assert said.startswith(f"usage: parfocal {name}")
    assert re.sub("-{40,}", "", said).split() == re.sub("-{40,}", "", help_of(name)).split()


HEAVY = ("torch", "numpy", "sklearn", "scipy", "tyro", "pydantic")


def modules_after(code: str) -> set[str]:
    code = f"{code}\nimport sys\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_nothing_that_takes_time() -> None:
    calls = [["--help"], *([name, "--help"] for name in COMMANDS)]
    code = f"from parfocal.cli import main\nfor call in {calls}:\n    assert main(call) == 0, call"

    assert not modules_after(code) & set(HEAVY)


def test_the_rule_of_quick_help_can_fail() -> None:
    assert {"numpy", "tyro"} <= modules_after("import parfocal.cli.encoders")


def test_a_fault_of_ours_is_one_line_and_its_place_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise LookupError("seven\nlines")

    monkeypatch.setattr("parfocal.cli.encoders.available_encoders", fail)

    assert main(["encoders"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == "parfocal encoders: unexpected LookupError: seven lines (a fault of parfocal; --traceback shows where)"
    )
    with pytest.raises(LookupError):
        main(["encoders", "--traceback"])


def complete(script: str, words: list[str], tmp_path: Path, shell: str) -> list[str]:
    """What the shell would offer for the last word."""
    file = tmp_path / "script"
    file.write_text(script)
    line = " ".join(f"'{word}'" for word in words)
    code = f"source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _parfocal; echo ${{COMPREPLY[@]}}"
    done = subprocess.run([shell, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--format", "CLAM"], "format: 'CLAM' is no layout"), (["--pictures", "png", "--jpeg", "500"], "jpeg: ")],
)
def test_an_option_with_a_value_that_cannot_be_is_wrong_usage_and_no_fault(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "store"), "-o", str(tmp_path / "out"), *options]) == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"parfocal export: {says}")
    assert "fault" not in line


def test_completion_knows_commands_and_options(tmp_path: Path) -> None:
    script = completion_script("bash")

    assert complete(script, ["parfocal", "em"], tmp_path, "bash") == ["embed"]
    assert complete(script, ["parfocal", "embed", "scans", "--work"], tmp_path, "bash") == ["--workers"]
    assert set(complete(script, ["parfocal", ""], tmp_path, "bash")) >= set(COMMANDS)
    assert complete(script, ["parfocal", "embed", "scans/"], tmp_path, "bash") == []  # files
    assert completion_script("zsh").endswith(script)
