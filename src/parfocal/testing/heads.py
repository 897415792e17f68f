"""What a head must do."""

import json
from abc import ABC, abstractmethod

import numpy as np

from parfocal.bags import Bag
from parfocal.cohort import Cohort, Fold, Outcome, make_splits
from parfocal.heads import FittedProbe, ProbeSettings, ProbeState
from parfocal.heads.registry import RegisteredHead

_SLIDES, _REGIONS, _DIM = 24, 4, 6


class HeadContract(ABC):
    """Fitted on training slides alone, it scores any slide, and is the same after it was saved."""

    @abstractmethod
    def make(self) -> RegisteredHead:
        """The head."""

    settings = ProbeSettings(
        components=(2, 3), inner_folds=2, attention_steps=8, mlp_steps=8, bilinear_steps=8, growth=1
    )
    """Small, so that the tests are quick."""

    def test_it_scores_every_slide_with_one_finite_number_for_each_column(self) -> None:
        """Two classes are one column."""
        bags, outcome, probe = self._fitted()
        scores = probe.score(bags, np.arange(_SLIDES))
        assert scores.shape == (_SLIDES, len(outcome.columns))
        assert np.isfinite(scores).all()
        assert probe.chosen

    def test_it_learns_what_is_plain_to_see(self) -> None:
        """Slides of the two classes differ by several standard deviations in everything."""
        bags, outcome, probe = self._fitted()
        scores, positive = probe.score(bags, np.arange(_SLIDES))[:, 0], outcome.columns[0].value == 1
        assert np.mean(scores[positive][:, None] > scores[~positive][None]) > 0.7

    def test_a_slide_has_its_score_whatever_other_slides_are_there(self) -> None:
        """Alone, and in another order."""
        bags, _, probe = self._fitted()
        together = probe.score(bags, np.arange(_SLIDES))
        alone = probe.score([bag.of_slides([3]) for bag in bags], np.array([0]))
        assert np.allclose(together[[3]], alone, rtol=1e-5, atol=1e-6)
        assert np.allclose(probe.score(bags, np.array([5, 2])), together[[5, 2]], rtol=1e-5, atol=1e-6)

    def test_saved_and_loaded_it_gives_the_same_scores(self) -> None:
        """Facts go through JSON, arrays stay arrays."""
        bags, _, probe = self._fitted()
        state = probe.state()
        assert state.probe == self.make().name
        again = self.make().load(ProbeState(state.probe, json.loads(json.dumps(dict(state.facts))), {**state.arrays}))
        assert np.array_equal(again.score(bags, np.arange(_SLIDES)), probe.score(bags, np.arange(_SLIDES)))
        assert again.chosen == probe.chosen

    def test_test_slides_change_nothing(self) -> None:
        """The same probe comes out, whatever the slides hold that the fold tests."""
        bags, _, probe = self._fitted()
        _, _, other = self._fitted(noise=100.0)
        train = self._fold().train
        assert np.allclose(probe.score(bags, train), other.score(bags, train), rtol=1e-5, atol=1e-6)

    def _fitted(self, noise: float = 0.0) -> tuple[list[Bag], Outcome, FittedProbe]:
        head, fold = self.make(), self._fold()
        assert head.fit is not None
        label = np.arange(_SLIDES) % 2 == 1
        outcome = Outcome.binary(label)
        bags = [_bag(name, label, seed) for seed, name in enumerate(("2", "0.5")[: 2 if head.takes_several else 1])]
        changed = [_changed(bag, fold.test, noise) for bag in bags]
        (probe,) = head.fit(changed, outcome, [fold], self.settings)
        return bags, outcome, probe

    def _fold(self) -> Fold:
        label = np.arange(_SLIDES) % 2 == 1
        slides = tuple(f"s{number}" for number in range(_SLIDES))
        cohort = Cohort(slides, slides, Outcome.binary(label))
        return make_splits(cohort, folds=3, repeats=1).folds(cohort, inner=2, seed=0)[0]


def _bag(name: str, label: np.ndarray, seed: int) -> Bag:
    """A bag whose rows tell the classes apart, in their mean and in what comes together in a region."""
    rng = np.random.default_rng(seed)
    n = _SLIDES * _REGIONS
    shown = np.where(np.arange(n) % 2 == 0, 1.0, -1.0) * np.where(np.repeat(label, _REGIONS) & (seed == 1), -1.0, 1.0)
    rows = rng.standard_normal((n, _DIM)).astype(np.float32)
    rows[:, 0] += 3 * np.repeat(label, _REGIONS)
    rows[:, 1] += 2 * shown
    return Bag(
        name=name,
        slides=tuple(f"s{number}" for number in range(_SLIDES)),
        rows=rows,
        start=np.arange(0, n + 1, _REGIONS),
        n_instances=np.full(_SLIDES, _REGIONS),
        mean=rows.reshape(_SLIDES, _REGIONS, _DIM).mean(axis=1),
        region_mean=rows,
        region_start=np.arange(0, n + 1, _REGIONS),
        region_present=np.ones(n, dtype=bool),
    )


def _changed(bag: Bag, slides: np.ndarray, by: float) -> Bag:
    """The bag with other numbers in some slides."""
    if not by:
        return bag
    rows = bag.rows.copy()
    for slide in slides:
        rows[bag.start[slide] : bag.start[slide + 1]] += by
    mean = rows.reshape(_SLIDES, _REGIONS, _DIM).mean(axis=1)
    return Bag(bag.name, bag.slides, rows, bag.start, bag.n_instances, mean, rows, bag.region_start, bag.region_present)
