"""The path of a datum as an import rule: a stage may only use what lies before it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from .run import fresh

SOURCE = Path(__file__).resolve().parents[1] / "src" / "parfocal"

# From the first step to the last: a folder or file may import those before it. Those side by side in one entry may not
# import each other. Inside a folder imports never run in a circle, and the folders of `lab` have an order of their own.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"version"}),
    frozenset({"terminal", "addresses", "signals"}),
    frozenset({"errors"}),
    frozenset({"geometry", "files", "former", "plugins"}),
    frozenset({"config", "stats", "table"}),
    frozenset({"slides"}),
    frozenset({"run"}),
    frozenset({"regions", "convert"}),
    frozenset({"encoders"}),
    frozenset({"store"}),
    frozenset({"embed", "cohort", "region_encoder"}),
    frozenset({"bags", "pretrain"}),
    frozenset({"export"}),
    frozenset({"heads", "report"}),
    frozenset({"zoom"}),
    frozenset({"evaluate"}),
    frozenset({"predict"}),
    frozenset({"finetune", "budget", "explain", "similar"}),
    frozenset({"study", "testing", "view"}),
    frozenset({"lab"}),
    frozenset({"cli"}),
)
LAB: tuple[frozenset[str], ...] = (
    frozenset({"synthetic"}),
    frozenset({"synergy", "explore", "demo"}),
    frozenset({"prove"}),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
LAB_RANK = {name: rank for rank, names in enumerate(LAB) for name in names}
# What may never be imported, whatever the order says, and why.
FORBIDDEN = {
    ("encoders", "slides"): "a tile encoder never sees a slide",
    ("encoders", "regions"): "a tile encoder never sees a slide",
    ("report", "region_encoder"): "a report never sees a model",
    ("report", "pretrain"): "a report never sees a model",
    ("report", "heads"): "a report never sees a model",
}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of a body and of the bodies in it."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, name, []))
        for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
            yield from _statements(part.body)


@cache
def imported(source: str) -> list[tuple[str, int]]:
    """The dotted names that a module imports of parfocal, at its head or inside a function, with the line."""
    found = []
    for node in _statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(name.removeprefix("parfocal."), node.lineno) for name in names if name.startswith("parfocal.")]
    return found


def violations(stage: str, source: str, where: str = "module") -> list[str]:
    """What a module of `stage` (`slides`, `lab.prove`) imports against the order of folders, one line each."""
    folder, lines = stage.split(".")[0], []
    for name, line in imported(source):
        target = name.split(".")[0]
        if target.startswith("__"):
            continue
        if target not in RANK:
            lines.append(f"{where}:{line} imports parfocal.{target}, which has no place in the order")
        elif target == folder == "lab":
            room, other = stage.split(".")[1], name.split(".")[1]
            if room != other and LAB_RANK[other] >= LAB_RANK[room]:
                lines.append(f"{where}:{line} lab.{room} imports lab.{other}, which comes later or stands beside it")
        elif target == folder:
            continue
        elif RANK[target] >= RANK[folder]:
            lines.append(f"{where}:{line} {folder} imports {target}, which comes later on the path or stands beside it")
        elif (folder, target) in FORBIDDEN:
            lines.append(f"{where}:{line} {folder} imports {target}: {FORBIDDEN[folder, target]}")
    return lines


@cache
def modules() -> dict[str, str]:
    """The source of every module by its dotted name; the package's own front page has no place on the path."""
    paths = {path.relative_to(SOURCE).with_suffix(""): path for path in sorted(SOURCE.rglob("*.py"))}
    return {
        ".".join(name.parts): path.read_text()
        for name, path in paths.items()
        if name.parts[0] not in {"__init__", "__main__"}
    }


