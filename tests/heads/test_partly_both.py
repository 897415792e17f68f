"""A contrast head of which two magnifications are read in part: what was read of the first is taken for known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cohort import Fold, Outcome, deal_folds
from parfocal.heads import ProbeSettings, fit_contrast
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import noise_of_regions, pairs_with_known, score_partly_read, worth_of_reading

from .test_partly import bag_of

SLIDES, REGIONS, DIM = 160, 24, 5


def draw(seed: int, n: int = SLIDES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions of three magnifications: the second and third agree in positive slides; stain moves all of a slide."""
    rng = np.random.default_rng(seed)
    a = rng.choice([-1.0, 1.0], (n, REGIONS))
    c = np.where(rng.random((n, REGIONS)) < 0.8, a, -a) * np.where(np.arange(n) % 2 == 0, 1, -1)[:, None]
    stain = rng.standard_normal((n, 1))
    first, middle, fine = rng.standard_normal((3, n, REGIONS, DIM))
    middle[:, :, 0] += 1.2 * a + 2 * stain
    fine[:, :, 0] += 1.2 * c + 3 * stain
    for one in (first, middle, fine):
        one[:, :, 1] += 3 * stain
    return first, middle, fine


def fitted(*, sharpen: bool) -> FittedContrast:
    every = np.arange(SLIDES)
    label = every % 2 == 0
    fold = Fold(0, 0, every, every[:0], deal_folds(every, label, 3, np.random.default_rng(0)))
    settings = ProbeSettings(components=(3,), inner_folds=3, sharpen=sharpen, lifted=())
    (probe,) = fit_contrast(bags_of(draw(0)), Outcome.binary(label), [fold], settings)
    assert isinstance(probe, FittedContrast)
    assert {(term.first, term.second) for term in probe.terms} == {(1, 2)}
    return probe


def bags_of(
    means: tuple[np.ndarray, ...], middle: np.ndarray | None = None, fine: np.ndarray | None = None
) -> list[Bag]:
    """Bags with what was read of the second and of the third; what was not is NaN."""
    return [
        bag_of(name, one, there)
        for name, one, there in zip(("2", "1", "0.5"), means, (None, middle, fine), strict=True)
    ]


PLAIN = fitted(sharpen=False)
# Regions stand behind a tanh whose mean is not 0.
(PLAIN_TERM,) = PLAIN.terms
SQUASHED = replace(PLAIN, terms=(replace(PLAIN_TERM, shift=(0.4, -0.3), weight=0.7),))


