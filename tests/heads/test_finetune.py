"""An encoder that is trained on in a fold learns from that fold's training slides and from nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.bags import PLACED, Bag
from parfocal.cohort import Cohort, Fold, Outcome, make_splits
from parfocal.heads import ProbeSettings, load_probe
from parfocal.heads.finetune import fit_finetuned
from parfocal.pretrain.setup import start_weights
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig

QUICK = ProbeSettings(
    attention_steps=4, finetune_steps=4, growth=1, attention_rate=0.01, inner_folds=3, attention_validation=1
)
OFFSETS = np.array([[-168.0, -56.0], [56.0, -56.0], [-56.0, 56.0], [168.0, 168.0]])


def in_place(numbers: Any) -> Bag:
    """The coarse tile and the fine tiles of each region of the little cohort, each with its place."""
    coarse, fine = numbers.coarse, numbers.fine
    rows, places = [], []
    for slide in range(len(coarse.slides)):
        own_fine = fine.rows_of(slide).reshape(-1, 4, fine.dim)
        for region, one in enumerate(coarse.rows_of(slide)):
            rows.append(np.concatenate([one[None], own_fine[region]]))
            place = np.zeros((5, 4), np.float32)
            place[1:, :2], place[:, 2], place[:, 3] = OFFSETS, [2.0, 0.5, 0.5, 0.5, 0.5], region
            places.append(place)
    counts = 5 * np.diff(coarse.region_start)
    joined = np.concatenate(rows)
    return replace(
        coarse,
        name=PLACED,
        rows=joined,
        start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        n_instances=counts,
        region_mean=np.stack([one.mean(axis=0) for one in rows]),
        place=np.concatenate(places),
    )


def write_model(folder: Path, dim: int, mpps: tuple[float, ...] = (2.0, 0.5)) -> Path:
    torch.manual_seed(0)
    config = RegionEncoderConfig(width=16, depth=1, heads=2, mpps=mpps, dims=(dim,) * len(mpps), layer_scale=1.0)
    encoder = RegionEncoder(config)
    start_weights(encoder)
    encoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def numbers(draw_numbers: Callable[..., Any]) -> Any:
    """Fewer slides: every step looks at all tiles of each."""
    return draw_numbers(n=24)


@pytest.fixture(scope="module")
def bag(numbers: Any) -> Bag:
    return in_place(numbers)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, bag: Bag) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "mem", bag.dim)


def folds_of(bag: Bag, outcome: Outcome) -> list[Fold]:
    cohort = Cohort(bag.slides, bag.slides, outcome)
    return make_splits(cohort, folds=4, repeats=1).folds(cohort, inner=3, seed=0)


def log_loss(score: np.ndarray, label: np.ndarray) -> float:
    return float((np.logaddexp(0, score) - score * label).mean())


def test_training_on_lowers_the_training_loss(bag: Bag, model: Path, numbers: Any) -> None:
    outcome = Outcome.binary(numbers.kind)
    fold = folds_of(bag, outcome)[0]

    (few,) = fit_finetuned(model)([bag], outcome, [fold], QUICK.model_copy(update={"finetune_steps": 4}))
    (many,) = fit_finetuned(model)([bag], outcome, [fold], QUICK.model_copy(update={"finetune_steps": 16}))

    losses = [log_loss(one.score([bag], fold.train)[:, 0], numbers.kind[fold.train]) for one in (few, many)]
    assert losses[1] < losses[0] < np.log(2)
    encoder = RegionEncoder.from_pretrained(model)
    trained = many.state().arrays["0/encoder/projectors.0.into.weight"]
    assert not np.array_equal(trained, encoder.projectors[0].into.weight.detach().numpy())  # type: ignore[union-attr]


def test_neither_labels_nor_tiles_of_the_test_fold_have_a_say(bag: Bag, model: Path, numbers: Any) -> None:
    outcome = Outcome.binary(numbers.kind)
    fold = folds_of(bag, outcome)[0]
    flipped = numbers.kind.copy()
    flipped[fold.test] = ~flipped[fold.test]
    poisoned = bag.rows.copy()
    for slide in fold.test:
        poisoned[bag.start[slide] : bag.start[slide + 1]] = np.nan

    (before,) = fit_finetuned(model)([bag], outcome, [fold], QUICK)
    (after,) = fit_finetuned(model)([replace(bag, rows=poisoned)], Outcome.binary(flipped), [fold], QUICK)

    assert before.chosen == after.chosen
    for name, array in before.state().arrays.items():
        np.testing.assert_array_equal(array, after.state().arrays[name])
    # The twin: labels of training slides do have a say.
    flipped[fold.train[:8]] = ~flipped[fold.train[:8]]
    (other,) = fit_finetuned(model)([bag], Outcome.binary(flipped), [fold], QUICK)
    assert (other.score([bag], fold.test) != before.score([bag], fold.test)).any()


def test_a_saved_probe_scores_a_slide_alone_as_it_did_among_others(bag: Bag, model: Path, numbers: Any) -> None:
    outcome = Outcome.binary(numbers.kind)
    fold = folds_of(bag, outcome)[0]
    (fit,) = fit_finetuned(model)([bag], outcome, [fold], QUICK)
    expected = fit.score([bag], fold.test)

    again = load_probe(fit.state())

    assert again.chosen == fit.chosen
    for number, slide in enumerate(fold.test):
        alone = bag.of_slides([int(slide)])
        np.testing.assert_array_equal(again.score([alone], np.array([0]))[0], expected[number])


def test_every_kind_of_outcome_is_learnt(bag: Bag, model: Path, numbers: Any) -> None:
    rng = np.random.default_rng(1)
    n, kind = len(bag.slides), numbers.kind
    every = np.ones(n, dtype=bool)
    number = 100.0 + 20.0 * kind + rng.standard_normal(n)
    outcomes = [
        Outcome("o", "ordinal", ("low", "middle", "high"), kind + 1.0 * (kind & (np.arange(n) % 3 > 0)), every),
        Outcome("y", "continuous", (), number, every),
        Outcome("t", "survival", (), rng.exponential(np.where(kind, 1.0, 20.0)) + 0.01, rng.random(n) < 0.8),
    ]
    fold = folds_of(bag, Outcome.binary(kind))[0]
    for outcome in outcomes:
        (fit,) = fit_finetuned(model)([bag], outcome, [fold], QUICK.model_copy(update={"finetune_steps": 8}))

        score = fit.score([bag], fold.train)

        assert score.shape == (len(fold.train), len(outcome.columns))
        own = kind[fold.train]
        assert score[own, 0].mean() > score[~own, 0].mean()
        if outcome.kind == "continuous":
            # In the unit of the labels: about their mean, and on the side of the class.
            assert abs(score[:, 0].mean() - number[fold.train].mean()) < 5


def test_a_model_of_one_magnification_reads_no_other(bag: Bag, tmp_path: Path, numbers: Any) -> None:
    model = write_model(tmp_path / "fine", bag.dim, mpps=(0.5,))
    outcome = Outcome.binary(numbers.kind)
    fold = folds_of(bag, outcome)[0]
    assert bag.place is not None
    poisoned = np.where(bag.place[:, 2:3] == 2.0, np.float32(np.nan), bag.rows)

    (clean,) = fit_finetuned(model)([bag], outcome, [fold], QUICK)
    (dirty,) = fit_finetuned(model)([replace(bag, rows=poisoned)], outcome, [fold], QUICK)

    scores = [fit.score([own], fold.test) for fit, own in ((clean, bag), (dirty, replace(bag, rows=poisoned)))]
    assert np.isfinite(scores[0]).all()
    np.testing.assert_array_equal(*scores)


def test_a_bag_without_places_is_refused(numbers: Any, model: Path) -> None:
    outcome = Outcome.binary(numbers.kind)
    with pytest.raises(ValueError, match="does not say where its tiles lie"):
        fit_finetuned(model)([numbers.fine], outcome, numbers.folds(outcome)[:1], QUICK)
