"""What everything that can be added must do, as tests: subclass a contract and say how to make the thing.

    from parfocal.testing import TileEncoderContract

    class TestGabor(TileEncoderContract):
        def make(self):
            return Gabor()

pytest finds the tests in the class. parfocal's own pass the same.
"""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from parfocal.bags import Bag
from parfocal.cohort import Cohort, Fold, Outcome, make_splits
from parfocal.embed.unfolding import Unfolding
from parfocal.encoders import TileEncoder, symmetries_of_square
from parfocal.errors import EncoderError, ParfocalError
from parfocal.geometry import lattice_um
from parfocal.heads import FittedProbe, ProbeSettings, ProbeState
from parfocal.heads.registry import RegisteredHead
from parfocal.pretrain.objectives import Objective
from parfocal.pretrain.settings import PretrainSettings
from parfocal.store import SlideTokens
from parfocal.store.formats.format import FeatureFormat, FeatureSource, FeaturesToWrite
from parfocal.zoom import Glance, Policy, TileOrder, is_order

__all__ = ["FeatureFormatContract", "HeadContract", "ObjectiveContract", "PolicyContract", "TileEncoderContract"]


class TileEncoderContract(ABC):
    """One row for each tile, which nothing but the tile decides."""

    @abstractmethod
    def make(self) -> TileEncoder:
        """The encoder; called once in each test."""

    tolerance = 1e-4
    """How far the rows of one tile may lie apart, over the largest number: sums of floats depend on the batch."""

    def test_it_gives_one_finite_row_of_its_width_for_each_tile(self) -> None:
        """The shape and type of rows, also of no tile."""
        encoder = self.make()
        for n in (0, 1, 3):
            rows = encoder.encode(_tiles(encoder, n))
            assert rows.shape == (n, encoder.dim)
            assert rows.dtype == np.float32
            assert np.isfinite(rows).all()

    def test_tiles_of_one_call_do_not_see_each_other(self) -> None:
        """A tile alone has the row that it has among others."""
        encoder = self.make()
        tiles = _tiles(encoder, 4)
        alone = np.concatenate([encoder.encode(tiles[n : n + 1]) for n in range(len(tiles))])
        self._are_close(encoder.encode(tiles), alone)

    def test_different_tiles_have_different_rows(self) -> None:
        """Something of a tile arrives in its row."""
        encoder = self.make()
        rows = encoder.encode(_tiles(encoder, 2))
        assert np.abs(rows[0] - rows[1]).max() > 0

    def test_it_describes_all_that_changes_a_row(self) -> None:
        """The description is plain values, and the same for one that is made again."""
        encoder = self.make()
        assert json.loads(json.dumps(encoder.describe())) == json.loads(json.dumps(self.make().describe()))
        assert encoder.digest == self.make().digest
        assert encoder.name
        assert not set(encoder.name) & set('/\\:*?"<>| ')

    def test_tiles_of_another_side_are_refused(self) -> None:
        """They are never resized in silence."""
        encoder = self.make()
        side = encoder.tile_px + 16
        try:
            encoder.encode(np.zeros((1, side, side, 3), dtype=np.uint8))
        except EncoderError:
            return
        raise AssertionError("it took tiles of another side; call `check_tiles` first")

    def test_a_declared_symmetry_holds(self) -> None:
        """Turning or mirroring a tile permutes its row as the encoder says."""
        encoder = self.make()
        permutation = encoder.symmetry.permutation
        if permutation is None:
            return
        (tile,) = _tiles(encoder, 1)
        (row,) = encoder.encode(tile[None])
        for element in range(8):
            turned = np.ascontiguousarray(symmetries_of_square(tile, element))
            self._are_close(encoder.encode(turned[None])[0], row[permutation[element]])

    def _are_close(self, first: np.ndarray, second: np.ndarray) -> None:
        assert np.abs(first - second).max() <= self.tolerance * max(1.0, float(np.abs(first).max()))


def _tiles(encoder: TileEncoder, n: int) -> np.ndarray:
    side = encoder.tile_px
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


