"""What is read of a slide counts, what is not is never looked at, and a head of whole slides needs no second fit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.errors import ConfigError
from parfocal.heads import ProbeSettings, ProbeState, fit_contrast
from parfocal.heads.contrast.expected import expect, expected_along
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read, worth_of_reading
from parfocal.heads.contrast.usual import noise_of_tiles

SLIDES, REGIONS, DIM = 80, 12, 6
LABEL = np.arange(SLIDES) % 2 == 0
EVERY = np.arange(SLIDES)


def bag_of(name: str, means: np.ndarray, present: np.ndarray | None = None) -> Bag:
    """A bag of one instance a region; what is not present is NaN."""
    n, regions, dim = means.shape
    present = np.ones((n, regions), dtype=bool) if present is None else present
    rows = np.where(present[..., None], means, np.nan).astype(np.float32)
    of_slides = [one[there].mean(axis=0) if there.any() else one[0] for one, there in zip(rows, present, strict=True)]
    return Bag(
        name=name,
        slides=tuple(f"s{number}" for number in range(n)),
        rows=rows[present],
        start=np.cumsum([0, *present.sum(axis=1)]).astype(np.int64),
        n_instances=present.sum(axis=1),
        mean=np.stack(of_slides),
        region_mean=rows.reshape(-1, dim),
        region_start=np.arange(n + 1) * regions,
        region_present=present.ravel(),
    )


def draw(seed: int = 0, n: int = SLIDES) -> tuple[np.ndarray, np.ndarray]:
    """Region means whose states agree in positive slides and differ in negative ones, and a stain that both show."""
    rng = np.random.default_rng(seed)
    a = rng.choice([-1.0, 1.0], (n, REGIONS), p=[0.7, 0.3])
    c = np.where(rng.random((n, REGIONS)) < 0.85, a, -a) * np.where(np.arange(n) % 2 == 0, 1, -1)[:, None]
    stain = rng.standard_normal((n, 1))
    coarse, fine = rng.standard_normal((2, n, REGIONS, DIM))
    coarse[:, :, 0] += 2 * a
    fine[:, :, 0] += 2 * c
    coarse[:, :, 1] += 3 * stain
    fine[:, :, 0] += 3 * stain
    return coarse, fine


def fitted(*, sharpen: bool, lifted: tuple[int, ...] = ()) -> FittedContrast:
    coarse, fine = draw()
    fold = Fold(0, 0, EVERY, EVERY[:0], deal_folds(EVERY, LABEL, 3, np.random.default_rng(0)))
    settings = ProbeSettings(components=(3, 4), inner_folds=3, sharpen=sharpen, lifted=lifted)
    (probe,) = fit_contrast([bag_of("2", coarse), bag_of("0.5", fine)], Outcome.binary(LABEL), [fold], settings)
    assert isinstance(probe, FittedContrast)
    assert probe.terms
    return probe


PLAIN, SQUASHED = fitted(sharpen=False), fitted(sharpen=True)
# The refined head is the one whose numbers stand behind a tanh; here it is what the folds prefer.
assert SQUASHED.terms[0].shift is not None


def with_fine(head: FittedContrast, **change: Any) -> FittedContrast:
    """The head with something else usual of the fine side; a function is given what was."""
    terms = []
    for term in head.terms:
        first, second = term.usual
        new = {name: one(getattr(second, name)) if callable(one) else one for name, one in change.items()}
        terms.append(replace(term, usual=(first, replace(second, **new))))
    return replace(head, terms=tuple(terms))


def test_a_whole_slide_has_the_score_of_the_head() -> None:
    coarse, fine = draw(1)
    bags = [bag_of("2", coarse), bag_of("0.5", fine)]

    found = score_partly_read(PLAIN, bags, EVERY, [1])

    # Sums in another order, of numbers in float32.
    np.testing.assert_allclose(found, PLAIN.score(bags, EVERY), atol=1e-5)
    assert np.array_equal(score_partly_read(PLAIN, bags, EVERY, []), PLAIN.score(bags, EVERY))


@given(st.integers(0, 50), st.floats(0, 1), st.sampled_from([PLAIN, SQUASHED]))
def test_what_is_not_read_cannot_change_the_score(seed: int, share: float, head: FittedContrast) -> None:
    coarse, fine = draw(seed, 4)
    read = np.random.default_rng(seed).random((4, REGIONS)) < share
    other = np.where(read[..., None], fine, 1e6)

    # What is not present is NaN in both bags.
    scores = [
        score_partly_read(head, [bag_of("2", coarse), bag_of("0.5", one, read)], np.arange(4), [1])
        for one in (fine, other)
    ]

    assert np.isfinite(scores[0]).all()
    assert np.array_equal(scores[0], scores[1])


@pytest.mark.parametrize("head", [PLAIN, SQUASHED], ids=["plain", "squashed"])
def test_the_score_is_that_of_a_second_way(head: FittedContrast) -> None:
    noise = 0.3
    head = with_fine(head, noise=noise)
    coarse, fine = draw(5, 6)
    read = np.random.default_rng(5).random((6, REGIONS)) < 0.4
    of_tiles = np.where(read, np.random.default_rng(6).integers(1, 17, (6, REGIONS)) / 16, 0.0)
    bags = [bag_of("2", coarse), bag_of("0.5", fine, read)]
    coarse, fine = coarse.astype(np.float32).astype(np.float64), fine.astype(np.float32).astype(np.float64)
    expected = np.empty(6)
    for slide in range(6):
        share, own = read[slide].mean(), of_tiles[slide, :, None]
        mean = fine[slide, read[slide]].mean(axis=0)
        usual = head.means.offset[1]
        of_means = (
            head.means.intercept + (coarse[slide].mean(axis=0) - head.means.offset[0]) @ head.means.coefficient[0]
        )
        of_means = of_means + share * (mean - usual) @ head.means.coefficient[1]
        expected[slide] = (of_means * head.means_weight + head.intercept)[0]
        for term in head.terms:
            p2, p3 = term.shift or (0.0, 0.0)
            squash = (lambda x: x) if term.shift is None else np.tanh
            x = coarse[slide] - coarse[slide].mean(axis=0)
            centre = coarse[slide].mean(axis=0) @ term.usual[1].expected[:-1] + term.usual[1].expected[-1]
            a, b = squash(x @ term.u + p2), squash(fine[slide] @ term.v - centre + p3)
            believed = (own / (own + noise)) / (1 / (1 + noise))
            added = ((a - a.mean(axis=0)) * believed * (b - term.usual[1].mean)).sum(axis=1)
            total = added[read[slide]].sum() + (a @ term.usual[1].mean).sum()
            expected[slide] += term.weight * total / REGIONS ** (1 - term.power)

    found = score_partly_read(head, bags, np.arange(6), [1], share={1: of_tiles.ravel()})
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("lifted", [(), (3,)])
def test_a_slide_has_its_score_whatever_other_slides_are_there(lifted: tuple[int, ...]) -> None:
    head = fitted(sharpen=True, lifted=lifted)
    coarse, fine = draw(7, 10)
    read = np.random.default_rng(7).random((10, REGIONS)) < 0.3
    read[3] = False  # of one slide nothing is read
    bags = [bag_of("2", coarse), bag_of("0.5", fine, read)]

    together = score_partly_read(head, bags, np.arange(10), [1])
    alone = [score_partly_read(head, [bag.of_slides([n]) for bag in bags], np.array([0]), [1])[0] for n in range(10)]

    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-6, atol=1e-9)
    assert np.isfinite(together).all()


def test_stain_that_both_magnifications_show_does_not_move_the_score_of_what_was_read() -> None:
    coarse, fine = draw(9, 200)
    shown = [coarse.copy(), fine.copy()]
    shown[0][:, :, 1] += 4
    shown[1][:, :, 0] += 4
    # The regions are read that are worth most, so that their sum on the coarse side is far from 0.
    read = coarse[:, :, 0] > 1
    slides = np.arange(200)
    before = score_partly_read(PLAIN, [bag_of("2", coarse), bag_of("0.5", fine, read)], slides, [1])
    after = score_partly_read(PLAIN, [bag_of("2", shown[0]), bag_of("0.5", shown[1], read)], slides, [1])
    only_mean = with_fine(PLAIN, expected=lambda one: np.concatenate([0 * one[:-1], one[-1:]]))
    plain = [
        score_partly_read(only_mean, [bag_of("2", one), bag_of("0.5", other, read)], slides, [1])
        for one, other in ((coarse, fine), shown)
    ]

    moved, without = np.abs(after - before).mean(), np.abs(plain[1] - plain[0]).mean()

    # The stain's direction is learnt from 80 slides; nine tenths of what it moves is taken off.
    assert moved < 0.1 * without


def test_reading_moves_the_score_by_what_it_is_worth() -> None:
    coarse, fine = draw(11, 400)
    head = replace(SQUASHED, means_weight=np.zeros(1))
    first = np.zeros((400, REGIONS), dtype=bool)
    first[:, 0] = True
    slides = np.arange(400)
    nothing, read = (
        score_partly_read(head, [bag_of("2", coarse), bag_of("0.5", fine, there)], slides, [1])[:, 0]
        for there in (np.zeros_like(first), first)
    )
    bag = bag_of("2", coarse)
    worth = np.array([worth_of_reading(head, {0: bag.of_slides([n])}, 1)[0] for n in range(400)])

    # 400 squares about their expectation.
    assert np.sqrt(((read - nothing) ** 2).mean()) == pytest.approx(np.sqrt((worth**2).mean()), rel=0.15)


def test_regions_of_which_every_tile_is_read_are_believed() -> None:
    coarse, fine = draw(12, 5)
    head = with_fine(PLAIN, noise=0.7)
    bags = [bag_of("2", coarse), bag_of("0.5", fine)]

    found = score_partly_read(head, bags, np.arange(5), [1], share={1: np.ones(5 * REGIONS)})

    np.testing.assert_allclose(found, score_partly_read(head, bags, np.arange(5), [1]), rtol=1e-12)


def test_the_noise_of_a_region_is_that_of_its_tiles() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal((40, 30, 1, DIM)) * np.array([2.0, 1, 1, 1, 1, 1])
    tiles = common + 3 * rng.standard_normal((40, 30, 16, DIM))
    bag = bag_of("0.5", tiles.mean(axis=2))
    kept = tiles.reshape(40, -1, DIM)[:, ::5].astype(np.float32)  # 96 of 480 tiles
    bag = replace(bag, rows=kept.reshape(-1, DIM), start=np.arange(41) * kept.shape[1], n_instances=np.full(40, 480))
    onto = np.eye(DIM)[:, :1]

    # By hand: tiles have a variance of 9 about their region, regions one of 4: 9 / 16 / 4.
    assert noise_of_tiles(bag, onto, np.arange(40)) == pytest.approx(9 / 16 / 4, rel=0.15)
    # A region of one tile has no noise that could be told from what it is.
    assert noise_of_tiles(bag_of("2", tiles[:, :, 0]), onto, np.arange(40)) == 0


def test_saved_and_loaded_it_scores_the_same() -> None:
    coarse, fine = draw(13, 5)
    read = np.random.default_rng(13).random((5, REGIONS)) < 0.4
    bags, state = [bag_of("2", coarse), bag_of("0.5", fine, read)], SQUASHED.state()
    again = FittedContrast.load(state)

    assert np.array_equal(
        score_partly_read(again, bags, np.arange(5), [1]), score_partly_read(SQUASHED, bags, np.arange(5), [1])
    )


def test_a_head_of_before_says_that_it_must_be_fitted_again() -> None:
    coarse, fine = draw(15, 2)
    state = SQUASHED.state()
    kept = {name: one for name, one in state.arrays.items() if not name.startswith("usual")}
    old = FittedContrast.load(ProbeState(state.probe, state.facts, kept))
    bags = [bag_of("2", coarse), bag_of("0.5", fine)]

    assert np.array_equal(old.score(bags, np.arange(2)), SQUASHED.score(bags, np.arange(2)))
    with pytest.raises(ConfigError, match="saved before heads kept what is usual"):
        score_partly_read(old, bags, np.arange(2), [1])
    with pytest.raises(ConfigError, match="saved before heads kept what is usual"):
        worth_of_reading(old, {0: bags[0].of_slides([0])}, 1)


def test_what_is_expected_is_a_line_where_there_is_one_and_the_mean_where_not() -> None:
    rng = np.random.default_rng(0)
    known = rng.standard_normal((60, 5)) * np.array([5, 3, 2, 1, 1]) + 7
    slope = rng.standard_normal(5)
    along = np.column_stack([known @ slope + 2, rng.standard_normal(60) + 4])

    found = expected_along(expect(known, along, 0), known)

    np.testing.assert_allclose(found[:, 0], along[:, 0], atol=1e-2)
    # Five columns of noise explain 5 of 60 degrees of freedom at most; the penalty leaves less.
    assert found[:, 1].std() < np.sqrt(5 / 60)
    assert found[:, 1].mean() == pytest.approx(along[:, 1].mean())


def test_the_penalty_is_the_one_of_the_least_error_left_out() -> None:
    rng = np.random.default_rng(1)
    known = rng.standard_normal((25, 4))
    along = (known @ rng.standard_normal(4) + 0.7 * rng.standard_normal(25))[:, None]
    standard = (known - known.mean(axis=0)) / known.std(axis=0)
    variance, basis = np.linalg.eigh(standard.T @ standard / 25)
    x = standard @ basis / np.sqrt(variance.mean())

    def line(rows: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
        # Of every slide left out the whole fit is done again, but for the components and their centre.
        left = x[rows] - x.mean(axis=0)
        gram = np.block([[np.array([[len(rows)]]), left.sum(axis=0)[None]], [left.sum(axis=0)[:, None], left.T @ left]])
        gram[1:, 1:] += penalty * 25 * np.eye(4)
        solved = np.linalg.solve(gram, np.concatenate([[along[rows, 0].sum()], left.T @ along[rows, 0]]))
        return solved[1:], float(solved[0])

    errors = []
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
        total = 0.0
        for left in range(25):
            slope, constant = line(np.delete(np.arange(25), left), penalty)
            total += (along[left, 0] - constant - (x[left] - x.mean(axis=0)) @ slope) ** 2
        errors.append(total)
    best = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)[int(np.argmin(errors))]
    slope, constant = line(np.arange(25), best)
    assert best not in (1e-4, 10.0)

    found = expected_along(expect(known, along, 0), known)

    np.testing.assert_allclose(found[:, 0], constant + (x - x.mean(axis=0)) @ slope, rtol=1e-6, atol=1e-8)


def test_a_mean_counts_by_the_share_that_was_read() -> None:
    fine = np.arange(12.0).reshape(1, 4, 3) + 1
    bag = bag_of("0.5", fine, np.array([[True, False, False, False]]))

    np.testing.assert_allclose(bag.of_share(np.full(3, 5.0), np.array([0])).mean, [[4.0, 4.25, 4.5]])


def test_a_head_of_the_partly_read_bag_alone_is_refused() -> None:
    fine = draw()[1]
    fine[LABEL, :, 2] *= 3  # so that the second moment tells the classes apart
    fold = Fold(0, 0, EVERY, EVERY[:0], deal_folds(EVERY, LABEL, 3, np.random.default_rng(0)))
    settings = ProbeSettings(components=(3, 4), inner_folds=3, lifted=())
    (probe,) = fit_contrast([bag_of("0.5", fine)], Outcome.binary(LABEL), [fold], settings)
    assert isinstance(probe, FittedContrast)

    with pytest.raises(ConfigError, match="Fit a head on several magnifications"):
        score_partly_read(probe, [bag_of("0.5", fine)], EVERY, [0])