def read_of(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the regions of the second, at random, and a third of these of the last."""
    rng = np.random.default_rng(seed)
    middle = np.argsort(rng.random((n, REGIONS)), axis=1).argsort(axis=1) < REGIONS // 2
    key = np.where(middle, rng.random((n, REGIONS)), 2)
    return middle, key.argsort(axis=1).argsort(axis=1) < REGIONS // 6


@pytest.mark.parametrize("head", [PLAIN, SQUASHED], ids=["plain", "squashed"])
def test_what_was_not_read_of_either_cannot_change_the_score(head: FittedContrast) -> None:
    means = draw(1, 6)
    middle, fine = read_of(1, 6)
    other = tuple(np.where(kept[..., None], one, 1e6) for one, kept in zip(means[1:], (middle, fine), strict=True))

    scores = [
        score_partly_read(head, bags_of(shown, middle, fine), np.arange(6), [1, 2])
        for shown in (means, (means[0], *other))
    ]

    assert np.isfinite(scores[0]).all()
    assert np.array_equal(*scores)


def test_read_whole_in_both_it_is_the_score_of_a_whole_slide() -> None:
    bags = bags_of(draw(2, 20))
    found = score_partly_read(PLAIN, bags, np.arange(20), [1, 2])
    # Sums in another order, of numbers in float32.
    np.testing.assert_allclose(found, PLAIN.score(bags, np.arange(20)), atol=1e-5)


@pytest.mark.parametrize("head", [PLAIN, SQUASHED], ids=["plain", "squashed"])
def test_the_score_is_that_of_a_second_way(head: FittedContrast) -> None:
    means = tuple(one.astype(np.float32).astype(np.float64) for one in draw(3, 5))
    middle, fine = read_of(3, 5)
    (term,) = head.terms
    noise, of_usual = (0.5, 0.2), (np.full(term.u.shape[1], 0.1), np.full(term.v.shape[1], -0.2))
    usual = tuple(
        replace(one, noise=own, mean=mean) for one, own, mean in zip(term.usual, noise, of_usual, strict=True)
    )
    term = replace(term, usual=usual)
    head = replace(head, terms=(term,), means_weight=np.zeros(1))
    shares = {1: np.where(middle, 0.75, 0.0), 2: np.where(fine, 0.25, 0.0)}
    squash: Callable[[np.ndarray], np.ndarray] = np.tanh if term.shift else (lambda x: x)
    p2, p3 = term.shift or (0.0, 0.0)
    expected = np.empty(5)
    for slide in range(5):
        known, read = middle[slide], fine[slide]
        of_read = means[1][slide][known].mean(axis=0)
        a = squash((means[1][slide] - of_read) @ term.u + p2)
        centre = of_read @ usual[1].expected[:-1] + usual[1].expected[-1]
        b = squash(means[2][slide] @ term.v - centre + p3)
        believed = 1.0
        for share, q in ((0.75, noise[0]), (0.25, noise[1])):
            believed *= share * (1 + q) / (share + q)
        total = (believed * (a - a[known].mean(axis=0)) * (b - of_usual[1]))[read & known].sum()
        total += np.where(known[:, None], a, of_usual[0]).sum(axis=0) @ of_usual[1]
        expected[slide] = head.intercept[0] + term.weight * total / REGIONS ** (1 - term.power)

    bags, flat = bags_of(means, middle, fine), {number: one.ravel() for number, one in shares.items()}
    found = score_partly_read(head, bags, np.arange(5), [1, 2], share=flat)

    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)


def auc(score: np.ndarray) -> float:
    positive, negative = score[::2, 0], score[1::2, 0]
    return float((positive[:, None] > negative[None]).mean())


def test_centred_on_what_was_read_it_tells_what_it_tells_with_the_first_read_whole() -> None:
    n = 500
    means, slides = draw(4, n), np.arange(500)
    middle, _ = read_of(4, n)
    # Of these the regions whose side of the pair is largest are read further: about these alone it says nothing.
    key = np.where(middle, -(means[1] @ PLAIN_TERM.u[:, 0]), np.inf)
    fine = key.argsort(axis=1).argsort(axis=1) < REGIONS // 6

    both = auc(score_partly_read(PLAIN, bags_of(means, middle, fine), slides, [1, 2]))
    one = auc(score_partly_read(PLAIN, bags_of(means, None, fine), slides, [2]))

    # Twelve regions say where a slide's mean is nearly as well as twenty-four: .86 both. Centred on the regions that
    # both have it would be .53, and on the training mean .73.
    assert 0.75 < one < 0.98
    assert both > one - 0.03


def test_stain_does_not_move_what_was_read_of_the_same_regions() -> None:
    means = draw(5, 30)
    middle, _ = read_of(5, 30)
    head = replace(PLAIN, means_weight=np.zeros(1))
    stained = (means[0], means[1] + 4, means[2] - 3)

    before, after = (
        score_partly_read(head, bags_of(one, middle, middle), np.arange(30), [1, 2]) for one in (means, stained)
    )

    # Sums of float32 numbers of about 10.
    np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


def test_a_region_is_worth_what_it_opens() -> None:
    (term,) = PLAIN.terms
    opens = replace(PLAIN, terms=(replace(term, first=0, second=2), term))
    first = bags_of(draw(6, 1))[0]

    # Of the second magnification the head has no pair with the first; what it adds with the third is not known before.
    assert pairs_with_known(opens, {1, 2})
    assert not pairs_with_known(PLAIN, {1, 2})
    worth = worth_of_reading(opens, {0: first}, 1, 2)
    x = first.region_mean.astype(np.float64)
    a = (x - x.mean(axis=0)) @ term.u
    moved = np.sqrt([one @ term.usual[1].size @ one for one in a])
    np.testing.assert_allclose(worth, moved / REGIONS ** (1 - term.power) * term.weight, rtol=1e-4)
    assert noise_of_regions(opens, 1, 2) == term.usual[1].noise