def neighbours(folder: str, sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules below a folder each module below it imports; what comes from a folder's front page is the page."""
    inside = {name for name in sources if name.startswith(f"{folder}.")}
    graph: dict[str, set[str]] = {name: set() for name in inside}
    for name in inside:
        for target, _ in imported(sources[name]):
            parts = target.split(".")
            names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
            found = next((each for n in names for each in (n, f"{n}.__init__") if each in inside), None)
            if found is not None and found != name:
                graph[name].add(found)
    return graph


def circle(folder: str, sources: dict[str, str]) -> list[str]:
    """Modules of a folder that import each other in a circle, or nothing."""
    try:
        TopologicalSorter(neighbours(folder, sources)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


FOLDERS = sorted({name.split(".")[0] for name in modules() if "." in name})


def test_every_module_has_a_place_on_the_path() -> None:
    assert {name.split(".")[0] for name in modules()} <= set(RANK)
    assert {name.split(".")[1] for name in modules() if name.startswith("lab.")} - {"__init__"} == set(LAB_RANK)


def test_imports_only_point_back_along_the_path() -> None:
    assert [line for name, source in modules().items() for line in violations(name, source, name)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_inside_a_folder_imports_never_run_in_a_circle(folder: str) -> None:
    assert circle(folder, modules()) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wrong_import_inside_a_folder_is_noticed(folder: str) -> None:
    sources = modules()
    pages = {f"{folder}.__init__"}
    graph = {name: targets - pages for name, targets in neighbours(folder, sources).items() if name not in pages}
    importer, target = next(((name, min(graph[name])) for name in sorted(graph) if graph[name]), sorted(graph)[:2])

    planted = {
        **sources,
        importer: f"{sources[importer]}\nimport parfocal.{target}\n",
        target: f"{sources[target]}\n\ndef f():\n    import parfocal.{importer}\n",
    }

    assert circle(folder, planted)


def test_the_rule_itself_can_fail() -> None:
    assert violations("slides.slide", "from parfocal.regions import plan_regions")
    assert violations("slides.slide", "def f():\n    import parfocal.lab.demo")
    assert violations("encoders.base", "from parfocal.slides import open_slide")
    assert violations("slides.slide", "from parfocal import bags")
    assert violations("lab.synthetic.xscale", "from parfocal.lab.prove import prove")
    assert violations("lab.explore.run", "from parfocal.lab.prove import prove")
    assert not violations("lab.prove.run", "from parfocal.lab.synthetic import draw_cohort")
    assert not violations("regions.plan", "from parfocal.slides import open_slide")


def test_no_module_is_too_long_to_read() -> None:
    lengths = {name: len(source.splitlines()) for name, source in modules().items()}

    assert {name: length for name, length in lengths.items() if length > 600} == {}


WITHOUT_TORCH = """
class Refused:
    def find_spec(name, *more):
        if name == "torch":
            raise SystemExit("torch is asked for")

sys.meta_path.insert(0, Refused)
import parfocal.predict
"""


def test_reading_and_embedding_do_not_import_torch() -> None:
    stages = ("slides", "regions", "encoders", "store", "embed", "cli")
    code = "import sys, parfocal\n" + "\n".join(f"import parfocal.{stage}" for stage in stages)
    code += "\nprint(*sys.modules)\n" + WITHOUT_TORCH  # what does import it asks for it: the rule can fail
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    found = set(done.stdout.split())
    assert {f"parfocal.{stage}" for stage in stages} <= found
    assert "torch" not in found
    assert done.stderr == "torch is asked for\n"


def test_what_fits_and_applies_heads_imports_no_library_of_the_laboratory() -> None:
    # The server has none of these; what it has makes no difference to the rule.
    code = "import sys\nimport parfocal.predict\nprint(*sys.modules)\n"
    code += "import parfocal.lab.synthetic.readability\nprint(*sys.modules)"
    done = fresh.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, later = (set(line.split()) for line in done.stdout.splitlines())

    assert "parfocal.predict" in found
    assert not {"sklearn", "pandas", "pyarrow"} & found
    assert "sklearn" in later  # the rule can fail
