"""Heads give the same whether vectors are in memory or read as needed, and never ask for those of many slides."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parfocal.bags import Bag, RowsAsNeeded
from parfocal.cohort import Outcome
from parfocal.heads import Fit, ProbeSettings
from parfocal.heads.abmil import fit_abmil
from parfocal.heads.attention import fit_attention
from parfocal.heads.bilinear import fit_bilinear
from parfocal.heads.contrast.fit import fit_contrast
from parfocal.heads.contrast.moments import PickedRegions
from parfocal.heads.linear import fit_mean
from parfocal.heads.mlp import fit_mlp, fit_region_mlp
from parfocal.heads.moments import fit_moments
from parfocal.plugins import Origin

SETTINGS = ProbeSettings(
    components=(4,), inner_folds=3, attention_validation=1, attention_steps=4, mlp_steps=4, bilinear_steps=4,
    growth=1, lifted=(3,),
)  # fmt: skip
FITS: dict[str, Fit] = {
    "mean": fit_mean,
    "mlp": fit_mlp,
    "attention": fit_attention,
    "contrast": fit_contrast,
    "moments": fit_moments,
    "region mlp": fit_region_mlp,
    "bilinear": fit_bilinear,
    "abmil": fit_abmil,
}
ROWS_OF_A_SLIDE = 64


class Asked:
    """How many rows were asked for at once, at most."""

    most = 0

    def rows(self, array: np.ndarray, start: np.ndarray) -> RowsAsNeeded:
        asked = self

        class Watched(RowsAsNeeded):
            def __getitem__(self, index: Any) -> np.ndarray:
                found = super().__getitem__(index)
                asked.most = max(asked.most, len(found))
                return found

        def read(slide: int) -> np.ndarray:
            return array[start[slide] : start[slide + 1]].copy()

        n = len(start) - 1
        return Watched(read, np.arange(n), start, array.shape[1], tuple(range(n)))

    def bag(self, bag: Bag) -> Bag:
        rows = self.rows(np.asarray(bag.rows), bag.start)
        means = rows if bag.is_one_by_one else self.rows(np.asarray(bag.region_mean), bag.region_start)
        return replace(bag, rows=rows, region_mean=means)


@pytest.fixture(scope="module")
def drawn(draw_numbers: Callable[..., Any]) -> Any:
    return draw_numbers(n=18)


@pytest.fixture(autouse=True)
def _two_slides_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And samples, for the fit of a map, that are smaller than the cohort."""
    monkeypatch.setattr("parfocal.bags.bag._TOGETHER", 2 * ROWS_OF_A_SLIDE * 24)
    monkeypatch.setattr("parfocal.stats.whitening._FEWEST_ROWS", 2 * ROWS_OF_A_SLIDE)
    monkeypatch.setattr("parfocal.stats.whitening._MOST_NUMBERS", 1)
    monkeypatch.setattr("parfocal.heads.preparation._FEWEST_ROWS", 2 * ROWS_OF_A_SLIDE)
    monkeypatch.setattr("parfocal.heads.preparation._MOST_NUMBERS", 1)


@pytest.mark.parametrize("head", FITS)
def test_a_head_says_the_same_and_asks_for_a_few_slides_at_a_time(
    head: str, drawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, bags = Asked(), [drawn.coarse, drawn.fine]
    if head == "moments":
        bags = [drawn.coarse.one_by_one(), drawn.fine.one_by_one(), *bags]
    if head == "abmil":
        bags = bags[:1]  # its steps take long, and another bag or epoch changes nothing of how they are read
        monkeypatch.setattr("parfocal.heads.abmil._EPOCHS", 3)
    outcome, folds = Outcome.binary(drawn.pairing), drawn.folds(drawn.pairing, folds=3)[:2]
    slides = np.arange(len(drawn.pairing))

    held = FITS[head](bags, outcome, folds, SETTINGS)
    needed = FITS[head]([asked.bag(bag) for bag in bags], outcome, folds, SETTINGS)

    for one, other in zip(needed, held, strict=True):
        assert one.chosen == other.chosen
        # Products of a few rows at a time may round otherwise than those of many.
        expected = other.score(bags, slides)
        np.testing.assert_allclose(one.score([asked.bag(bag) for bag in bags], slides), expected, rtol=1e-4, atol=1e-5)
    assert asked.most <= 2 * ROWS_OF_A_SLIDE
    assert (asked.most > 0) == (head not in ("mean", "mlp"))


def test_regions_that_are_all_the_same_are_refused_as_needed_too(drawn: Any) -> None:
    picked = PickedRegions.of(drawn.coarse, np.arange(len(drawn.pairing)))
    flat = replace(drawn.coarse, region_mean=np.asarray(drawn.coarse.mean[picked.of_slide]))
    folds = drawn.folds(drawn.pairing, folds=3)[:1]

    for bag in (flat, Asked().bag(flat)):
        with pytest.raises(Exception, match="the regions of every slide are the same"):
            fit_contrast([bag], Outcome.binary(drawn.pairing), folds, SETTINGS)


@pytest.mark.parametrize(("pools", "rows", "regions"), [("means", False, False), ("tiles", True, False),
                                                       ("regions", False, True)])  # fmt: skip
def test_the_head_of_another_package_is_given_arrays_of_what_it_pools(
    pools: Any, rows: bool, regions: bool, drawn: Any
) -> None:
    given: list[Bag] = []

    def fit(bags: Any, outcome: Any, folds: Any, settings: Any) -> Any:
        given.extend(bags)
        return fit_mean(bags, outcome, folds, settings)

    from parfocal.heads.registry import RegisteredHead

    head = RegisteredHead("theirs", "theirs", pools, lambda state: state, fit).guarded(  # type: ignore[arg-type,return-value]
        Origin("head theirs", "somebody", "1")
    )
    folds = drawn.folds(drawn.pairing, folds=3)[:1]
    assert head.fit is not None

    (probe,) = head.fit([Asked().bag(drawn.coarse)], Outcome.binary(drawn.pairing), folds, SETTINGS)

    (bag,) = given
    assert (isinstance(bag.rows, np.ndarray), isinstance(bag.region_mean, np.ndarray)) == (rows, regions)
    some = folds[0].test[::-1]
    expected = fit_mean([drawn.coarse], Outcome.binary(drawn.pairing), folds, SETTINGS)[0].score([drawn.coarse], some)
    np.testing.assert_array_equal(probe.score([Asked().bag(drawn.coarse)], some), expected)
