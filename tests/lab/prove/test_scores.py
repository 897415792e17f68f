import numpy as np
import pytest
import torch
from scipy import stats

from parfocal.lab.prove.controls import other_region, other_slide, show
from parfocal.lab.prove.data import slide_means
from parfocal.lab.prove.layout import Layout, Pattern, patterns_of
from parfocal.lab.prove.scores import ScoreTable, calibrate, retrieve
from parfocal.lab.prove.verdict import judge, verdict_sentences
from parfocal.region_encoder.batch import RegionBatch

from .conftest import DIM


def draw(layout: Layout, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, layout.n_slots, DIM)).astype(np.float32), np.ones((n, layout.n_slots), dtype=bool)


def table(layout: Layout, predictions: dict[str, np.ndarray], target: np.ndarray, pattern: Pattern) -> ScoreTable:
    hidden = np.tile(layout.level == pattern.level, (len(target), 1))
    cluster = np.arange(len(target)) // 4
    scores = ScoreTable(int(cluster.max()) + 1)
    for name, predicted in predictions.items():
        scores.add(name, pattern.name, predicted, target, hidden, layout, cluster)
    return scores


def whole_fine(layout: Layout) -> Pattern:
    return next(one for one in patterns_of(layout) if one.name == "whole 0.5")


def test_r2_is_that_of_scikit_learn_about_a_mean_of_zero(layout: Layout) -> None:
    target, _ = draw(layout, 40)
    predicted = (0.5 * target + 0.1).astype(np.float32)
    scores = table(layout, {"model": predicted}, target, whole_fine(layout))
    mine = layout.level == 2
    expected = 1 - np.square(predicted[:, mine] - target[:, mine]).sum() / np.square(target[:, mine]).sum()
    assert scores.r2("model", "whole 0.5") == pytest.approx(expected)
    assert scores.levels("whole 0.5") == (2,)


def test_magnifications_count_the_same_whatever_their_number_of_tiles(layout: Layout) -> None:
    target, _ = draw(layout, 10)
    predicted = np.where((layout.level == 0)[None, :, None], target, np.float32(0))
    scores = ScoreTable(1)
    hidden = np.tile(layout.level != 1, (10, 1))
    scores.add("model", "p", predicted, target, hidden, layout, np.zeros(10, dtype=np.int64))
    assert scores.r2("model", "p") == pytest.approx(0.5)


def test_the_paired_interval_is_narrower_than_the_methods_own(layout: Layout) -> None:
    target, _ = draw(layout, 80)
    target *= np.repeat(np.linspace(0.5, 2, 20), 4)[:, None, None].astype(np.float32)
    rng = np.random.default_rng(1)
    first = (target + rng.normal(size=target.shape)).astype(np.float32)
    second = (first + 0.1).astype(np.float32)
    scores = table(layout, {"model": first, "B5": second}, target, whole_fine(layout))
    own = scores.interval("model", "whole 0.5", draws=200, seed=0)
    paired = scores.interval("model", "whole 0.5", minus=("B5",), draws=200, seed=0)
    assert own is not None
    assert paired is not None
    assert paired.low > 0
    assert paired.half_width < own.half_width / 4


def test_one_cluster_has_no_interval(layout: Layout) -> None:
    target, _ = draw(layout, 4)
    scores = table(layout, {"model": target}, target, whole_fine(layout))
    assert scores.interval("model", "whole 0.5", draws=100, seed=0) is None


@pytest.mark.parametrize(
    ("b5", "c1", "says"),
    [
        (0.3, 0.0, "Cross-scale structure is learnt: tiles at 0.5 mpp"),
        (0.3, 0.7, "not shown"),  # another region's context does as well: stain
        (0.9, 0.0, "not shown"),  # a linear map does better
    ],
)
def test_the_verdict_follows_the_rule(layout: Layout, b5: float, c1: float, says: str) -> None:
    target, _ = draw(layout, 60)
    noise, _ = draw(layout, 60, seed=1)

    def explains(share: float) -> np.ndarray:
        return (share * target + 0.05 * noise).astype(np.float32)

    shares = {"model": 0.7, "B1": 0.1, "B5": b5, "B9": 0.2, "C1": c1, "C1x": c1}
    shares |= {"C3": 0.2, "C3s": 0.2, "E1": 0.6, "E0": 0.2, "E0s": 0.2}
    pattern = whole_fine(layout)
    scores = table(layout, {name: explains(share) for name, share in shares.items()}, target, pattern)
    verdict = judge(scores, pattern, draws=200, seed=0)
    sentences = verdict_sentences([verdict], layout, clusters="slides", n_clusters=15, one_slide=False)
    assert says in sentences[0]
    assert verdict.holds == ("is learnt" in sentences[0])
    if b5 == 0.9:
        assert "loses to a linear map (B5)" in sentences[1]


