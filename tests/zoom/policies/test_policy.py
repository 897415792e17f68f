"""A policy is bound to what it needs, and one of another package is looked at."""

import numpy as np
import pytest

from parfocal.embed.unfolding import LEAST, Unfolding
from parfocal.errors import ConfigError, PluginError
from parfocal.plugins import Origin
from parfocal.testing import PolicyContract
from parfocal.zoom import POLICIES, Glance, Policy, Ranked, ReadSoFar
from parfocal.zoom.policies.policy import Order

from ..glances import glance_of

ORIGIN = Origin("policy 'odd'", "parfocal-odd", "1.2")


def test_ours_are_the_files_of_the_folder() -> None:
    assert set(POLICIES.ours) == {
        "attention",
        "change",
        "contrast",
        "contrast-tiles",
        "diversity",
        "entropy",
        "entropy-rounds",
        "random",
        "random-regions",
        "stride",
        "tissue",
        "value",
    }
    assert POLICIES.group == "parfocal.policies"


def test_one_that_needs_a_head_says_so() -> None:
    with pytest.raises(ConfigError, match="contrast needs a fitted head"):
        POLICIES.get("contrast")(glance_of())


def test_one_that_needs_two_things_names_both() -> None:
    with pytest.raises(ConfigError, match="value needs a fitted head and a pretrained model that predicts tiles"):
        POLICIES.get("value")(glance_of())


def test_one_that_needs_nothing_takes_nothing() -> None:
    with pytest.raises(ConfigError, match="stride looks at the slide alone"):
        POLICIES.get("stride").bound(3)


def test_a_policy_without_an_order_and_without_a_need_is_none() -> None:
    with pytest.raises(ValueError, match="either an order"):
        Policy("nothing")


def test_an_order_of_another_package_that_forgets_a_tile_names_the_package() -> None:
    def forgets(glance: Glance) -> np.ndarray:
        return np.arange(glance.n_tiles - 1)

    alone = Policy("odd", forgets).guarded(ORIGIN)
    bound = Policy("odd", needs=("head",), binds=lambda head: forgets).guarded(ORIGIN).bound(None)

    for policy in (alone, bound):
        with pytest.raises(PluginError, match=r"parfocal-odd 1\.2 does not name each"):
            policy(glance_of())


def test_worth_of_another_package_that_rises_names_the_package() -> None:
    def rises(glance: Glance) -> Ranked:
        return Ranked(np.arange(glance.n_tiles), np.arange(float(glance.n_tiles)))

    with pytest.raises(PluginError, match=r"parfocal-odd 1\.2 failed .*never rising"):
        Policy("odd", rises, over_slides=True).guarded(ORIGIN)(glance_of())


def test_those_that_compare_tiles_over_slides_are_in_units_of_a_score_or_of_entropy() -> None:
    assert {one.name for one in POLICIES if one.over_slides} == {"contrast", "contrast-tiles", "entropy", "value"}


def test_a_failure_of_another_package_names_it() -> None:
    def fails(glance: Glance) -> np.ndarray:
        raise ZeroDivisionError("nothing there")

    with pytest.raises(PluginError, match=r"parfocal-odd 1\.2 failed .ZeroDivisionError: nothing there"):
        Policy("odd", fails).guarded(ORIGIN)(glance_of())


def test_a_failure_on_the_way_names_the_package_too() -> None:
    def fails(so_far: ReadSoFar) -> Ranked:
        raise ZeroDivisionError("nothing there")

    def goes_on_twice(so_far: ReadSoFar) -> Ranked:
        return Ranked(so_far.left, goes_on=fails)

    def order(glance: Glance) -> Ranked:
        return Ranked(np.arange(glance.n_tiles), goes_on=goes_on_twice)

    glance = glance_of()
    order_of = Unfolding("odd", glance, Policy("odd", order).guarded(ORIGIN).ranked(glance))
    with pytest.raises(PluginError, match=r"parfocal-odd 1\.2 failed .ZeroDivisionError: nothing there"):
        order_of.first(3 * LEAST, lambda read: (np.zeros((int(read.sum()), 2)), read))


class Remembers:
    """Gives another order each time."""

    calls = 0

    def __call__(self, glance: Glance) -> np.ndarray:
        self.calls += 1
        return np.roll(np.arange(glance.n_tiles), self.calls)


class SecondThoughts:
    """Orders the rest by how often it was asked for any slide, and not by what was read."""

    calls = 0

    def __call__(self, glance: Glance) -> Ranked:
        return Ranked(np.arange(glance.n_tiles), goes_on=self.goes_on)

    def goes_on(self, so_far: ReadSoFar) -> Ranked:
        self.calls += 1
        return Ranked(np.roll(so_far.left, self.calls), goes_on=self.goes_on)


def changes(glance: Glance) -> np.ndarray:
    glance.tissue[:] = 0
    return np.arange(glance.n_tiles)


@pytest.mark.parametrize(
    ("order", "test"),
    [
        (lambda glance: np.zeros(glance.n_tiles, dtype=np.int64), "test_it_names_every_tile_once"),
        (Remembers(), "test_one_slide_has_one_order"),
        (lambda glance: glance.generator().permutation(glance.n_tiles), "test_only_a_policy_that_draws_follows_a_seed"),
        (
            lambda glance: Ranked(np.arange(glance.n_tiles), np.zeros(glance.n_tiles)),
            "test_what_tiles_are_worth_is_given_by_a_policy_that_compares_them_over_slides",
        ),
        (SecondThoughts(), "test_an_order_that_goes_on_depends_on_nothing_that_was_not_read"),
        (changes, "test_it_changes_nothing_of_what_it_looks_at"),
        (lambda glance: np.arange(len(glance.coarse.features[1.0])), "test_coarse_tiles_that_are_absent_are_no_error"),
    ],
)
def test_the_contract_finds_a_policy_that_breaks_it(order: Order, test: str) -> None:
    class Broken(PolicyContract):
        def make(self) -> Policy:
            return Policy("broken", order)

    with pytest.raises((AssertionError, ValueError)):
        getattr(Broken(), test)()