class FeatureFormatContract(ABC):
    """The rows and places that were written are read, and a broken file is one line."""

    @abstractmethod
    def make(self) -> FeatureFormat:
        """The format."""

    def write(self, folder: Path, features: FeaturesToWrite) -> FeatureSource:
        """Write features as the tool does whose format it is: as the format's own `write` does, where it has one.

        Returns:
            What is read: the file, or the folder of a format that has folders, with the files beside it.
        """
        format = self.make()
        assert format.write is not None, "the format does not write: say here how its tool does"
        path = format.write(folder, features)
        (part,) = format.parts(path) or {"": None}
        files = (file for file in sorted(folder.rglob("*")) if file != path and file.name.endswith(format.suffixes))
        return FeatureSource(path, part, tuple(file for file in files if format.parts(file) == {}))

    def test_places_and_rows_are_those_that_were_written(self) -> None:
        """Each row has its place, whatever their order, within what a whole pixel of level 0 or float16 rounds."""
        with tempfile.TemporaryDirectory() as folder:
            features = _features()
            source = self.write(Path(folder), features)
            assert source.part in (self.make().parts(source.path) or {})
            target = self.make().target
            assert (target is None) == (self.make().write is None)
            if target is not None:
                found = target(Path(folder), features)
                assert (found.path, found.part) == (source.path, source.part)
            file = self.make().read_places(source)
            l0px = 1.0 if file.unit == "l0px" else features.slide_mpp
            assert file.source == source
            assert (file.tile_px, file.dim) == (features.tile_px, features.rows.shape[1])
            assert abs(file.tile / l0px - features.tile_l0px) <= 1
            assert file.stride is None or abs(file.stride / l0px - features.stride_l0px) <= 1
            order = _by_place(file.xy)
            assert np.abs(file.xy[order] / l0px - features.xy_l0px[_by_place(features.xy_l0px)]).max() <= 0.5
            assert file.slide_mpp in {None, features.slide_mpp}
            assert file.size_l0px in {(0, 0), features.size_l0px}
            rows = self.make().read_rows(source)
            assert rows.shape == features.rows.shape
            assert np.allclose(rows[order], features.rows[_by_place(features.xy_l0px)], atol=1e-2)

    def test_a_broken_file_is_one_line(self) -> None:
        """An error of parfocal's, so that one slide is left out and the rest goes on."""
        with tempfile.TemporaryDirectory() as folder:
            source = self.write(Path(folder), _features())
            for file in [source.path] if source.path.is_file() else sorted(source.path.rglob("*")):
                if file.is_file():
                    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
            for read in (self.make().read_places, self.make().read_rows):
                try:
                    read(source)
                except ParfocalError:
                    continue
                raise AssertionError(f"{read} took a file that was cut")


def _by_place(xy: np.ndarray) -> np.ndarray:
    return np.lexsort(np.rint(xy).T)


