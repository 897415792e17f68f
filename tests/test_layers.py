"""The path of a datum as an import rule: a stage may only use what lies before it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "parfocal"

# From the first step to the last. The names inside one entry stand side by side and may not import each other,
# except that a folder may import itself.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"version"}),
    frozenset({"terminal"}),
    frozenset({"errors"}),
    frozenset({"crew", "device", "geometry", "provenance"}),
    frozenset({"config", "progress", "tables"}),
    frozenset({"slides"}),
    frozenset({"regions"}),
    frozenset({"tiles"}),
    frozenset({"encoders"}),
    frozenset({"embeddings"}),
    frozenset({"region_encoder"}),
    frozenset({"pretrain"}),
    frozenset({"bags", "cohort"}),
    frozenset({"probes"}),
    frozenset({"synthetic", "report"}),
    frozenset({"studies"}),
    frozenset({"cli"}),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# What may never be imported, whatever the order says, and why.
FORBIDDEN = {
    ("encoders", "slides"): "a tile encoder never sees a slide",
    ("encoders", "regions"): "a tile encoder never sees a slide",
    ("encoders", "tiles"): "a tile encoder never sees a slide",
    ("report", "region_encoder"): "a report never sees a model",
    ("report", "pretrain"): "a report never sees a model",
    ("report", "probes"): "a report never sees a model",
}


def imported_stages(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The stages of parfocal that a module imports, at its head or inside a function, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("parfocal."):
                    yield alias.name.split(".")[1], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "parfocal":
                for alias in node.names:
                    yield alias.name, node.lineno
            elif node.module.startswith("parfocal."):
                yield node.module.split(".")[1], node.lineno


def violations(stage: str, source: str, where: str = "module") -> list[str]:
    """What a module of `stage` imports against the order, one line each."""
    found = []
    for target, line in imported_stages(ast.parse(source)):
        if target == stage or target.startswith("__"):
            continue
        if target not in RANK:
            found.append(f"{where}:{line} imports parfocal.{target}, which has no place in the order")
        elif RANK[target] >= RANK[stage]:
            found.append(f"{where}:{line} {stage} imports {target}, which comes later on the path or stands beside it")
        elif (stage, target) in FORBIDDEN:
            found.append(f"{where}:{line} {stage} imports {target}: {FORBIDDEN[stage, target]}")
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module with the name of its stage; the package's own front page is not a stage."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        stage = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if stage not in {"__init__", "__main__"}:
            found.append((stage, path))
    return found


def test_every_module_has_a_place_on_the_path() -> None:
    assert {stage for stage, _ in modules()} <= set(RANK)


def test_imports_only_point_back_along_the_path() -> None:
    found = [
        line for stage, path in modules() for line in violations(stage, path.read_text(), str(path.relative_to(SOURCE)))
    ]

    assert found == []


def test_the_rule_itself_can_fail() -> None:
    assert violations("slides", "from parfocal.regions import plan_regions")
    assert violations("slides", "def f():\n    import parfocal.studies.demo")
    assert violations("encoders", "from parfocal.slides import open_slide")
    assert violations("slides", "from parfocal import bags")
    assert not violations("regions", "from parfocal.slides import open_slide")


def test_no_module_is_too_long_to_read() -> None:
    lengths = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for _, path in modules()}

    assert {name: length for name, length in lengths.items() if length > 600} == {}


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("stage", ["", ".slides", ".regions", ".tiles", ".encoders", ".embeddings", ".cli"])
def test_reading_and_embedding_do_not_import_torch(stage: str) -> None:
    assert "torch" not in _modules_after(f"import parfocal{stage}")


def test_the_torch_rule_itself_can_fail() -> None:
    assert "torch" in _modules_after("import parfocal.region_encoder")