def test_one_slide_is_said_to_be_one_slide(layout: Layout) -> None:
    target, _ = draw(layout, 60)
    pattern = whole_fine(layout)
    zero = np.zeros_like(target)
    scores = table(layout, {"model": target, "B1": zero, "B5": zero, "B9": zero, "C1": zero}, target, pattern)
    verdict = judge(scores, pattern, draws=200, seed=0)
    sentences = verdict_sentences([verdict], layout, clusters="tissue fragments", n_clusters=9, one_slide=True)
    assert sentences[0].startswith("Within this one slide")
    assert "says nothing about other slides" in sentences[-1]


def test_the_true_tile_is_picked_and_the_slide_mean_only_guesses(layout: Layout) -> None:
    target, present = draw(layout, 12)
    target += np.repeat(np.arange(3.0), 4)[:, None, None].astype(np.float32) * 5
    slide = np.repeat(np.arange(3), 4)
    hidden = present & (layout.level == 2)
    mean = np.stack([target[slide == one][:, layout.level == 2].mean(axis=(0, 1)) for one in slide])
    constant = np.tile(mean[:, None], (1, layout.n_slots, 1)).astype(np.float32)
    found = retrieve(
        {"truth": target, "slide mean": constant, "reversed": -target},
        target,
        present,
        hidden,
        slide,
        layout,
        2,
        most=50,
        rng=np.random.default_rng(0),
    )
    assert found is not None
    assert found.top1["truth"] == 1
    assert found.top1["slide mean"] < 3 / 64
    assert found.chance == pytest.approx(1 / 64)
    assert found.n_queries == 150


def test_calibration_of_a_normal_law_is_right_and_ranks_its_errors(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.2, 2, size=(300, layout.n_slots, 1)).astype(np.float32) * np.ones(DIM, dtype=np.float32)
    target = (sd * rng.normal(size=sd.shape)).astype(np.float32)
    hidden = np.tile(layout.level == 2, (300, 1))
    right = calibrate(np.zeros_like(target), np.square(sd), target, hidden, layout, 2)
    assert right is not None
    assert right.at(0.5) == pytest.approx(0.5, abs=0.01)
    assert right.at(0.9) == pytest.approx(0.9, abs=0.01)
    assert right.spearman > 0.6
    small = calibrate(np.zeros_like(target), np.square(sd) / 4, target, hidden, layout, 2)
    assert small is not None
    assert small.at(0.9) == pytest.approx(2 * stats.norm.cdf(1.645 / 2) - 1, abs=0.01)


def test_the_slide_mean_leaves_the_asked_region_out(layout: Layout) -> None:
    target, present = draw(layout, 6)
    slide = np.array([0, 0, 0, 1, 1, 1])
    means = slide_means(target, present, slide, layout)
    np.testing.assert_allclose(means[0, 2], target[1:3][:, layout.level == 2].mean(axis=(0, 1)), atol=1e-6)
    changed = target.copy()
    changed[0] = 1e3
    assert np.allclose(slide_means(changed, present, slide, layout)[0], means[0], atol=1e-3)


def test_the_shuffles_stay_within_and_go_between_slides() -> None:
    slide = np.repeat(np.arange(3), 5)
    rng = np.random.default_rng(0)
    sister, stranger = other_region(slide, rng), other_slide(slide, rng)
    assert (slide[sister] == slide).all()
    assert (sister != np.arange(15)).all()
    assert stranger is not None
    assert (slide[stranger] != slide).all()
    assert other_slide(np.zeros(4, dtype=np.int64), rng) is None


def test_a_swapped_context_takes_the_other_regions_tiles_and_its_absences(layout: Layout) -> None:
    tokens, present = draw(layout, 2)
    present[1, 3] = False
    places, mpps = np.tile(layout.xy_um, (2, 1, 1)), np.tile(layout.mpp, (2, 1))
    regions = RegionBatch(*map(torch.from_numpy, (tokens, places, mpps, present, np.zeros(2, np.int64), np.arange(2))))
    hidden = present & (layout.level == 2)
    shown = show(regions, hidden, np.array([1, 0]))
    assert np.array_equal(shown.tokens[0, :5], tokens[1, :5])
    assert not shown.present[0, 3]
    coarse = show(regions, hidden, np.array([1, 0]), foreign=layout.level == 0)
    assert np.array_equal(coarse.tokens[0, 0], tokens[1, 0])
    assert np.array_equal(coarse.tokens[0, 1:5], tokens[0, 1:5])
    assert coarse.present[0, 3]