def _features() -> FeaturesToWrite:
    """Six tiles in two rows, neither from zero nor square, and their features."""
    side = 448
    xy_l0px = np.stack([np.arange(6) % 3 + 2, np.arange(6) // 3 + 1], axis=1).astype(np.int64) * side
    rows = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    return FeaturesToWrite("slide", rows, xy_l0px, 224, side, side, 0.5, 0.25, (5000, 3000), "toy")


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
    rows = np.array(bag.rows)
    for slide in slides:
        rows[bag.start[slide] : bag.start[slide + 1]] += by
    mean = rows.reshape(_SLIDES, _REGIONS, _DIM).mean(axis=1)
    return Bag(bag.name, bag.slides, rows, bag.start, bag.n_instances, mean, rows, bag.region_start, bag.region_present)


class ObjectiveContract(ABC):
    """Finite losses with finite gradients, the smaller the better the prediction."""

    @abstractmethod
    def make(self) -> Objective:
        """The objective."""

    settings = PretrainSettings(contrast_weight=0.5)

    def test_it_minimises_something(self) -> None:
        """Over hidden tokens, over views, or over both."""
        objective = self.make()
        assert objective.tokens is not None or objective.views is not None

    def test_tokens_that_are_predicted_better_cost_less(self) -> None:
        """Gradients are finite, also where no token is hidden."""
        tokens = self.make().tokens
        if tokens is None:
            return
        target, level = _rows(8, 1), torch.arange(8) % 2
        used = torch.ones(2, target.shape[1], dtype=torch.bool)
        losses = []
        for off in (0.01, 1.0):
            predicted = (target + off * _rows(8, 2)).requires_grad_()
            loss = tokens(predicted, target, level, used)
            (gradient,) = torch.autograd.grad(loss, predicted)
            assert loss.shape == ()
            assert torch.isfinite(gradient).all()
            losses.append(loss.item())
        assert losses[0] < losses[1]
        nothing = tokens(_rows(0, 0).requires_grad_(), _rows(0, 0), level[:0], used)
        assert torch.isfinite(nothing)

    def test_regions_that_are_told_apart_better_cost_less(self) -> None:
        """Views of one region that agree cost less than views that do not."""
        objective = self.make()
        if objective.views is None:
            return
        first, numbers = _rows(6, 3).requires_grad_(), torch.arange(6)
        alike = objective.views(first, first.detach() + 0.01 * _rows(6, 4), numbers // 3, numbers, self.settings)
        exchanged = objective.views(first, first.detach().roll(1, 0), numbers // 3, numbers, self.settings)
        (gradient,) = torch.autograd.grad(alike, first)
        assert torch.isfinite(gradient).all()
        assert alike.item() < exchanged.item()
        assert objective.view_weight(self.settings) >= 0


def _rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


class PolicyContract(ABC):
    """An order of all planned tiles, which nothing but the slide and what was bound decides."""

    @abstractmethod
    def make(self) -> Policy:
        """The policy, bound to what it needs."""

    dims: Mapping[float, int] = {2.0: 6, 1.0: 6}
    """Widths of the coarse embeddings, by micrometres per pixel, as what was bound expects them."""

    fine_dim: int = 6
    """Width of the embeddings that are read, as what was bound expects them."""

    def test_it_names_every_tile_once(self) -> None:
        """Also of a slide of one region, of one with a lone tile, and of one without any."""
        policy = self.make()
        for n_regions, n_tiles in ((7, None), (1, None), (3, 1), (3, 0)):
            glance = self._glance("a", n_regions, n_tiles=n_tiles)
            assert is_order(policy(glance), glance.n_tiles)

    def test_one_slide_has_one_order(self) -> None:
        """Asked again, by a policy that was made again, and after another slide."""
        policy = self.make()
        order = policy(self._glance("a", 7))
        policy(self._glance("b", 5))
        assert np.array_equal(policy(self._glance("a", 7)), order)
        assert np.array_equal(self.make()(self._glance("a", 7)), order)

    def test_only_a_policy_that_draws_follows_a_seed(self) -> None:
        """A seed is kept, and another one refused, only where a policy says that it draws."""
        policy, glance = self.make(), self._glance("a", 7)
        assert policy.draws or np.array_equal(policy(replace(glance, seed=1)), policy(glance))

    def test_what_tiles_are_worth_is_given_by_a_policy_that_compares_them_over_slides(self) -> None:
        """Where it says so it does, for the order that it gives; it never rises, whatever is absent."""
        policy = self.make()
        for n_regions, n_tiles, without in ((7, None, None), (7, None, 3), (3, 1, None), (3, 0, None)):
            glance = self._glance("a", n_regions, n_tiles=n_tiles, without=without)
            ranked = policy.ranked(glance)
            assert (ranked.worth is not None) == policy.over_slides
            assert np.array_equal(ranked.order, policy(glance))
            if ranked.worth is not None:
                assert ranked.worth.shape == (glance.n_tiles,)
                assert not (ranked.worth[1:] > ranked.worth[:-1]).any()
                assert not np.isnan(ranked.worth).any()

    def test_an_order_that_goes_on_depends_on_nothing_that_was_not_read(self) -> None:
        """However far a slide is read, and whatever others are: what a small budget reads comes first in a larger one.

        Rows that were not read are no numbers here, and every seventh tile is absent.
        """
        policy = self.make()
        for n_regions, n_tiles, without in ((7, None, None), (7, None, 3), (3, 1, None), (3, 0, None)):
            glance = self._glance("a", n_regions, n_tiles=n_tiles, without=without)
            everything = self._first_read(policy, glance, [glance.n_tiles])
            assert is_order(everything, glance.n_tiles)
            for n in (1, glance.n_tiles // 9, glance.n_tiles // 2):
                n = min(n, glance.n_tiles)
                assert set(self._first_read(policy, glance, [n])[:n]) == set(everything[:n])
            half = [glance.n_tiles // 9, glance.n_tiles // 2]
            assert np.array_equal(self._first_read(self.make(), glance, [*half, glance.n_tiles]), everything)

    def _first_read(self, policy: Policy, glance: Glance, rungs: Sequence[int]) -> TileOrder:
        """The order of tiles that are read to some numbers of them, one after the other."""
        rows = np.random.default_rng(5).standard_normal((glance.n_tiles, self.fine_dim)).astype(np.float16)

        def read(wanted: Bool[np.ndarray, " tile"]) -> tuple[np.ndarray, np.ndarray]:
            there = wanted & (np.arange(glance.n_tiles) % 7 != 0)
            return np.where(wanted[:, None], rows, np.nan)[there], there

        order = Unfolding(policy.name, glance, policy.ranked(glance))
        for n in rungs:
            assert order.first(n, read).sum() == n
        return order.known

    def test_it_changes_nothing_of_what_it_looks_at(self) -> None:
        """The same arrays are stored afterwards."""
        glance = self._glance("a", 7)
        for values in (glance.region, glance.center_um, glance.tissue, *_arrays_of(glance.coarse)):
            values.flags.writeable = False
        self.make()(glance)

    def test_coarse_tiles_that_are_absent_are_no_error(self) -> None:
        """Single ones, and all of a region."""
        glance = self._glance("a", 7, without=3)
        assert is_order(self.make()(glance), glance.n_tiles)

    def test_a_coarser_magnification_may_have_been_read_in_part(self) -> None:
        """Of most regions nothing is known there."""
        glance = self._glance("a", 7)
        mpp = min(self.dims)
        if len(self.dims) == 1:
            return  # the coarsest is always read whole
        coarse = glance.coarse
        read = np.isin(coarse.region[mpp], (1, 4))
        coarse = replace(
            coarse,
            features={**coarse.features, mpp: coarse.features[mpp][read]},
            region={**coarse.region, mpp: coarse.region[mpp][read]},
            center_um={**coarse.center_um, mpp: coarse.center_um[mpp][read]},
        )
        assert is_order(self.make()(replace(glance, coarse=coarse)), glance.n_tiles)

    def _glance(self, slide: str, n_regions: int, *, n_tiles: int | None = None, without: int | None = None) -> Glance:
        """A slide of 448-um regions in rows of three; the fine tiles lie four by four in each."""
        rng = np.random.default_rng([n_regions, len(slide), ord(slide)])
        number = np.arange(n_regions)
        xy_um = 448.0 * np.column_stack([number % 3 + 2, number // 3 + 1]).astype(np.float64)
        features, region, center = {}, {}, {}
        for mpp in (*self.dims, 0.5):
            places = lattice_um(448.0, round(2 / mpp)).astype(np.float32)
            of_row = np.repeat(number, len(places))
            there = np.ones(len(of_row), dtype=bool) if mpp == 0.5 else of_row != without
            if without is not None and mpp < max(self.dims):
                there &= np.arange(len(of_row)) % 5 != 0
            region[mpp] = of_row[there].astype(np.int32)
            center[mpp] = np.tile(places, (n_regions, 1))[there]
            if mpp != 0.5:
                features[mpp] = rng.standard_normal((int(there.sum()), self.dims[mpp])).astype(np.float32)
        fine, places = region.pop(0.5)[:n_tiles], center.pop(0.5)[:n_tiles]
        coarse = SlideTokens(slide, 448.0, 0.5, xy_um, features, region, center)
        return Glance(coarse, fine, places, 0.5, rng.random(len(fine)), 0)


def _arrays_of(tokens: SlideTokens) -> list[np.ndarray]:
    parts = (tokens.features, tokens.region, tokens.center_um)
    return [tokens.region_xy_um, *(values for part in parts for values in part.values())]
