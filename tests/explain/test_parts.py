"""Slides that were read in part are explained as they are scored: unread tiles are absent, or filled in by a model."""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import Bag, Filler, bag_of_slide, open_filler
from parfocal.cohort import LabelColumns, Target
from parfocal.errors import ParfocalWarning
from parfocal.explain import ExplainSettings, Sources, explain_slide, explain_slides, interactions, shapley_values
from parfocal.geometry import format_mpp
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.heads.network import FittedNetwork
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.predict import Head, fit_head, predict_slides
from parfocal.predict.head import TILES
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.store import EmbeddingSet, SlideTokens, open_set, write_tokens
from parfocal.store.write import SlideWriter

from .conftest import LEAN
from .test_run import numbers, table

MPPS = (2.0, 1.0, 0.5)
FINEST = MPPS[-1]
WHOLE, PART, NONE = "whole", "part", "none"
QUIET = ExplainSettings(ends=2, maps=0, pictures=False)
FIRST = np.array([0])


def write_part(path: Path, tokens: SlideTokens, budget: float) -> None:
    """A slide of which a share of the finest tiles was read, those of every region alike."""
    order = np.random.default_rng(1).permutation(len(tokens.region[FINEST]))
    unread = np.sort(order[round(budget * len(order)) :])
    with SlideWriter(path, tokens.places) as writer:
        writer.set_reading({"zoom_policy": "stride", "zoom_budget": budget})
        writer.leave_out({}, {FINEST: unread})
        for mpp, rows in tokens.features.items():
            writer.append(mpp, np.delete(rows, unread, axis=0) if mpp == FINEST else rows)


@dataclass(frozen=True, eq=False)
class Parts:
    """A store with a whole slide, one of which a third was read, and one of which no fine tile was; and heads."""

    tiles: EmbeddingSet
    heads: Mapping[str, Head]
    filler: Filler


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("parts")
    law = PanelSettings(n_slides=12, n_regions=10, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))
    tiles = open_set(write_cohort(draw_cohort(law), folder))
    path = folder / "store" / tiles.name
    path.mkdir(parents=True)
    shutil.copy(tiles.path / "settings.json", path)
    whole, part, none = (tiles.read(slide) for slide in tiles.slides[:3])
    write_tokens(path, replace(whole, slide=WHOLE))
    write_part(path, replace(part, slide=PART), 0.3)
    write_part(path, replace(none, slide=NONE), 0.0)
    how = PretrainSettings(size="T", steps=2, batch=8, device="cpu", cache_mib=64, monitor_regions=8)
    pretrain_encoder(tiles, folder / "model", how)
    shown = LEAN.model_copy(update={"parts": (0.25, 0.5)})
    decoded = LEAN.model_copy(update={"parts": (0.0, 0.25), "unread": "decoded"})
    heads = {}
    for name, arm, settings in (
        ("contrast", "contrast", LEAN),
        ("plain", "0.5/mean", LEAN),
        ("union", "union", shown),
        ("mlp", "0.5/mlp", shown),
        ("decoded", "union", decoded),
    ):
        heads[name] = fit_head(
            [tiles], folder / "labels.csv", Target(name="pairing"), arm, folder / "heads" / name, settings,
            columns=LabelColumns(group="patient"), models=[folder / "model"] if name == "decoded" else [],
        )  # fmt: skip
    return Parts(open_set(path), heads, open_filler(tiles, folder / "model"))


@pytest.mark.filterwarnings("ignore:.*orders such slides well:parfocal.errors.ParfocalWarning")
@pytest.mark.parametrize("name", ["contrast", "union", "mlp", "decoded"])
def test_parts_add_up_to_what_predict_says_of_slides_that_were_read_in_part(
    parts: Parts, tmp_path: Path, name: str
) -> None:
    head = parts.heads[name]
    with pytest.warns(ParfocalWarning) if name == "contrast" else nullcontext():
        predict_slides([parts.tiles], head.path, tmp_path / "out.csv")
        found = explain_slides(parts.tiles, head.path, tmp_path / "why", QUIET)
    said = {row["slide"]: row["probability_1"] for row in table(tmp_path / "out.csv")}

    rows = {row["slide"]: row for row in table(tmp_path / "why" / "slides.csv")}

    can = {WHOLE, PART, NONE} if name in ("contrast", "decoded") else {WHOLE, PART}
    assert {one.slide for one in found.explained} == can
    for slide in can:
        row = rows[slide]
        assert float(row["probability_1"]) == pytest.approx(float(said[slide]), abs=1e-5)
        base, score = float(row["base"]), float(row["score"])
        assert base + numbers([row], "shapley_").sum() == pytest.approx(score, abs=1e-6)
        if name == "mlp":
            continue
        regions = table(tmp_path / "why" / "regions" / f"{slide}.csv")
        assert base + numbers(regions, "contribution").sum() == pytest.approx(score, abs=1e-6)
        assert np.allclose(numbers(regions, "shapley_").sum(axis=0), numbers([row], "shapley_")[0], rtol=0, atol=1e-6)
    for slide in {WHOLE, PART, NONE} - can:
        assert "none of them was read" in rows[slide]["problem"]
        assert said[slide] == ""


def bags_of(tokens: SlideTokens) -> list[Bag]:
    return [bag_of_slide(tokens, mpp) for mpp in MPPS]


