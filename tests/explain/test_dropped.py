"""Heads on magnifications side by side that were fitted with some of them left out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import Bag, bag_of_slide, read_bags
from parfocal.cohort import Cohort as SlideCohort
from parfocal.cohort import LabelColumns, Outcome, Target, make_splits
from parfocal.errors import ConfigError
from parfocal.explain import ExplainSettings, Sources, explain_slide, explain_slides, interactions, shapley_values
from parfocal.geometry import format_mpp
from parfocal.heads import Fit, FittedProbe, fit_mlp
from parfocal.heads.linear import FittedMean, fit_mean
from parfocal.heads.network import FittedNetwork
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.lab.synthetic.xscale import FeatureCohort
from parfocal.predict import FitSettings, Head, fit_head, load_head, predict_slides
from parfocal.predict.dropped import ShownWithout
from parfocal.predict.page import fit_sentences
from parfocal.store import EmbeddingSet, SlideTokens, open_set

from .conftest import QUICK
from .test_run import numbers, table

MPPS = (2.0, 1.0, 0.5)
KEYS = tuple((0, format_mpp(mpp)) for mpp in MPPS)
ARMS = ("concat", "concat-mlp")
DROPPED = QUICK.model_copy(update={"drop_magnifications": 0.5})
COLUMNS = LabelColumns(group="patient")


class Mute(FeatureCohort):
    """At 1 mpp all slides look alike."""

    def tokens(self, number: int) -> SlideTokens:
        whole = super().tokens(number)
        return replace(whole, features={**whole.features, 1.0: np.ones_like(whole.features[1.0])})


@dataclass(frozen=True, eq=False)
class Cohort:
    tiles: EmbeddingSet
    labels: Path
    heads: Mapping[str, Head]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("dropped")
    law = PanelSettings(n_slides=40, n_regions=8, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))
    tiles, labels = open_set(write_cohort(Mute(**vars(draw_cohort(law))), folder)), folder / "labels.csv"
    heads = {
        arm: fit_head([tiles], labels, Target(name="fine"), arm, folder / arm, DROPPED, columns=COLUMNS) for arm in ARMS
    }
    return Cohort(tiles, labels, heads)


def bags_of(tokens: SlideTokens) -> list[Bag]:
    return [bag_of_slide(tokens, mpp) for mpp in MPPS]


def worth_by_hand(head: Head, tokens: SlideTokens) -> np.ndarray:
    """What the head says with every set of magnifications, from its numbers: one left out adds nothing to its layer."""
    (probe,) = head.probes
    means = [bag.mean[0].astype(np.float64) for bag in bags_of(tokens)]
    worth = []
    for coalition in range(8):
        there = [bool(coalition >> place & 1) for place in range(3)]
        if isinstance(probe, FittedMean):
            score = probe.intercept[0]
            for place, mean in enumerate(means):
                if there[place]:
                    score += (mean - probe.offset[place]) @ probe.coefficient[place][:, 0]
        else:
            assert isinstance(probe, FittedNetwork)
            (one,) = probe.columns
            rows = []
            for place, mean in enumerate(means):
                centre, matrix = (one.fitted[f"mean {place}.{what}"].astype(np.float64) for what in ("mean", "matrix"))
                rows.append(((mean - centre) @ matrix) * there[place])
            parameters = {name: value.astype(np.float64) for name, value in one.parameters.items()}
            hidden = np.maximum(np.concatenate(rows) @ parameters["hidden"] + parameters["hidden bias"][0], 0)
            said = float(hidden @ parameters["head"][:, 0] + parameters["head bias"][0])
            score = one.location + one.scale * said
        worth.append([score])
    return np.array(worth)


@pytest.mark.parametrize("arm", ARMS)
def test_parts_are_those_of_the_head_without_these_magnifications(cohort: Cohort, arm: str) -> None:
    head, tolerance = cohort.heads[arm], 1e-6 if arm == "concat" else 1e-5  # the network is float32
    for slide in cohort.tiles.slides[:4]:
        worth = worth_by_hand(head, cohort.tiles.read(slide))

        one = explain_slide(head, Sources(cohort.tiles), slide).parts

        assert np.allclose(one.base, worth[0], rtol=0, atol=tolerance)
        assert np.allclose(one.shapley, shapley_values(worth), rtol=0, atol=tolerance)
        assert np.allclose(one.interaction, interactions(worth), rtol=0, atol=tolerance)
        assert np.allclose(one.base + one.shapley.sum(axis=0), one.score, rtol=0, atol=1e-6)
        assert np.allclose(one.base + one.own.sum(axis=0) + one.interaction.sum(axis=0), one.score, rtol=0, atol=1e-6)
        assert np.abs(one.shapley[1]).max() < 1e-6  # at 1 mpp all slides look alike
        assert np.abs(one.shapley[[0, 2]]).min() > 1e-4
    if arm == "concat":
        assert (one.interaction == 0).all()
    else:
        assert abs(one.interaction[1, 0]) > 1e-4


@pytest.mark.parametrize("arm", ARMS)
def test_the_probe_that_is_explained_is_the_one_that_predicts(cohort: Cohort, tmp_path: Path, arm: str) -> None:
    head = load_head(cohort.heads[arm].path)
    tiles = replace(cohort.tiles, slides=cohort.tiles.slides[:3])
    predict_slides([tiles], head.path, tmp_path / "out.csv")

    explain_slides(tiles, head.path, tmp_path / "why", ExplainSettings(maps=0, pictures=False))

    rows = table(tmp_path / "why" / "slides.csv")
    said = [float(row["probability_1"]) for row in table(tmp_path / "out.csv")]
    assert np.allclose(numbers(rows, "probability_1")[:, 0], said, atol=1e-5)
    assert (tmp_path / "why" / "regions").exists() == (arm == "concat")  # a network on means is no sum over regions
    if arm == "concat":
        for row in rows:
            added = numbers(table(tmp_path / "why" / "regions" / f"{row['slide']}.csv"), "contribution").sum()
            assert float(row["base"]) + added == pytest.approx(float(row["score"]), abs=1e-6)
    assert "with magnifications left out in 50% of the showings" in fit_sentences(head.facts)[1]


def test_a_slide_is_shown_without_every_set_of_magnifications_and_whole_so_often_as_is_asked(cohort: Cohort) -> None:
    keys, bags = KEYS, dict(zip(KEYS, read_bags(cohort.tiles, cohort.tiles.slides[:2]), strict=True))
    without = [frozenset(some) for size in (1, 2) for some in combinations(keys, size)]
    for n_whole in (6, 1):
        shown = ShownWithout(keys, (*[frozenset[tuple[int, str]]()] * n_whole, *without))
        seen = shown.bags(bags)

        missing = np.stack([np.isnan(bag.mean).all(axis=1) for bag in seen.values()], axis=1).reshape(2, -1, 3)
        assert missing.shape[1] == shown.times == n_whole + 6
        assert not missing[:, :n_whole].any()
        for of_slide in missing[:, n_whole:]:
            assert {tuple(row) for row in of_slide.tolist()} == {tuple(key in some for key in keys) for some in without}
        for key, bag in seen.items():
            there = ~np.isnan(bag.mean).any(axis=1)
            assert np.array_equal(bag.mean[there], np.repeat(bags[key].mean, shown.times, axis=0)[there])
            assert bag.slides == tuple(slide for slide in bags[key].slides for _ in range(shown.times))


@pytest.mark.parametrize("fit", [fit_mean, fit_mlp], ids=["concat", "concat-mlp"])
def test_what_was_shown_slides_without_magnifications_is_less_wrong_about_them(cohort: Cohort, fit: Fit) -> None:
    """Of held-out slides, where every magnification knows the label."""
    redundant = {row["slide"]: row["redundant"] == "1" for row in table(cohort.labels)}
    outcome = Outcome.binary(np.array([redundant[slide] for slide in cohort.tiles.slides]))
    slides = SlideCohort(cohort.tiles.slides, cohort.tiles.slides, outcome)
    bags = dict(zip(KEYS, read_bags(cohort.tiles, cohort.tiles.slides), strict=True))
    without = tuple(frozenset(some) for size in (1, 2) for some in combinations(KEYS, size))
    shown = ShownWithout(KEYS, (*[frozenset[tuple[int, str]]()] * 6, *without))
    seen = list(shown.bags(bags).values())
    folds = make_splits(slides, folds=3, repeats=1).folds(slides, inner=3, seed=0)
    every, sign = [shown.fold(fold) for fold in folds], 2 * outcome.value - 1
    alone = fit(list(bags.values()), outcome, folds, QUICK.probes)
    dropped = fit(seen, shown.outcome(outcome), every, QUICK.probes)

    def loss(probes: list[FittedProbe]) -> float:
        """The mean log loss of the showings in which something is left out."""
        found = [
            np.logaddexp(0, -sign[fold.test, None] * probe.score(seen, of_shown.test).reshape(-1, shown.times)[:, 6:])
            for probe, fold, of_shown in zip(probes, folds, every, strict=True)
        ]
        return float(np.concatenate(found).mean())

    assert loss(dropped) < loss(alone)


@pytest.mark.parametrize("arm", ["contrast", "union", "late", "0.5/mean", "region-mlp", "parents", "bilinear"])
def test_arms_that_have_no_means_side_by_side_are_refused(cohort: Cohort, tmp_path: Path, arm: str) -> None:
    with pytest.raises(ConfigError, match=r"concat and concat-mlp\. The arm \S+ is none of these\. Leave it out"):
        fit_head([cohort.tiles], cohort.labels, Target(name="fine"), arm, tmp_path / "head", DROPPED, columns=COLUMNS)
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize("more", [{"parts": (0.1,)}, {"stop_rate": 0.05}])
def test_what_does_not_go_together_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="drop_magnifications, or parts or stop_rate"):
        FitSettings.model_validate({"drop_magnifications": 0.5, **more})
