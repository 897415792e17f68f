"""The examples run as they stand, on data that the package makes; the notebook ends with a picture."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from parfocal.lab import synthetic
from parfocal.lab.synthetic import RenderSettings, render_slide
from parfocal.lab.synthetic.rendered import SlideDesign

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
# One embeds as the other does, and a rerun embeds only what is missing.
SAME_OUT = {"features_of_trident": "embed_and_read"}


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outs")


@pytest.fixture(autouse=True)
def _each_slide_is_rendered_once(outs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several begin with the same slide, which is copied from the first of them: a design has one picture."""

    def rendered(design: SlideDesign, settings: RenderSettings, path: Path) -> None:
        kept = outs / f"rendered-{hash((design, settings))}.tif"
        if not kept.exists():
            render_slide(design, settings, kept)
        shutil.copy(kept, path)

    monkeypatch.setattr(synthetic, "render_slide", rendered)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs(
    script: Path, outs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = outs / SAME_OUT.get(script.stem, script.stem)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [str(script), str(out)])
    runpy.run_path(str(script), run_name="__main__")

    assert capsys.readouterr().out.strip()
    assert out.is_dir()


def test_an_example_is_short() -> None:
    assert {script.name: n for script in SCRIPTS if (n := len(script.read_text().splitlines())) > 60} == {}


def test_the_notebook_opens_a_slide_and_ends_with_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "slide_to_picture.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    scope: dict[str, object] = {}
    for source in sources:
        *lines, last = source.splitlines()
        shows = last.startswith("Image.")
        exec(compile("\n".join([*lines, f"shown = {last}" if shows else last]), "cell", "exec"), scope)

    shown = scope["shown"]
    assert isinstance(shown, Image.Image)
    assert len({colour for _, colour in shown.getcolors(1 << 20) or ()}) > 16