@pytest.mark.filterwarnings("ignore:.*orders such slides well:parfocal.errors.ParfocalWarning")
def test_contrast_is_asked_without_a_magnification_as_a_head_that_never_had_it(parts: Parts) -> None:
    head, (probe,) = parts.heads["contrast"], parts.heads["contrast"].probes
    assert isinstance(probe, FittedContrast)
    # All that it may have: a pair with the finest on either side, one without, and means.
    rng, usual = np.random.default_rng(0), next(term.usual for term in probe.terms)
    assert usual is not None
    wide = probe.terms[0].u.shape[1]
    terms = tuple(
        replace(
            probe.terms[0], first=first, second=second, shift=None, lift_u=None, lift_v=None,
            u=rng.normal(size=(32, wide)) / 5, v=rng.normal(size=(32, wide)) / 5,
        )
        for first, second in ((0, 1), (0, 2), (1, 2))
    )  # fmt: skip
    means = replace(probe.means, coefficient=tuple(rng.normal(size=(32, 1)) for _ in MPPS))
    probe = replace(probe, terms=terms, means=means, means_weight=np.array([0.7]))
    tokens = parts.tiles.read(PART)
    worth = []
    for coalition in range(8):
        there = {place for place in range(3) if coalition >> place & 1}
        kept = tuple(term for term in terms if {term.first, term.second} <= there)
        coefficient = tuple(one * (place in there) for place, one in enumerate(means.coefficient))
        less = replace(probe, terms=kept, means=replace(means, coefficient=coefficient))
        share = {2: parts.tiles.share_read(PART)}
        worth.append(score_partly_read(less, bags_of(tokens), FIRST, {2}, share=share)[0])

    one = explain_slide(replace(head, probes=(probe,)), Sources(parts.tiles), PART)

    near = {"rtol": 0, "atol": 1e-6}  # slide means are float32
    assert np.allclose(one.parts.base, worth[0], **near)
    assert np.allclose(one.parts.shapley, shapley_values(np.array(worth)), **near)
    assert np.allclose(one.parts.interaction, interactions(np.array(worth)), **near)
    assert (np.abs(one.parts.interaction) > 1e-4).all()
    assert one.regions is not None
    assert np.allclose(one.parts.base + one.regions.contribution.sum(axis=0), worth[-1], **near)


def test_of_a_slide_of_which_nothing_fine_was_read_pairs_with_it_add_what_is_usual_and_its_tiles_nothing(
    parts: Parts,
) -> None:
    one = explain_slide(parts.heads["contrast"], Sources(parts.tiles), NONE)

    assert len(one.tiles[FINEST].contribution) == 0
    assert np.allclose(one.parts.own[2], 0, atol=1e-12)


def test_the_probe_of_parts_is_asked_about_parts_and_that_of_whole_slides_about_these(parts: Parts) -> None:
    head = parts.heads["union"]
    for slide, probes in ((WHOLE, head.probes), (PART, head.part_probes)):
        (probe,) = probes
        assert isinstance(probe, FittedNetwork)
        bags = bags_of(parts.tiles.read(slide))
        (column,) = probe.columns
        worth = [np.array([column.location + column.scale * float(column.parameters["head bias"].item())])]
        for coalition in range(1, 8):
            own = [_absent(bag) if not coalition >> place & 1 else bag for place, bag in enumerate(bags)]
            worth.append(probe.score(own, FIRST)[0])

        found = explain_slide(head, Sources(parts.tiles), slide).parts

        assert np.allclose(found.shapley, shapley_values(np.array(worth)), rtol=0, atol=1e-6)
        assert np.allclose(found.base, worth[0], rtol=0, atol=1e-6)


def _absent(bag: Bag) -> Bag:
    return replace(bag, rows=bag.rows[:0], start=np.array([0, 0]), n_instances=np.array([0]))


def test_what_a_model_expects_of_unread_tiles_it_expects_of_the_magnifications_that_are_there(parts: Parts) -> None:
    head = parts.heads["decoded"]
    (probe,) = head.part_probes
    assert isinstance(probe, FittedNetwork)
    (column,) = probe.columns
    tokens, unread = parts.tiles.read(PART), parts.tiles.unread_tiles(PART)
    worth = [np.array([column.location + column.scale * float(column.parameters["head bias"].item())])]
    for coalition in range(1, 8):
        mpps = [mpp for place, mpp in enumerate(MPPS) if coalition >> place & 1]
        less = replace(
            tokens,
            **{
                name: {mpp: rows if mpp in mpps else rows[:0] for mpp, rows in getattr(tokens, name).items()}
                for name in ("features", "region", "center_um")
            },
            tissue={},
        )
        if FINEST in mpps:
            less = parts.filler.fill(less, *unread)
        own = [bag_of_slide(less, mpp) if mpp in mpps else _absent(bag_of_slide(tokens, mpp)) for mpp in MPPS]
        worth.append(probe.score(own, FIRST)[0])

    found = explain_slide(head, Sources(parts.tiles), PART)

    assert np.allclose(found.parts.shapley, shapley_values(np.array(worth)), rtol=0, atol=1e-5)  # rows are float32
    assert np.allclose(found.parts.score, worth[-1], rtol=0, atol=1e-5)
    assert len(found.tiles[FINEST].contribution) == len(tokens.region[FINEST]) + len(unread[0])
    assert (TILES, format_mpp(FINEST)) in head.bags


def test_what_a_head_was_not_shown_is_said_and_ends_are_those_of_whole_slides(parts: Parts, tmp_path: Path) -> None:
    with pytest.warns(
        ParfocalWarning, match=r"1 slides gave a warning; the first: part was read in part .* all there is"
    ):
        explain_slides(parts.tiles, parts.heads["plain"].path, tmp_path / "plain", QUIET, slides=[WHOLE, PART])
    with pytest.warns(ParfocalWarning, match="orders such slides well"):
        explain_slides(parts.tiles, parts.heads["contrast"].path, tmp_path / "contrast", QUIET)

    assert {row["slide"] for row in table(tmp_path / "contrast" / "directions.csv")} == {WHOLE}
