"""Targets at places: what each arm knows is drawn, so the split of a gain into context and magnification is known."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cli import main
from parfocal.errors import ConfigError
from parfocal.evaluate.places import PlaceSettings, PlacesResult, evaluate_places
from parfocal.evaluate.places.fitting import arms_at_places, deal_groups, predict_held_out
from parfocal.evaluate.places.reading import read_place_data
from parfocal.evaluate.places.rows import around, elsewhere
from parfocal.regions import read_places
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

from .drawn_places import DIM, MPPS, N, draw_places, write_predicting_model


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddingSet, Path]:
    folder = tmp_path_factory.mktemp("at-places")
    return draw_places(folder, ("a1", "a2", "b1", "c1")), folder / "spots.csv"


@pytest.fixture(scope="module")
def evaluated(drawn: tuple[EmbeddingSet, Path], tmp_path_factory: pytest.TempPathFactory) -> PlacesResult:
    targets = ["coarse", "around", "here"]
    return evaluate_places([drawn[0]], drawn[1], targets, tmp_path_factory.mktemp("out"), on_event=lambda _: None)


def test_each_arm_knows_what_it_was_drawn_to_know(evaluated: PlacesResult) -> None:
    known = {one.arm.id: dict(zip(evaluated.data.names, one.by_target, strict=True)) for one in evaluated.arms}

    assert known["0.5"]["here"] > 0.95
    assert abs(known["0.5"]["around"]) < 0.25
    assert abs(known["0.5"]["coarse"]) < 0.25
    assert known["2"]["coarse"] > 0.95
    assert abs(known["2"]["around"]) < 0.25
    assert known["context"]["around"] > 0.9
    assert abs(known["context"]["coarse"]) < 0.25
    assert min(known["mixed+context"].values()) > 0.9
    assert abs(known["elsewhere"]["coarse"]) < 0.25
    assert abs(known["noise"]["coarse"]) < 0.25


def test_the_gain_is_split_into_its_two_parts(evaluated: PlacesResult) -> None:
    whole, context, magnification = (
        evaluated.gain[name].difference.estimate for name in ("whole", "context", "magnification")
    )

    assert whole == pytest.approx(context + magnification)
    # One target of three is context, one is magnification.
    assert context == pytest.approx(1 / 3, abs=0.12)
    assert magnification == pytest.approx(1 / 3, abs=0.12)
    assert "is context, which fine tiles" in evaluated.sentences[0]
    assert evaluated.gain["context"].slides_better == 4
    assert evaluated.gain["context"].n_slides == 4


def test_intervals_are_over_slides_and_pair_them(evaluated: PlacesResult) -> None:
    # By hand: the paired t interval of four differences.
    off = evaluated.arm("context").by_slide - evaluated.arm("0.5").by_slide
    reach = 3.182446 * off.std(ddof=1) / 2
    found = evaluated.gain["context"].difference

    assert (found.low, found.high) == pytest.approx((off.mean() - reach, off.mean() + reach), rel=1e-5)
    r = [np.corrcoef(*pair)[0, 1] for pair in _pairs(evaluated, "0.5", "here")]
    assert evaluated.arm("0.5").scores["r"][:, evaluated.data.names.index("here")] == pytest.approx(r)


def _pairs(result: PlacesResult, arm: str, target: str) -> list[tuple[np.ndarray, np.ndarray]]:
    number, slide = result.data.names.index(target), np.array(result.data.slides)
    predicted = result.arm(arm).prediction[:, number]
    return [(result.data.target[slide == one, number], predicted[slide == one]) for one in result.slides]


def test_slides_of_a_patient_are_held_out_together(drawn: tuple[EmbeddingSet, Path]) -> None:
    data = read_place_data([drawn[0]], read_places(drawn[1], ["coarse", "patient"]), group="patient")

    assert data.names == ("coarse",)
    assert set(data.groups) == {"a", "b", "c"}
    fold = deal_groups(data.group_numbers, 5, 0)
    assert {tuple(sorted(set(fold[np.array(data.groups) == one]))) for one in "abc"} == {(0,), (1,), (2,)}


def test_a_held_out_slide_has_no_say_in_its_own_prediction(drawn: tuple[EmbeddingSet, Path]) -> None:
    data = read_place_data([drawn[0]], read_places(drawn[1], ["coarse", "here"]))
    arms = arms_at_places([drawn[0]], ["2"])
    asked = PlaceSettings(components=8)
    before = predict_held_out(data, arms, asked)
    is_held = np.array(data.slides) == "b1"
    rng = np.random.default_rng(1)
    changed = data.target.copy()
    changed[is_held] = rng.normal(size=changed[is_held].shape) * 50
    after = predict_held_out(replace(data, target=changed), arms, asked)

    for arm in arms:
        np.testing.assert_array_equal(after[arm.id].value[is_held], before[arm.id].value[is_held])
        assert np.abs(after[arm.id].value[~is_held] - before[arm.id].value[~is_held]).max() > 1e-3


def test_the_context_is_the_mean_of_the_fine_tiles_under_the_coarse_one(drawn: tuple[EmbeddingSet, Path]) -> None:
    data = read_place_data([drawn[0]], read_places(drawn[1], ["around"]))
    tokens = drawn[0].read("a1")
    of_first = tokens.features[0.5][tokens.region[0.5] == 0]

    assert data.slides[0] == "a1"
    np.testing.assert_allclose(data.blocks[around(2.0)][0], of_first[:16].mean(axis=0), rtol=1e-5)
    # Of 1 mpp: the four slots in the middle of the region, and not the tile that lies over all of them.
    np.testing.assert_allclose(data.blocks[around(1.0)][0], of_first[[5, 6, 9, 10]].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(data.blocks["0.5"][0], of_first[16])
    own, other = data.blocks["2"], data.blocks[elsewhere(2.0)]
    assert not (own == other).all(axis=1).any()
    assert len(np.unique(other, axis=0)) == len(own)


def test_a_place_takes_the_region_of_a_lattice_that_holds_it_and_the_offset_is_told(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path
) -> None:
    path = tmp_path / "moved.csv"
    rows = [f"{slide},{x + 230},{330},{x % 7}" for slide in ("a1", "b1", "c1") for x in range(0, 1000, 100)]
    path.write_text("slide,x_um,y_um,t\n" + "\n".join(rows) + "\na1,20000,300,1\n")

    with pytest.warns(UserWarning, match="1 places have no region"):
        data = read_place_data([drawn[0]], read_places(path, ["t"]))

    np.testing.assert_allclose(data.offset_um, np.hypot(6, 30))
    assert any("31 um (median; at most 31)" in note for note in data.notes)


def test_a_slide_without_a_region_costs_its_own_places(tmp_path: Path) -> None:
    tiles = draw_places(tmp_path, ("a1", "b1"))
    nothing = {mpp: np.zeros(0, np.int32) for mpp in MPPS}
    rows, centers = ({mpp: np.zeros((0, width), np.float32) for mpp in MPPS} for width in (DIM, 2))
    write_tokens(tiles.path, SlideTokens("e1", 448.0, 0.5, np.zeros((0, 2)), rows, nothing, centers))
    spots = tmp_path / "spots.csv"
    spots.write_text(spots.read_text() + "e1,300,300,1,1,1,low,e\n")

    with pytest.warns(UserWarning, match="1 places have no region"):
        data = read_place_data([open_set(tiles.path)], read_places(spots, ["here"]))

    assert set(data.slides) == {"a1", "b1"}
    assert len(data.slides) == 2 * N


def test_classes_are_told_apart_by_auc(drawn: tuple[EmbeddingSet, Path], tmp_path: Path) -> None:
    result = evaluate_places(
        [drawn[0]], drawn[1], ["kind"], tmp_path / "out", PlaceSettings(arms=("2",)), on_event=lambda _: None
    )

    assert result.metric == "AUC"
    assert result.data.names == ("kind=low",)
    assert [one.arm.id for one in result.arms] == ["2", "0.5", "context", "mixed+context"]
    assert result.arm("context").interval.estimate > 0.9 > 0.65 > result.arm("2").interval.estimate


def test_only_the_most_variable_targets_of_the_training_places_are_kept(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path
) -> None:
    lines = drawn[1].read_text().splitlines()
    # Of one slide alone `wild` varies, so that it is chosen in every fold but that slide's own.
    extra = ["wild,flat", *(f"{number * 5 if line.startswith('c1') else 0},7" for number, line in enumerate(lines[1:]))]
    path = tmp_path / "wild.csv"
    path.write_text("\n".join(f"{line},{more}" for line, more in zip(lines, extra, strict=True)))
    told: list[object] = []

    result = evaluate_places(
        [drawn[0]], path, ["coarse", "around", "wild", "flat"], tmp_path / "out",
        PlaceSettings(most_variable=1), on_event=told.append,
    )  # fmt: skip

    assert result.data.names == ("coarse", "wild")
    measured = np.isfinite(result.arm("2").prediction)
    is_c1 = np.array(result.data.slides) == "c1"
    assert measured[is_c1].tolist() == [[True, False]] * N
    assert measured[~is_c1].tolist() == [[False, True]] * 3 * N
    assert any("1 targets are the same at every place and are left out: flat" in str(one) for one in told)


def test_the_command_writes_what_it_shows(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    words = ["evaluate", str(drawn[0].path), "--places", str(drawn[1]), "--target", "coarse", "around", "here"]

    assert main([*words, "-o", str(out), "--json"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((out / "results.json").read_text())
    assert [arm["id"] for arm in shown["arms"]] == [
        "2", "1", "0.5", "mixed", "context", "mixed+context", "elsewhere", "noise",
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert shown["sentences"][0].split(",")[0] in page
    assert "Slide by slide" in page
    with (out / "predictions" / "context.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * N
    assert set(rows[0]) == {"slide", "x_um", "y_um", "coarse", "around", "here"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name one of the two: --labels CSV"),
        (["--places", "{spots}", "--labels", "{spots}"], "--places asks about places"),
        (["--places", "{spots}", "--splits", "x.csv"], "--places asks about places"),
        (["--places", "{spots}", "--arms", "mlp"], "there is no arm 'mlp'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    words = [word.format(spots=drawn[1]) for word in words]

    assert main(["evaluate", str(drawn[0].path), "--target", "coarse", "-o", str(tmp_path / "o"), *words]) in (1, 2)
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_named_slide_alone_is_held_out(drawn: tuple[EmbeddingSet, Path], tmp_path: Path) -> None:
    asked = PlaceSettings(hold_out=("b1",), arms=("2",))

    alone = evaluate_places([drawn[0]], drawn[1], ["coarse"], tmp_path / "out", asked, on_event=lambda _: None)

    assert alone.slides == ("b1",)
    measured = np.isfinite(alone.arm("2").prediction[:, 0])
    assert set(np.array(alone.data.slides)[measured]) == {"b1"}
    assert "One slide or group cannot show whether context helps." in alone.sentences[1]
    with pytest.raises(ConfigError, match="no slide or group 'zz' to hold out; there are a1, a2, b1"):
        evaluate_places([drawn[0]], drawn[1], ["coarse"], tmp_path / "o", PlaceSettings(hold_out=("zz",)))


def test_contextual_tokens_of_the_tiles_at_a_place_are_an_arm(drawn: tuple[EmbeddingSet, Path], tmp_path: Path) -> None:
    """A model that turns every sign around: a linear reader knows from it what it knows from the tiles."""
    set_path = create_set(
        tmp_path / "store", "turned-tokens-00000000", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, DIM),
        settings={"model": "turned", "readout": "tokens"}, encoder_digests=dict.fromkeys(MPPS, "drawn"), tile_px=224,
        dtype="float32",
    )  # fmt: skip
    for slide in drawn[0].slides:
        tokens = drawn[0].read(slide)
        write_tokens(set_path, replace(tokens, features={mpp: -rows for mpp, rows in tokens.features.items()}))

    result = evaluate_places(
        [drawn[0], open_set(set_path)], drawn[1], ["coarse", "here"], tmp_path / "out",
        PlaceSettings(arms=("turned/tokens", "mixed")), on_event=lambda _: None,
    )  # fmt: skip

    np.testing.assert_allclose(result.arm("turned/tokens").by_slide, result.arm("mixed").by_slide, atol=1e-9)
    assert "The best region encoder, turned/tokens" in result.sentences[2]
    assert "the best of" not in result.sentences[2]
    off = result.arm("turned/tokens").by_slide - result.arm("mixed+context").by_slide
    assert f": {off.mean():+.3f} (" in result.sentences[2]  # its rival is the most that tiles bring
    [of_tokens] = [arm for arm in arms_at_places([drawn[0], open_set(set_path)]) if arm.id == "turned/tokens+around"]
    for name in of_tokens.blocks:
        own = result.data.blocks[name.removeprefix("turned/tokens, ")]
        np.testing.assert_array_equal(result.data.blocks[name], -own)
    assert len(of_tokens.blocks) == 5


def test_a_region_encoder_of_fine_tiles_alone_is_read_over_the_same_footprints(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path
) -> None:
    set_path = create_set(
        tmp_path / "store", "fine-tokens-00000000", "tiles", region_um=448.0, dims={0.5: DIM},
        settings={"model": "finest tiles, 2", "readout": "tokens"}, encoder_digests={0.5: "drawn"}, tile_px=224,
        dtype="float32",
    )  # fmt: skip
    for slide in drawn[0].slides:
        own = drawn[0].read(slide)
        parts = [{0.5: known[0.5]} for known in (own.features, own.region, own.center_um)]
        write_tokens(set_path, SlideTokens(slide, own.region_um, own.slide_mpp, own.region_xy_um, *parts))

    data = read_place_data([drawn[0], open_set(set_path)], read_places(drawn[1], ["here"]))

    prefix = "finest tiles, 2/tokens, "
    assert sum(name.startswith(prefix) for name in data.blocks) == 3
    for name in ("0.5", around(1.0), around(2.0)):
        np.testing.assert_array_equal(data.blocks[prefix + name], data.blocks[name])


def test_the_best_of_several_region_encoders_is_said_to_be_picked(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path
) -> None:
    for model in ("first", "second"):
        set_path = create_set(
            tmp_path / "store", f"{model}-tokens-00000000", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, DIM),
            settings={"model": model, "readout": "tokens"}, encoder_digests=dict.fromkeys(MPPS, "drawn"), tile_px=224,
            dtype="float32",
        )  # fmt: skip
        for slide in drawn[0].slides:
            write_tokens(set_path, drawn[0].read(slide))

    result = evaluate_places(
        [drawn[0], tmp_path / "store"], drawn[1], ["coarse"], tmp_path / "out",
        PlaceSettings(arms=("first/tokens", "second/tokens")), on_event=lambda _: None,
    )  # fmt: skip

    assert result.sentences[2].endswith("It is the best of 2 on these very slides.")


def test_places_of_one_slide_cannot_be_held_out(drawn: tuple[EmbeddingSet, Path], tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("slide,x_um,y_um,t\na1,224,300,1\na1,324,300,2\n")

    with pytest.raises(ConfigError, match=r"all places of .*one\.csv are of one group"):
        read_place_data([drawn[0]], read_places(path, ["t"]))


def test_predicted_tiles_are_an_arm_that_is_given_coarse_tiles_only(
    drawn: tuple[EmbeddingSet, Path], tmp_path: Path
) -> None:
    """A model of random weights mixes what it is given: its predictions know what a coarse tile knows, and no more."""
    model = write_predicting_model(tmp_path / "mem")
    settings = RepresentSettings(readouts=("decoded", "decoded-middle"), read_mpps=(2.0,), dtype="float32")
    sets = represent_regions(drawn[0], model, tmp_path / "regions", settings).sets

    result = evaluate_places(
        [drawn[0], *sets], drawn[1], ["coarse", "here"], tmp_path / "out",
        PlaceSettings(arms=("mem/decoded/from-2", "mem/decoded-middle/from-2", "2")), on_event=lambda _: None,
    )  # fmt: skip

    decoded, middle, coarse = (result.arm(name) for name in ("mem/decoded/from-2", "mem/decoded-middle/from-2", "2"))
    assert decoded.arm.name == "mem/decoded/from-2 of 2 mpp"
    for arm in (decoded, middle):
        of_coarse, of_fine = arm.scores["r"].mean(axis=0)
        assert of_coarse > 0.3
        assert abs(of_fine) < 0.3
    assert coarse.scores["r"].mean(axis=0)[0] > decoded.scores["r"].mean(axis=0)[0]
