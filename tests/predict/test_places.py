"""A head of places: what it says is what the evaluation measured, and it is refused where it does not fit."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal import embed_slides, evaluate_places, fit_places, load_head, predict_places, predict_slides
from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cli import main
from parfocal.embed import EmbedSettings
from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.evaluate.places import PlaceFitSettings, PlaceSettings
from parfocal.evaluate.places.reading import PlaceData, read_place_data
from parfocal.evaluate.places.rows import all_model_blocks, read_made, rows_at
from parfocal.predict import PlaceHead, PredictSettings, load_place_head
from parfocal.regions import read_places
from parfocal.store import EmbeddingSet, open_set

from ..evaluate.drawn_places import N, draw_places, write_predicting_model
from .scans import ENCODER, GRID, Scanned

SLIDES = ("a1", "a2", "b1", "c1")
TARGETS = ("coarse", "around", "here")
ARM = "mixed+context"


def ignore(_: object) -> None:
    """Listen to nothing."""


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values_of(rows: list[dict[str, str]], names: tuple[str, ...] = TARGETS) -> np.ndarray:
    return np.array([[float(row[name]) for name in names] for row in rows])


class Drawn:
    """Slides with known targets, a new slide, and a head."""

    def __init__(self, folder: Path) -> None:
        (folder / "known").mkdir()
        (folder / "new").mkdir()
        self.tiles = draw_places(folder / "known", SLIDES)
        self.spots = folder / "known" / "spots.csv"
        self.new = draw_places(folder / "new", ("d1", "d2"), seed=40)
        self.new_spots = folder / "new" / "spots.csv"
        self.head = fit_places([self.tiles], self.spots, TARGETS, ARM, folder / "head", on_event=ignore)

    def read(self) -> PlaceData:
        return read_place_data([self.tiles], read_places(self.spots, TARGETS))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return Drawn(tmp_path_factory.mktemp("places-head"))


def rows_of(tiles: EmbeddingSet, slide: str) -> dict[str, np.ndarray]:
    tokens = tiles.read(slide)
    found = rows_at(tokens, tiles.tile_um_of(tokens), [], tokens.region_xy_um + tokens.region_um / 2)
    assert found.there.all()
    return {name: rows.astype(np.float64) for name, rows in found.blocks.items()}


def by_hand(data: PlaceData, head: PlaceHead, new: dict[str, np.ndarray], *, centred: bool) -> np.ndarray:
    """Components by a singular value decomposition, the ridge by its normal equations; slides are of one size."""

    def about_slide(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        return np.concatenate([part - part.mean(axis=0) * centred for part in np.split(rows, len(SLIDES))])

    seen, told = [], []
    for _, name in head.facts.blocks:
        rows, own = about_slide(data.blocks[name]), new[name] - new[name].mean(axis=0) * centred
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        z = (rows - mean) / scale
        _, singular, across = np.linalg.svd(z, full_matrices=False)
        spread = singular / np.sqrt(len(z))
        if head.facts.preparation == "rotated":
            spread = np.full_like(spread, np.sqrt((spread**2).mean()))
        width = len(spread) * len(head.facts.blocks)
        seen.append(z @ across.T / spread / np.sqrt(width))
        told.append((own - mean) / scale @ across.T / spread / np.sqrt(width))
    x, y = np.concatenate(seen, axis=1), about_slide(data.target)
    spread = y.std(axis=0)
    off = x - x.mean(axis=0)
    system = off.T @ off / len(x) + head.facts.penalty * np.eye(x.shape[1])
    weight = np.linalg.solve(system, off.T @ ((y - y.mean(axis=0)) / spread) / len(x)) * spread
    return np.asarray((np.concatenate(told, axis=1) - x.mean(axis=0)) @ weight + y.mean(axis=0))


@pytest.mark.parametrize("centred", [True, False])
def test_predictions_are_those_of_a_ridge_by_hand(drawn: Drawn, tmp_path: Path, centred: bool) -> None:
    settings = PlaceFitSettings(centre=centred)
    head = fit_places([drawn.tiles], drawn.spots, TARGETS, ARM, tmp_path / "head", settings, on_event=ignore)

    summary = predict_places([drawn.new], head.path, tmp_path / "out.csv", on_event=ignore)

    for one in summary.predicted:
        expected = by_hand(drawn.read(), head, rows_of(drawn.new, one.slide), centred=centred)
        np.testing.assert_allclose(one.value, expected, atol=1e-6)
        assert np.abs(one.value).max() > 0.5
    rows = table_of(tmp_path / "out.csv")
    assert {row["about_slide_mean"] for row in rows} == {str(int(centred))}
    of_first = values_of([row for row in rows if row["slide"] == "d1"])
    np.testing.assert_allclose(of_first, summary.predicted[0].value, rtol=1e-5)
    assert (np.abs(of_first.mean(axis=0)).max() < 1e-5) == centred


def test_what_is_predicted_is_what_was_evaluated(drawn: Drawn, tmp_path: Path) -> None:
    # Every slide is a fold of its own, so that a head of the others says what the evaluation said of it.
    found = evaluate_places(
        [drawn.tiles], drawn.spots, TARGETS, tmp_path / "report", PlaceSettings(arms=(ARM,)), on_event=ignore
    )
    lines = drawn.spots.read_text().splitlines()
    others = tmp_path / "others.csv"
    others.write_text("\n".join(line for line in lines if not line.startswith("c1")))
    head = fit_places([drawn.tiles], others, TARGETS, ARM, tmp_path / "head", on_event=ignore)

    summary = predict_places([drawn.tiles], head.path, tmp_path / "out.csv", on_event=ignore)

    [of_c1] = [one for one in summary.predicted if one.slide == "c1"]
    is_c1 = np.array(found.data.slides) == "c1"
    np.testing.assert_allclose(of_c1.value, found.arm(ARM).prediction[is_c1], atol=1e-6)
    # And the head says of itself what the evaluation of all slides says of the arm.
    assert drawn.head.facts.metric.estimate == pytest.approx(found.arm(ARM).interval.estimate, abs=1e-9)
    assert drawn.head.facts.metric.low == pytest.approx(found.arm(ARM).interval.low, abs=1e-9)
    said = {one.name: one.estimate for one in drawn.head.facts.targets}
    assert said == pytest.approx(dict(zip(found.data.names, found.arm(ARM).by_target, strict=True)), abs=1e-9)


def test_a_head_is_kept_and_says_the_same(drawn: Drawn, tmp_path: Path) -> None:
    loaded = load_place_head(drawn.head.path)
    rows = rows_of(drawn.new, "d1")
    slide = np.zeros(N, np.int64)

    np.testing.assert_array_equal(loaded.fitted.predict(rows, slide), drawn.head.fitted.predict(rows, slide))
    assert loaded.digest == drawn.head.digest
    again = fit_places([drawn.tiles], drawn.spots, TARGETS, ARM, tmp_path / "again", on_event=ignore)
    assert again.digest == loaded.digest
    page = (drawn.head.path / "head.html").read_text()
    assert "about the mean of their slide" in page
    assert "no calibration" in page

    arrays = drawn.head.path / "head.safetensors"
    broken = tmp_path / "again"
    (broken / arrays.name).write_bytes(arrays.read_bytes()[:-8] + bytes(8))
    with pytest.raises(StoreError, match=r"not the file that head\.json names"):
        load_place_head(broken)


def test_places_of_a_file_keep_its_order_and_those_without_a_region_say_so(drawn: Drawn, tmp_path: Path) -> None:
    lines = drawn.new_spots.read_text().splitlines()
    asked = tmp_path / "asked.csv"
    of_d1 = [line for line in lines[1:] if line.startswith("d1")]
    asked.write_text("\n".join([lines[0], *of_d1[::-1], "d1,30000,300,,,,high,d"]) + "\n")
    told: list[Any] = []

    summary = predict_places(
        [drawn.new], drawn.head.path, tmp_path / "out.csv", places=asked, on_event=told.append
    )  # fmt: skip
    everywhere = predict_places([drawn.new], drawn.head.path, tmp_path / "all.csv", maps=0, on_event=ignore)

    rows = table_of(tmp_path / "out.csv")
    assert [row["slide"] for row in rows] == ["d1"] * (N + 1)
    assert rows[-1]["coarse"] == ""
    assert rows[-1]["problem"].startswith("no region")
    np.testing.assert_allclose(values_of(rows[:-1])[::-1], everywhere.predicted[0].value, rtol=1e-5, atol=1e-6)
    texts = [one.text for one in told if hasattr(one, "text")]
    assert any("1 slides have no place in asked.csv and are left out: d2" in text for text in texts)
    assert any("1 places have no region" in text for text in texts)
    [measured] = [one.measured for one in summary.predicted]
    assert measured[0, 0] == pytest.approx(float(of_d1[-1].split(",")[3]))
    page = (tmp_path / "out-maps" / "d1.html").read_text()
    assert "measured" in page
    assert "predicted" in page
    assert everywhere.maps == ()
    assert not (tmp_path / "all-maps").exists()


def test_a_class_is_a_score_that_tells_it_from_the_others(drawn: Drawn, tmp_path: Path) -> None:
    head = fit_places([drawn.tiles], drawn.spots, ["kind"], "context", tmp_path / "head", on_event=ignore)

    predict_places([drawn.new], head.path, tmp_path / "out.csv", places=drawn.new_spots, on_event=ignore)

    [target] = head.facts.targets
    assert (target.name, target.column, target.class_name, target.metric) == ("kind=low", "kind", "low", "AUC")
    score = values_of(table_of(tmp_path / "out.csv"), ("kind=low",))[:, 0]
    is_low = np.array([row["kind"] == "low" for row in table_of(drawn.new_spots)])
    above = (score[is_low][:, None] > score[~is_low]).mean()
    assert above > 0.9
    assert target.estimate == pytest.approx(above, abs=0.08)


def test_the_most_variable_targets_are_chosen_once(drawn: Drawn, tmp_path: Path) -> None:
    settings = PlaceFitSettings(most_variable=2)

    head = fit_places([drawn.tiles], drawn.spots, TARGETS, ARM, tmp_path / "head", settings, on_event=ignore)

    # The mean of sixteen draws varies a quarter as much as one draw.
    assert [one.name for one in head.facts.targets] == ["coarse", "here"]
    assert min(one.estimate or 0 for one in head.facts.targets) > 0.9


def test_other_embeddings_are_refused_in_one_line(drawn: Drawn, tmp_path: Path) -> None:
    other = draw_places(tmp_path, ("d1",), encoder="another")

    with pytest.raises(MismatchError, match="the head was fitted on those of") as caught:
        predict_places([other], drawn.head.path, tmp_path / "out.csv")

    assert "\n" not in str(caught.value)
    facts = json.loads((drawn.head.path / "head.json").read_text())
    facts["tiles"]["mpps"], facts["parfocal_head"] = [2.0, 0.5], 3
    facts["tiles"]["encoder_digests"].pop("1")
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for name in ("head.safetensors", "head.html"):
        (fewer / name).write_bytes((drawn.head.path / name).read_bytes())
    (fewer / "head.json").write_text(json.dumps(facts))
    with pytest.raises(MismatchError, match=r"the magnifications 2, 1, 0\.5 mpp"):
        predict_places([drawn.new], fewer, tmp_path / "out.csv")


def test_what_cannot_be_a_head_of_places_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no arm 'noise' to use at places; these sets allow 2, 1, 0\.5"):
        fit_places([drawn.tiles], drawn.spots, TARGETS, "noise", tmp_path / "head")
    flat = tmp_path / "flat.csv"
    # Three times a tenth about its mean is not quite nothing.
    rows = [f"{slide},{224 + 100 * n},300,{level},{n}" for slide, level in (("a1", 0.1), ("b1", 2)) for n in range(3)]
    flat.write_text("\n".join(["slide,x_um,y_um,level,problem", *rows]))
    with pytest.raises(ConfigError, match="nothing is left of it"):
        fit_places([drawn.tiles], flat, ["level"], ARM, tmp_path / "head", on_event=ignore)
    with pytest.raises(ConfigError, match="a column 'problem' of their own"):
        fit_places([drawn.tiles], flat, ["problem"], ARM, tmp_path / "head", on_event=ignore)
    with pytest.raises(ConfigError, match="predicts places inside slides"):
        load_head(drawn.head.path)
    with pytest.raises(ConfigError, match="predicts places inside slides"):
        predict_slides([drawn.new], drawn.head.path, tmp_path / "out.csv")
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("slide,x_um,y_um\nz9,1,1\n")
    with pytest.raises(ConfigError, match="no slide has a place in"):
        predict_places([drawn.new], drawn.head.path, tmp_path / "out.csv", places=elsewhere)


def test_the_commands_fit_and_predict(drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, table = tmp_path / "head", tmp_path / "out.csv"
    fit = ["fit", str(drawn.tiles.path), "--places", str(drawn.spots), "--arm", ARM, "-o", str(head)]

    assert main([*fit, "--target", *TARGETS, "--group", "patient", "--folds", "3"]) == 0
    shown = capsys.readouterr().out
    assert "240 places of 4 slides of 3 groups" in shown
    assert "about the mean of their slide" in shown
    assert main(["predict", str(drawn.new.path), "--head", str(head), "-o", str(table), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert (said["slides"], said["places"], len(said["maps"])) == (2, 2 * N, 2)
    assert len(table_of(table)) == 2 * N


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "x.csv"], "--labels is about whole slides"),
        (["--repeats", "7"], "--repeats is about whole slides"),
        (["--target"], "needs --target"),
    ],
)
def test_what_is_about_slides_is_refused_at_places(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    fit = ["fit", str(drawn.tiles.path), "--places", str(drawn.spots), "--arm", ARM, "-o", str(tmp_path / "head")]

    assert main([*fit, "--target", "here", *words]) in (1, 2)
    assert said in " ".join(capsys.readouterr().err.split())


def test_slides_are_embedded_around_the_places_that_are_asked(scanned: Scanned, tmp_path: Path) -> None:
    (tmp_path / "quick.py").write_text(ENCODER)
    slides = sorted((scanned.folder / "slides").iterdir())[:4]
    rng = np.random.default_rng(3)
    rows = [f"{path.stem},{x:.1f},{y:.1f}" for path in slides for x, y in rng.uniform((30, 30), (140, 80), (9, 2))]
    spots = tmp_path / "spots.csv"
    spots.write_text("\n".join(["slide,x_um,y_um,t", *(f"{row},{rng.normal():.3f}" for row in rows)]))
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", places=spots)
    embedded = embed_slides(slides, tmp_path / "store", settings)
    head = fit_places([embedded.set_path], spots, ["t"], "mixed", tmp_path / "head", on_event=ignore).path
    new = tmp_path / "new.csv"
    new.write_text("slide,x_um,y_um\nn0,50.25,60\nn0,71,40.5\nn0,90,50\nn1,60,60\nn1,61,62\n")
    how = PredictSettings(encoder=scanned.encoder)

    summary = predict_places([scanned.new_slides], head, tmp_path / "out.csv", how, places=new, on_event=ignore)

    # A slide without a place fails in its own line, and the rest goes on.
    assert {one.slide for one in summary.failed} == {f"n{number}" for number in range(2, 4)}
    assert summary.exit_status == 3
    assert [one.xy_um.tolist() for one in summary.predicted] == [
        [[50.25, 60], [71, 40.5], [90, 50]], [[60, 60], [61, 62]],
    ]  # fmt: skip
    # The region around a place that was asked for is that of a store embedded there.
    again = predict_places([summary.tiles], head, tmp_path / "again.csv", how, places=new, on_event=ignore)
    for first, second in zip(summary.predicted, again.predicted, strict=True):
        np.testing.assert_array_equal(first.value, second.value)
        assert first.offset_um.max() < 1e-6
    assert (tmp_path / "out-maps" / "n0.html").is_file()
    with pytest.raises(ConfigError, match="names Python code as its tile encoder"):
        predict_places([scanned.new_slides], head, tmp_path / "out.csv", places=new)


@pytest.mark.parametrize(("readout", "beside"), [("cls", "+mixed"), ("tokens", ""), ("tokens", "+mixed+context")])
def test_an_arm_of_a_region_encoder_takes_it_along(scanned: Scanned, tmp_path: Path, readout: str, beside: str) -> None:
    [tiles] = [open_set(path.parent) for path in scanned.store.glob("*/settings.json")]
    lines = ["slide,x_um,y_um,t"]
    rng = np.random.default_rng(5)
    for slide in tiles.slides[:5]:
        tokens = tiles.read(slide)
        lines += [f"{slide},{x},{y},{rng.normal():.3f}" for x, y in (tokens.region_xy_um + tokens.region_um / 2)]
    spots = tmp_path / "spots.csv"
    spots.write_text("\n".join(lines))
    [made] = [open_set(path.parent) for path in scanned.regions.glob(f"*-{readout}/settings.json")]
    arm = f"mem/{readout}{beside}"
    with pytest.raises(ConfigError, match="Name its folder: --model FOLDER"):
        fit_places([tiles, made], spots, ["t"], arm, tmp_path / "head", on_event=ignore)
    head = fit_places([tiles, made], spots, ["t"], arm, tmp_path / "head", models=[scanned.model], on_event=ignore)

    new = predict_places([scanned.new_store], head.path, tmp_path / "out.csv", on_event=ignore)
    some = replace(tiles, slides=tiles.slides[:3])
    again = predict_places([some], head.path, tmp_path / "again.csv", maps=0, on_event=ignore)

    assert head.readouts == (readout,)
    assert len(new.predicted) == 4
    assert not new.failed
    # What the head's own copy of the model makes of training slides is what it was fitted on.
    assert len(again.predicted) == 3
    for one in again.predicted:
        tokens = tiles.read(one.slide)
        known = [(all_model_blocks(made, tiles), read_made(made, one.slide))]
        rows = rows_at(tokens, tiles.tile_um_of(tokens), known, one.xy_um)
        expected = head.fitted.predict(rows.blocks, np.zeros(len(one.xy_um), np.int64))
        np.testing.assert_allclose(one.value, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arm", "read"), [("mem/decoded/from-2", (2.0,)), ("mem/decoded/from-2+mixed", (2.0, 1.0, 0.5))]
)
def test_a_head_of_predicted_tiles_reads_what_its_region_encoder_is_given_and_its_blocks_need(
    drawn: Drawn, tmp_path: Path, arm: str, read: tuple[float, ...]
) -> None:
    model = write_predicting_model(tmp_path / "mem")
    how = RepresentSettings(readouts=("decoded",), read_mpps=(2.0,))
    made = represent_regions(drawn.tiles, model, tmp_path / "regions", how).sets
    head = fit_places(
        [drawn.tiles, *made], drawn.spots, TARGETS, arm, tmp_path / "head", models=[model], on_event=ignore
    )

    summary = predict_places([drawn.new], head.path, tmp_path / "out.csv", on_event=ignore)

    assert head.facts.tiles.mpps == read
    assert head.facts.model is not None
    assert (head.facts.model.read_mpps, head.facts.model.predict_mpp) == ((2.0,), 0.5)
    measured = values_of(table_of(drawn.new_spots))
    [of_d1] = [one.value for one in summary.predicted if one.slide == "d1"]
    assert np.corrcoef(of_d1[:, 0], measured[: len(of_d1), 0])[0, 1] > 0.3
