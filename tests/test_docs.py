"""The documents say what is true: their Python runs, their commands exist, and the generated page is fresh."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from parfocal.cli import COMMANDS
from parfocal.cli.reference import help_of, reference_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP = cache(help_of)
BLOCK = re.compile(r"(?:<!-- (?P<note>not run: [^\n]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language that do not say why they are not run."""
    return [m["code"] for m in BLOCK.finditer(page.read_text()) if m["language"] == language and not m["note"]]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name)
def test_the_python_of_a_page_runs(
    page: Path, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The pages speak of the reader's own slide.svs; a small real one stands in for it.
    shutil.copy(real_data / "slides" / "cmu-1-small-region.svs", tmp_path / "slide.svs")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), scope)

    assert scope


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_a_page_exist_with_their_options(page: Path) -> None:
    calls = [
        line.strip()
        for code in blocks(page, "sh")
        for line in code.replace("\\\n", " ").splitlines()
        if line.strip().startswith("parfocal ")
    ]
    for call in calls:
        name = call.split()[1]
        if name.startswith("--"):
            continue
        assert name in COMMANDS, call
        known = HELP(name)
        for option in re.findall(r"(?<= )--[a-z][a-z-]*", call):
            assert option in known or option == "--traceback", f"{call}: {name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_command_page_is_fresh() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()

    assert page == reference_page(), "docs/cli.md is stale: python -m parfocal.cli.reference > docs/cli.md"
