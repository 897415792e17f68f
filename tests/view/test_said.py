"""What the viewer shows of a head is what `predict` and `explain` say."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cohort import LabelColumns
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning, StoreError
from parfocal.explain import ExplainSettings, Sources, explain_slide, explain_slides
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, Head, fit_head, load_head, predict_slides
from parfocal.predict.facts import StoppingFacts
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.similar import find_similar
from parfocal.store import EmbeddingSet, open_set
from parfocal.view import open_viewer
from parfocal.view import said as said_module
from parfocal.view.app import make_app
from parfocal.view.said import HeadOpinions

from .stores import TOKEN, read, refused, write_part

QUICK = FitSettings(folds=2, repeats=1, probes=ProbeSettings(components=(6,), lifted=(), sharpen=False, inner_folds=2))


@dataclass(frozen=True)
class Asked:
    """A viewer that has looked through a store with a head of one arm."""

    folder: Path
    tiles: EmbeddingSet
    heads: dict[str, Path]
    app: Any


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """12 slides whose label lies in a pairing, a region encoder, and three heads of it."""
    folder = tmp_path_factory.mktemp("asked")
    law = PanelSettings(n_slides=12, n_regions=10, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))
    tiles, heads = open_set(write_cohort(draw_cohort(law), folder / "store")), {}
    digests = (tiles.encoder_digest,) * 3
    config = RegionEncoderConfig(
        width=8, depth=1, heads=2, mpps=tiles.mpps, dims=(32,) * 3, encoders=digests, region_um=tiles.region_um,
        tile_px=224,
    )  # fmt: skip
    torch.manual_seed(0)
    RegionEncoder(config).save_pretrained(folder / "mem")
    made = represent_regions(tiles, folder / "mem", folder / "regions", RepresentSettings(dtype="float32"))
    for arm in ("contrast", "concat", "mem/cls/mean"):
        heads[arm] = folder / arm.replace("/", "-")
        fit_head(
            [tiles, *made.sets], folder / "store" / "labels.csv", "pairing", arm, heads[arm], QUICK,
            columns=LabelColumns(group="patient"), models=[folder / "mem"],
        )  # fmt: skip
    with open_viewer(folder / "store", head=heads["contrast"]) as viewer:
        viewer._background.join()  # every slide has been predicted
        yield Asked(folder, tiles, heads, make_app(viewer, TOKEN))


def test_predictions_are_those_of_predict(asked: Asked, tmp_path: Path) -> None:
    said = predict_slides([asked.tiles], asked.heads["contrast"], tmp_path / "out.csv").predicted
    slides = read(asked.app, "/api/slides")

    assert [one["id"] for one in slides] == [one.slide for one in said]
    for one, known in zip(slides, said, strict=True):
        prediction = one["prediction"]
        assert prediction["probabilities"] == pytest.approx(known.probability.tolist(), abs=1e-4)
        assert prediction["call"] == "01"[int(known.probability.argmax())]
        assert prediction["outside"] == known.is_outside
        assert not one["pending"]
    # Of the training slides' own patients some are nearer than this one: a percentage.
    assert all(0 <= one["prediction"]["percentile"] <= 100 for one in slides)


def test_the_parts_of_a_slide_are_those_of_explain_and_add_up(asked: Asked) -> None:
    head = load_head(asked.heads["contrast"])
    parts = explain_slide(head, Sources(asked.tiles), asked.tiles.slides[3]).parts

    said = read(asked.app, "/api/slides/3/explanation")
    names = [one["key"] for one in read(asked.app, "/api/store")["head"]["parts"]]

    assert names == ["2", "1", "0.5", "2+1", "2+0.5", "1+0.5"]
    expected = [*parts.own[:, 0], *parts.interaction[:, 0]]
    assert [said["parts"][name] for name in names] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert said["baseline"] + sum(said["parts"].values()) == pytest.approx(said["score"], abs=1e-6)
    assert said["score_of"] == "pairing (1)"


def test_the_parts_of_regions_add_up_to_those_of_the_slide(asked: Asked) -> None:
    whole = read(asked.app, "/api/slides/3/explanation")
    regions = read(asked.app, "/api/slides/3/regions")
    drawn = {
        one["key"]: read(asked.app, f"/api/slides/3/overlays/{one['key']}")
        for one in regions["overlays"]
        if one["diverging"]
    }

    assert set(drawn) == {"score", *whole["parts"]}
    for key, value in whole["parts"].items():
        assert sum(drawn[key]["values"]) == pytest.approx(value, abs=1e-4)
        assert drawn[key]["low"] == -drawn[key]["high"]
    assert sum(drawn["score"]["values"]) + whole["baseline"] == pytest.approx(whole["score"], abs=1e-4)
    one = read(asked.app, "/api/slides/3/regions/7")
    assert sum(one["parts"].values()) == pytest.approx(one["score"], abs=1e-6)
    assert one["score"] == pytest.approx(drawn["score"]["values"][7], abs=1e-4)


def test_tiles_have_their_own_parts(asked: Asked) -> None:
    head, slide = load_head(asked.heads["contrast"]), asked.tiles.slides[3]
    tiles = explain_slide(head, Sources(asked.tiles), slide).tiles[0.5]
    places = {
        (round(x, 3), round(y, 3)): float(value)
        for (x, y), value in zip(tiles.xy_um, tiles.contribution[:, 0], strict=True)
    }

    shown = [
        tile for region in range(10) for tile in read(asked.app, f"/api/slides/3/regions/{region}")["tiles"]["0.5"]
    ]

    assert len(shown) == len(places) == 160
    for tile in shown:
        assert tile["contribution"] == pytest.approx(places[round(tile["x_um"], 3), round(tile["y_um"], 3)], abs=1e-9)


def test_directions_have_the_ends_that_explain_lists(asked: Asked, tmp_path: Path) -> None:
    explain_slides(asked.tiles, asked.heads["contrast"], tmp_path, ExplainSettings(ends=6, maps=0, pictures=False))
    with (tmp_path / "directions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    known = read(asked.app, "/api/directions")
    first = read(asked.app, "/api/directions/0")

    assert known["n_seen"] == known["n_slides"] == 12
    assert len(known["directions"]) == len({(row["pair"], row["number"], row["mpp"], row["side"]) for row in rows})
    for end in ("top", "bottom"):
        expected = [row for row in rows[:12] if row["end"] == end]
        assert [(one["id"], one["x_um"], one["y_um"]) for one in first[end]] == [
            (row["slide"], float(row["x_um"]), float(row["y_um"])) for row in expected
        ]
        assert [one["value"] for one in first[end]] == pytest.approx(
            [float(row["projection"]) for row in expected], rel=1e-3
        )
    places = asked.tiles.region_xy_um(first["top"][0]["id"])
    assert places[first["top"][0]["region"]].tolist() == [first["top"][0]["x_um"], first["top"][0]["y_um"]]
    assert "no direction" in refused(asked.app, f"/api/directions/{len(known['directions'])}")


def test_a_head_that_cannot_be_explained_still_predicts(asked: Asked) -> None:
    two = replace(asked.tiles, slides=asked.tiles.slides[:2])
    with open_viewer(two, head=asked.heads["concat"]) as viewer:
        viewer._background.join()
        app = make_app(viewer, TOKEN)
        head, slides, slide = read(app, "/api/store")["head"], read(app, "/api/slides"), read(app, "/api/slides/0")
        region, overlays = read(app, "/api/slides/0/regions/0"), read(app, "/api/slides/0/regions")["overlays"]
        why = refused(app, "/api/slides/0/explanation")

    assert head["parts"] == []
    assert "side by side" in slide["why_no_parts"] == why == region["why_no_parts"]
    assert not slide["explains"]
    assert all(one["prediction"] is not None for one in slides)
    assert [one["key"] for one in overlays] == ["differs-2", "differs-1", "differs-0.5"]
    assert (region["parts"], region["score"]) == (None, None)


def test_a_head_on_a_region_encoder_is_asked_without_each_magnification(asked: Asked, tmp_path: Path) -> None:
    two, head = replace(asked.tiles, slides=asked.tiles.slides[:2]), asked.heads["mem/cls/mean"]
    said = predict_slides([two], head, tmp_path / "out.csv").predicted
    explain_slides(two, head, tmp_path / "why", ExplainSettings(maps=0, pictures=False))
    with (tmp_path / "why" / "slides.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with open_viewer(two, head=head) as viewer:
        viewer._background.join()
        app = make_app(viewer, TOKEN)
        slides, shown = read(app, "/api/slides"), read(app, "/api/slides/1/explanation")
        assert read(app, "/api/directions") == {"n_seen": 0, "n_slides": 0, "directions": []}

    assert [one["prediction"]["probabilities"] for one in slides] == [
        pytest.approx(one.probability.tolist(), abs=1e-4) for one in said
    ]
    assert shown["parts"]["2"] == pytest.approx(float(rows[1]["own_2"]), rel=1e-5, abs=1e-8)
    assert shown["parts"]["2+0.5"] == pytest.approx(float(rows[1]["interaction_2_0.5"]), rel=1e-5, abs=1e-8)
    assert shown["baseline"] + sum(shown["parts"].values()) == pytest.approx(shown["score"], abs=1e-6)


def test_regions_are_alike_by_the_region_embeddings_that_are_named(asked: Asked) -> None:
    with open_viewer(asked.tiles, regions=asked.folder / "regions") as viewer:
        found = read(make_app(viewer, TOKEN), "/api/slides/2/regions/3/similar", "k=5")
    alone = find_similar(asked.folder / "regions", asked.tiles.slides[2], _middle(asked.tiles, 2, 3), n=5)

    assert [(one["id"], one["region"]) for one in found] == [(one.slide, one.region) for one in alone.found]
    with (
        pytest.raises(MismatchError, match=r"holds no region embeddings that were made of .*`represent`"),
        open_viewer(asked.tiles, regions=asked.folder / "store"),
    ):
        pass


def _middle(tiles: EmbeddingSet, number: int, region: int) -> tuple[float, float]:
    x, y = (tiles.region_xy_um(tiles.slides[number])[region] + tiles.region_um / 2).tolist()
    return x, y


def test_a_set_of_region_embeddings_is_shown_by_itself(asked: Asked) -> None:
    with open_viewer(asked.folder / "regions") as viewer:
        viewer._background.join()
        app = make_app(viewer, TOKEN)
        (first, *_), regions = read(app, "/api/slides"), read(app, "/api/slides/0/regions")
        drawn, one = read(app, "/api/slides/0/overlays/differs"), read(app, "/api/slides/0/regions/4")

    assert (first["n_regions"], first["n_tiles"]) == (10, {})
    assert (regions["n_read"], regions["tissue"]) == ({}, None)
    assert [each["key"] for each in regions["overlays"]] == ["differs"]
    assert len(drawn["values"]) == 10
    assert all(value > 0 for value in drawn["values"])
    assert one["tiles"] == {}


def test_a_slide_without_a_prediction_says_why_and_the_others_have_one(asked: Asked, tmp_path: Path) -> None:
    tiles = open_set(write_cohort(draw_cohort(_LAW), tmp_path / "store"))
    (tiles.path / "0.5" / f"{tiles.slides[1]}.h5").unlink()
    with open_viewer(tmp_path / "store", head=asked.heads["contrast"]) as viewer:
        viewer._background.join()
        slides = read(make_app(viewer, TOKEN), "/api/slides")

    assert slides[1]["prediction"] is None
    assert "is absent" in slides[1]["error"]
    assert all(one["prediction"] for number, one in enumerate(slides) if number != 1)


def test_a_slide_that_was_read_in_part_is_shown_with_the_doubt_that_predict_has(asked: Asked, tmp_path: Path) -> None:
    cohort = draw_cohort(_LAW)
    tiles = open_set(write_cohort(cohort, tmp_path / "store"))
    write_part(tiles.path, cohort.tokens(1), range(0, 160, 2), coarser=[0, 5])
    with pytest.warns(ParfocalWarning, match="do not take its probabilities as they are") as warned:
        predict_slides([tiles], asked.heads["contrast"], tmp_path / "out.csv")
    made = represent_regions(tiles, asked.folder / "mem", tmp_path / "regions", RepresentSettings(dtype="float32"))
    with open_viewer(tiles, head=asked.heads["contrast"]) as viewer, open_viewer(made.sets[0]) as of_regions:
        viewer._background.join()
        of_regions._background.join()
        app, regions = make_app(viewer, TOKEN), make_app(of_regions, TOKEN)
        slides, coloured = read(app, "/api/slides"), read(app, "/api/slides/1/regions")["overlays"]
        (_, of_part, *_), overlays = read(regions, "/api/slides"), read(regions, "/api/slides/1/regions")["overlays"]
    with pytest.raises(StoreError, match="a set of tiles is needed here"):
        made.sets[0].share_read(tiles.slides[1])
    with pytest.raises(StoreError, match="a set of tiles is needed here"):
        made.sets[0].unread_tiles(tiles.slides[1])

    doubt = slides[1]["prediction"]["doubt"]
    assert any(str(one.message).endswith(doubt) for one in warned)
    assert [one["prediction"]["calibrated"] for one in slides] == [True, False, True, True]
    assert slides[0]["prediction"]["doubt"] is None
    assert slides[1]["shares_read"] == of_part["shares_read"] == {"10x": pytest.approx(0.95), "20x": 0.5}
    assert {"score", "share_read-1", "share_read-0.5"} <= {one["key"] for one in coloured}
    assert [one["key"] for one in overlays] == ["differs"]  # regions have no tiles that were read or not


def test_overlays_that_a_slide_cannot_have_are_not_offered(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_before = said_module.branches_of

    def only_whole(head: Head, *, in_part: bool = False) -> Any:
        if in_part:
            raise ConfigError("its probe for such slides cannot be asked.")
        return asked_before(head, in_part=in_part)

    monkeypatch.setattr(said_module, "branches_of", only_whole)
    monkeypatch.setattr(said_module, "read_in_part_at", lambda tiles, slide: {0.5} if slide == tiles.slides[1] else ())
    two = replace(asked.tiles, slides=asked.tiles.slides[:2])
    with open_viewer(two, head=asked.heads["contrast"]) as viewer:
        app = make_app(viewer, TOKEN)
        keys = [{one["key"] for one in read(app, f"/api/slides/{n}/regions")["overlays"]} for n in (0, 1)]
        slides = [read(app, f"/api/slides/{number}") for number in (0, 1)]

    assert "score" in keys[0]
    assert keys[1] == {"differs-2", "differs-1", "differs-0.5"}
    assert [one["why_no_parts"] for one in slides] == [None, "its probe for such slides cannot be asked."]
    assert [one["explains"] for one in slides] == [True, False]


def test_a_network_on_slide_means_is_explained_and_colours_no_regions(asked: Asked, tmp_path: Path) -> None:
    brief = FitSettings(
        folds=2, repeats=1, probes=ProbeSettings(components=(6,), lifted=(), mlp_steps=4, growth=1, inner_folds=2)
    )
    labels = asked.folder / "store" / "labels.csv"
    columns = LabelColumns(group="patient")
    fit_head([asked.tiles], labels, "pairing", "0.5/mlp", tmp_path / "head", brief, columns=columns)
    with open_viewer(replace(asked.tiles, slides=asked.tiles.slides[:1]), head=tmp_path / "head") as viewer:
        app = make_app(viewer, TOKEN)
        slide, overlays = read(app, "/api/slides/0"), read(app, "/api/slides/0/regions")["overlays"]
        region = read(app, "/api/slides/0/regions/0")
        read(app, "/api/slides/0/explanation")

    assert (slide["explains"], slide["why_no_parts"]) == (True, None)
    assert {one["key"].split("-")[0] for one in overlays} == {"differs"}
    assert "no sum over regions" in region["why_no_parts"]


def test_the_class_is_called_where_the_rule_of_stopping_calls_it(asked: Asked, tmp_path: Path) -> None:
    head = load_head(asked.heads["contrast"])
    rule = StoppingFacts.model_construct(
        policy="stride", rungs=(0.5,), usual=(1.0,), limit=1.0, call_at=0.2, rate=0.1, confidence=0.95, n=24, share=0.5,
        other=0.0, metric=None,
    )  # fmt: skip
    (said,) = predict_slides(
        [replace(asked.tiles, slides=asked.tiles.slides[:1])], head.path, tmp_path / "out.csv"
    ).predicted
    said = replace(said, probability=np.array([0.7, 0.3]), is_settled=True)

    by_half = HeadOpinions(head, asked.tiles, tmp_path)
    by_rule = HeadOpinions(replace(head, facts=head.facts.model_copy(update={"stopping": rule})), asked.tiles, tmp_path)

    assert by_half._plain(said, None)["call"] == "0"
    assert by_rule._plain(said, None)["call"] == "1"
    assert by_rule._plain(said, None)["settled"]
    assert (by_half.describe()["call_at"], by_rule.describe()["call_at"]) == (None, 0.2)


_LAW = PanelSettings(n_slides=4, n_regions=10, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))


def test_the_scratch_folder_goes_and_the_store_stays_as_it_was(asked: Asked) -> None:
    before = {path: path.stat().st_mtime_ns for path in asked.folder.rglob("*")}
    two = replace(asked.tiles, slides=asked.tiles.slides[:2])
    with open_viewer(two, head=asked.heads["contrast"]) as viewer:
        viewer._background.join()
        assert viewer.opinions is not None
        scratch = viewer.opinions.scratch
        app = make_app(viewer, TOKEN)
        read(app, "/api/slides/0/explanation")
        read(app, "/api/slides/0/regions/0/similar")
        assert scratch.is_dir()

    assert not scratch.exists()
    assert {path: path.stat().st_mtime_ns for path in asked.folder.rglob("*")} == before
