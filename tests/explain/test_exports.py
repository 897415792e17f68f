"""What a run writes for other programs and for people: pages, heatmaps and AnnData, under any name."""

import builtins
import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile

from parfocal.errors import ConfigError, ParfocalWarning
from parfocal.explain import ExplainSettings, ExplainSummary, RegionParts, SlideExplanation, SlideParts, explain_slides
from parfocal.explain.anndata import write_anndata
from parfocal.explain.files import write_slide
from parfocal.explain.heatmaps import part_maps, pictures, write_heatmaps
from parfocal.explain.slide_page import slide_page
from parfocal.files import original_cell
from parfocal.report import make_report
from parfocal.store import EmbeddingSet, open_set, write_tokens

from .conftest import Panel
from .test_run import numbers, table

HOSTILE = (
    "<script>alert(1)</script>",  # with the slash it is a file in a folder
    "=HYPERLINK(\"http:x\")&amp;'quoted'",
    "Фиброма 切片 été",
    "long-" + "x" * 247,
    "%2e%2e%2fup {{ 7*7 }}",
)


class Page(HTMLParser):
    """The tags, the attributes and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.links, self.text = list[str](), list[str](), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def needs_nothing(self) -> bool:
        """Whether it runs nothing and fetches nothing."""
        return "script" not in self.tags and all(link.startswith(("data:", "#")) for link in self.links)


def renamed(tiles: EmbeddingSet, names: tuple[str, ...], store: Path) -> EmbeddingSet:
    """The first slides of a set under other names."""
    path = store / tiles.name
    path.mkdir(parents=True)
    shutil.copy(tiles.path / "settings.json", path)
    for slide, name in zip(tiles.slides, names, strict=False):
        write_tokens(path, replace(tiles.read(slide), slide=name))
    return open_set(path)


@pytest.fixture(scope="module")
def hostile(few: Panel, tmp_path_factory: pytest.TempPathFactory) -> ExplainSummary:
    folder = tmp_path_factory.mktemp("hostile")
    tiles = renamed(few.tiles, HOSTILE, folder / "store")
    settings = ExplainSettings(ends=2, maps=2, anndata=True)
    return explain_slides(tiles, few.head("pairing", "contrast").path, folder / "why", settings)


def test_slides_of_any_name_have_all_their_files_inside_the_folder(hostile: ExplainSummary, few: Panel) -> None:
    import anndata

    assert not hostile.failed
    out = hostile.out
    assert sorted(original_cell(row["slide"]) for row in table(out / "slides.csv")) == sorted(HOSTILE)
    assert {one.name for one in out.parent.iterdir()} == {"store", "why"}
    listed = json.loads((out / "files.json").read_text())
    assert sorted(listed) == sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path.name != "files.json"
    )
    for folder, suffix in (("slides", ".html"), ("regions", ".csv"), ("tiles", ".csv"), ("qupath", ".geojson")):
        found = [path for path in (out / folder).rglob("*") if path.is_file()]
        assert len(found) == len(HOSTILE)
        assert {path.suffix for path in found} == {suffix}
    data = [anndata.read_h5ad(path) for path in (out / "anndata").rglob("*.h5ad")]
    assert sorted(one.obs["slide"].iloc[0] for one in data) == sorted(HOSTILE)
    for name in HOSTILE:
        with tifffile.TiffFile(out / "heatmaps" / name / "values.ome.tif") as file:
            assert tifffile.xml2dict(str(file.ome_metadata))["OME"]["Image"]["Name"] == name
        openslide.OpenSlide(out / "heatmaps" / name / "contribution.ome.tif").close()


def test_pages_show_names_as_text_and_run_nothing(hostile: ExplainSummary) -> None:
    pages = [Page(path) for path in (hostile.out / "slides").rglob("*.html")]

    assert len(pages) == len(HOSTILE)
    for page in (*pages, Page(hostile.report)):
        assert page.needs_nothing
    said = " ".join(page.text for page in pages)
    assert all(name in said for name in HOSTILE)


def test_the_page_of_a_slide_has_its_sentence_its_parts_and_its_maps(
    hostile: ExplainSummary,
) -> None:
    one = next(each for each in hostile.explained if each.slide == HOSTILE[2])
    path = hostile.out / "slides" / f"{HOSTILE[2]}.html"
    page = Page(path)

    assert f"{one.slide}: the score of pairing before calibration is " in page.text
    assert f"probability_1 {one.prediction['probability_1']:.4g}" in page.text
    for value in (one.base[0], *one.own[:, 0], *one.interaction[:, 0], one.score[0]):
        assert f"{value:+.3f}".replace("-", "\u2212") in page.text
    assert page.tags.count("img") == 7
    assert path.stat().st_size < 1 << 20


def test_without_pictures_there_are_tables_alone(few: Panel, tmp_path: Path) -> None:
    settings = ExplainSettings(ends=0, maps=0, pictures=False)

    explain_slides(few.tiles, few.head("pairing", "contrast").path, tmp_path, settings, slides=few.tiles.slides[:1])

    assert {path.name for path in tmp_path.iterdir()} == {
        "explain.json", "files.json", "qupath", "regions", "report.html", "slides.csv", "tiles"
    }  # fmt: skip


def test_without_a_resolution_what_counts_in_pixels_is_left_out_and_said(few: Panel, tmp_path: Path) -> None:
    path = tmp_path / "store" / few.tiles.name
    path.mkdir(parents=True)
    shutil.copy(few.tiles.path / "settings.json", path)
    write_tokens(path, replace(few.tiles.read(few.tiles.slides[0]), slide_mpp=float("nan")))

    with pytest.warns(ParfocalWarning, match="no file for QuPath and no AnnData, .* resolution is not known"):
        summary = explain_slides(
            open_set(path), few.head("pairing", "contrast").path, tmp_path / "why", ExplainSettings(anndata=True)
        )

    assert len(summary.explained) == 1
    made = {path.name for path in (tmp_path / "why").iterdir()}
    assert {"heatmaps", "regions", "slides"} <= made
    assert not {"qupath", "anndata"} & made


def test_a_score_that_is_no_sum_over_regions_has_a_page_without_maps(few: Panel, tmp_path: Path) -> None:
    slide = few.tiles.slides[0]

    explain_slides(few.tiles, few.head("fine", "0.5/mlp").path, tmp_path, ExplainSettings(anndata=True), slides=[slide])

    page = Page(tmp_path / "slides" / f"{slide}.html")
    assert "The score is no sum over regions, so there is no map of it." in page.text
    assert not (tmp_path / "heatmaps").exists()
    assert not (tmp_path / "anndata").exists()


def test_a_second_run_leaves_no_file_of_the_first_ones_slides(few: Panel, tmp_path: Path) -> None:
    head, (first, second) = few.head("pairing", "contrast").path, few.tiles.slides[:2]
    explain_slides(few.tiles, head, tmp_path, ExplainSettings(maps=0), slides=[first])
    (tmp_path / "heatmaps" / first / "mine.txt").write_text("mine")

    explain_slides(few.tiles, head, tmp_path, ExplainSettings(maps=0), slides=[second])

    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if first in str(path)]
    assert left == [f"heatmaps/{first}", f"heatmaps/{first}/mine.txt"]
    assert (tmp_path / "heatmaps" / second / "contribution.png").is_file()


def test_anndata_has_regions_where_they_lie_with_their_parts(hostile: ExplainSummary, few: Panel) -> None:
    import anndata

    data = anndata.read_h5ad(hostile.out / "anndata" / f"{HOSTILE[2]}.h5ad")
    tokens, rows = few.tiles.read(few.tiles.slides[2]), table(hostile.out / "regions" / f"{HOSTILE[2]}.csv")

    assert data.n_obs == len(rows) == tokens.n_regions
    assert np.allclose(data.obs[["x_um", "y_um"]], tokens.region_xy_um)
    assert np.allclose(data.obsm["spatial"], (tokens.region_xy_um + 224) / tokens.slide_mpp)  # the middle, level-0 px
    (library,) = data.uns["spatial"].values()
    assert library["scalefactors"]["spot_diameter_fullres"] == 448 / tokens.slide_mpp
    for name in ("contribution", "shapley_2", "shapley_0.5", "interaction_2_0.5"):
        assert np.allclose(data.obs[name], [float(row[name]) for row in rows])
    known = data.uns["parfocal"]
    (slide,) = [one for one in hostile.explained if one.slide == HOSTILE[2]]
    assert known["base"][0] + data.obs["contribution"].sum() == pytest.approx(data.obs["score"].iloc[0], abs=1e-6)
    assert data.obs["score"].iloc[0] == slide.score[0]
    assert known["slide_mpp"] == tokens.slide_mpp
    assert json.loads(known["settings"])["head"] == hostile.head.digest
    assert list(known["scores"]) == ["1"]


def test_without_anndata_one_line_says_what_to_install(
    few: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "anndata":
            raise ImportError(name)
        return whole(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ConfigError, match=r"pip install 'parfocal\[anndata\]', or leave out --anndata") as raised:
        explain_slides(few.tiles, few.head("pairing", "contrast").path, tmp_path / "why", ExplainSettings(anndata=True))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "why").exists()


def test_scores_of_any_name_are_told_apart_in_every_file(few: Panel, tmp_path: Path) -> None:
    import anndata

    scores, mpps = ("<b>a/b</b>", "../c", "=1+1"), few.tiles.mpps
    tokens, rng = few.tiles.read(few.tiles.slides[0]), np.random.default_rng(0)
    shapley, pairs = rng.normal(size=(3, tokens.n_regions, 3)), rng.normal(size=(3, tokens.n_regions, 3))
    none = np.zeros((3, 3))
    parts = SlideParts(tokens.slide, none[0], none[0], none, none, none, {"probability_<b>a/b</b>": 0.5})
    of = RegionParts(shapley.sum(axis=0), shapley, pairs)
    one = SlideExplanation(parts, tokens.region_xy_um, tokens.region_um, tokens.slide_mpp, of, {})
    maps = part_maps(one, scores, mpps)
    drawn = pictures(one, maps, few.tiles)

    write_slide(one, scores, mpps, tmp_path)
    write_heatmaps(one, maps, drawn, few.tiles, tmp_path / "heatmaps")
    write_anndata(one, maps, scores, tmp_path / "a.h5ad", described={})
    page = slide_page(few.head("pairing", "contrast"), parts, scores, [], maps, drawn, settings={}, inputs={})
    make_report(page, tmp_path / "a.html")

    assert {path.name for path in (tmp_path / "heatmaps").glob("*.png")} == {f"{each.key}.png" for each in maps}
    data = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert list(data.uns["parfocal"]["scores"]) == list(scores)
    assert np.allclose(data.obs["score_2_contribution"], of.contribution[:, 1])
    shown = Page(tmp_path / "a.html")
    assert shown.needs_nothing
    assert "What each part adds to the score of <b>a/b</b>" in shown.text
    assert {row["score_of"] for row in table(tmp_path / "regions" / f"{tokens.slide}.csv")} == {
        "<b>a/b</b>", "../c", "'=1+1"
    }  # fmt: skip
    assert numbers(table(tmp_path / "regions" / f"{tokens.slide}.csv"), "contribution").shape[0] == 3 * tokens.n_regions
