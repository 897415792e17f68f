"""From a store and a head to tables and a page; and what an explanation must say where the truth is known."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import bag_of_slide
from parfocal.cli import main
from parfocal.explain import ExplainSettings, ExplainSummary, explain_slides
from parfocal.explain.run import part_names
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.predict import load_head, predict_slides

from .conftest import Panel

PARTS = ("2 mpp alone", "1 mpp alone", "0.5 mpp alone", "2 with 1 mpp", "2 with 0.5 mpp", "1 with 0.5 mpp")
QUIET = ExplainSettings(ends=3, maps=1, pictures=False)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shares(found: ExplainSummary) -> dict[str, float]:
    return {one.name: float(one.share or 0.0) for one in found.parts}


def numbers(rows: list[dict[str, str]], prefix: str) -> np.ndarray:
    """The columns whose names begin so, of all rows."""
    return np.array([[float(value) for name, value in row.items() if name.startswith(prefix)] for row in rows])


@pytest.fixture(scope="module")
def pairing(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> ExplainSummary:
    out = tmp_path_factory.mktemp("why") / "pairing"
    return explain_slides(panel.tiles, panel.head("pairing", "contrast").path, out, QUIET)


def test_where_only_the_pairing_knows_the_label_the_pair_carries_it_and_single_magnifications_nothing(
    pairing: ExplainSummary,
) -> None:
    found = shares(pairing)

    assert tuple(found) == PARTS == part_names(pairing.head)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    assert found["2 with 0.5 mpp"] > 0.9
    assert all(abs(found[name]) < 0.05 for name in PARTS[:3])
    share = f"{found['2 with 0.5 mpp']:.0%}".replace("%", " %").replace("100 %", "all")
    said = f"What 2 mpp and 0.5 mpp show together made up {share} of what tells these 60 slides apart in the score of "
    assert pairing.sentences[0].startswith(said)


@pytest.mark.parametrize(("label", "knows"), [("coarse", "2 mpp alone"), ("fine", "0.5 mpp alone")])
def test_where_one_magnification_knows_the_label_it_carries_it_and_no_pair(
    panel: Panel, tmp_path: Path, label: str, knows: str
) -> None:
    head, slides = panel.head(label, "contrast").path, panel.tiles.slides[::2]
    found = shares(explain_slides(panel.tiles, head, tmp_path / "why", QUIET, slides=slides))

    assert found[knows] > 0.7  # of 30 slides; what is left is means of noise
    assert all(abs(found[name]) < 0.1 for name in PARTS[3:])


def test_every_table_adds_up_and_says_what_predict_says(panel: Panel, pairing: ExplainSummary, tmp_path: Path) -> None:
    predict_slides([panel.tiles], pairing.head.path, tmp_path / "out.csv")
    said = {row["slide"]: float(row["probability_1"]) for row in table(tmp_path / "out.csv")}

    rows = table(pairing.out / "slides.csv")

    assert [row["slide"] for row in rows] == list(panel.tiles.slides)
    base, score = (np.array([float(row[name]) for row in rows]) for name in ("base", "score"))
    assert np.allclose(base + numbers(rows, "shapley_").sum(axis=1), score, rtol=0, atol=1e-6)
    parts = numbers(rows, "own_").sum(axis=1) + numbers(rows, "interaction_").sum(axis=1)
    assert np.allclose(base + parts, score, rtol=0, atol=1e-6)
    for row in rows[:4]:
        assert float(row["probability_1"]) == pytest.approx(said[row["slide"]], abs=1e-5)
        assert row["score_of"] == "1"
        assert row["head"] == pairing.head.digest
        regions = table(pairing.out / "regions" / f"{row['slide']}.csv")
        assert np.allclose(
            [[float(one["x_um"]), float(one["y_um"])] for one in regions], panel.tiles.read(row["slide"]).region_xy_um
        )
        assert {float(one["side_um"]) for one in regions} == {448.0}
        added = numbers(regions, "contribution")[:, 0]
        assert float(row["base"]) + added.sum() == pytest.approx(float(row["score"]), abs=1e-6)
        assert np.allclose(numbers(regions, "shapley_").sum(axis=1), added, rtol=0, atol=1e-6)
        tiles = table(pairing.out / "tiles" / f"{row['slide']}.csv")
        assert len(tiles) == 21 * len(regions)


def test_the_ends_of_a_direction_are_the_regions_that_lie_furthest_along_it(
    panel: Panel, pairing: ExplainSummary
) -> None:
    (probe,) = pairing.head.probes
    assert isinstance(probe, FittedContrast)
    names, mpps = ("2", "1", "0.5"), (2.0, 1.0, 0.5)
    (number,) = [n for n, term in enumerate(probe.terms) if (names[term.first], names[term.second]) == ("2", "0.5")]
    term = probe.terms[number]
    along = list[tuple[float, str, float, float]]()
    for slide in panel.tiles.slides:
        tokens = panel.tiles.read(slide)
        means = bag_of_slide(tokens, mpps[term.second]).region_mean.astype(np.float64)
        projected = (means - means.mean(axis=0)) @ term.v[:, 0]
        along += [(float(one), slide, *xy) for one, xy in zip(projected, tokens.region_xy_um.tolist(), strict=True)]
    along.sort()

    rows = [
        row
        for row in table(pairing.out / "directions.csv")
        if (row["pair"], row["number"], row["mpp"]) == ("2 with 0.5", "1", "0.5")
    ]

    for end, expected in (("top", along[:-4:-1]), ("bottom", along[:3])):
        own = [row for row in rows if row["end"] == end]
        assert [row["place"] for row in own] == ["1", "2", "3"]
        assert [(row["slide"], float(row["x_um"]), float(row["y_um"])) for row in own] == [one[1:] for one in expected]
        assert np.allclose([float(row["projection"]) for row in own], [one[0] for one in expected], atol=1e-5)


def test_the_page_has_a_sentence_a_table_bars_and_a_map(pairing: ExplainSummary) -> None:
    page = pairing.report.read_text()

    assert pairing.sentences[0] in page
    assert "Share of the differences" in page
    assert "Bars of share of the differences: 2 mpp alone: " in page
    assert page.count("Map of What regions add over slide") == 1
    assert "add up to the score before calibration" in page
    described = json.loads((pairing.out / "explain.json").read_text())
    assert described["head"] == pairing.head.digest
    assert described["settings"]["ends"] == 3
    assert [one["name"] for one in described["parts"]] == list(PARTS)


def test_one_slide_is_told_in_its_own_numbers(panel: Panel, tmp_path: Path) -> None:
    slide = panel.tiles.slides[7]
    found = explain_slides(
        panel.tiles, panel.head("pairing", "contrast").path, tmp_path / "why", QUIET, slides=[slide, slide]
    )

    (one,) = found.explained
    assert all(part.share is None for part in found.parts)
    score = f"{one.score[0]:+.3f}".replace("-", "\u2212")
    assert found.sentences[0].startswith(f"{slide}: the score of pairing before calibration is {score}, which is ")
    assert "2 with 0.5 mpp" in found.sentences[0]


def test_every_class_has_parts_of_its_own(few: Panel, tmp_path: Path) -> None:
    found = explain_slides(
        few.tiles, few.head("three", "union").path, tmp_path / "why", QUIET, slides=few.tiles.slides[:4]
    )

    rows = table(tmp_path / "why" / "slides.csv")
    assert found.columns == ("a", "b", "c")
    assert [row["score_of"] for row in rows] == ["a", "b", "c"] * 4
    assert len({row["score"] for row in rows[:3]}) == 3
    for row in rows:
        total = sum(float(row[name]) for name in ("base", "shapley_2", "shapley_1", "shapley_0.5"))
        assert total == pytest.approx(float(row["score"]), abs=1e-6)
        assert sum(float(row[f"probability_{name}"]) for name in "abc") == pytest.approx(1)
    assert len(found.parts) == 3 * len(PARTS)


def test_a_slide_that_cannot_be_read_is_a_row_with_its_reason_and_the_rest_goes_on(
    panel: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, head = tmp_path / "store", panel.head("pairing", "contrast").path
    shutil.copytree(panel.tiles.path, store / panel.tiles.name)
    broken = panel.tiles.slides[1]
    for file in (store / panel.tiles.name).rglob(f"*{broken}*.h5"):
        if "0.5" in str(file):
            file.unlink()
    names = list(panel.tiles.slides[:3])

    status = main(["explain", str(store), "--head", str(head), "-o", str(tmp_path / "why"), "--slides", *names])
    told = capsys.readouterr()

    assert status == 3
    assert f"{broken} failed: " in told.err
    rows = table(tmp_path / "why" / "slides.csv")
    assert [row["slide"] for row in rows] == names
    assert [bool(row["problem"]) for row in rows] == [False, True, False]
    assert f"1 slides have no explanation: {broken}" in (tmp_path / "why" / "report.html").read_text()


def test_what_is_wrong_is_said_in_one_line(panel: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = str(panel.tiles.path), str(tmp_path / "why")
    calls = {
        ("--head", str(panel.head("pairing", "contrast").path), "--slides", "nobody"): (2, "has no slide nobody"),
        ("--head", str(panel.head("fine", "concat").path)): (2, "was not fitted with one of them missing"),
        ("--head", str(tmp_path / "none")): (1, "there is no head at"),
    }
    for call, (status, message) in calls.items():
        assert main(["explain", store, *call, "-o", out]) == status
        told = capsys.readouterr()
        assert message in told.err
        assert not told.out
        assert told.err.count("\n") == 1
    assert not Path(out).exists()


def test_a_head_is_explained_by_its_folder_alone(panel: Panel, pairing: ExplainSummary, tmp_path: Path) -> None:
    copied = shutil.copytree(pairing.head.path, tmp_path / "elsewhere")

    again = explain_slides(panel.tiles.path, copied, tmp_path / "why", QUIET, slides=panel.tiles.slides[:3])

    assert load_head(copied).digest == again.head.digest == pairing.head.digest
    for one, before in zip(again.explained, pairing.explained, strict=False):
        assert np.array_equal(one.shapley, before.shapley)
