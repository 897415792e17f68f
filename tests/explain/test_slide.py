"""The parts of a slide's score: what they add up to, and what the head itself says where tiles are absent."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.bags import Bag, bag_of_slide
from parfocal.errors import ConfigError, StoreError
from parfocal.explain import SlideExplanation, Sources, explain_slide, interactions, shapley_values
from parfocal.explain.asked import way_to_ask
from parfocal.explain.slide import Branch, branches_of, explain_tokens
from parfocal.geometry import format_mpp
from parfocal.heads import FittedProbe
from parfocal.heads.abmil import FittedAbmil, GatedAttention
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.terms import PairTerm
from parfocal.heads.network import FittedNetwork
from parfocal.predict import Head
from parfocal.predict.head import TILES
from parfocal.stats.whitening import AffineMap
from parfocal.store import EmbeddingSet

from .conftest import Panel

MPPS = (2.0, 1.0, 0.5)
NAMES = tuple(map(format_mpp, MPPS))
DIM = 32


def rich(head: Head) -> FittedContrast:
    """A contrast head in which everything has a say: means, three pairs, a second moment, a tanh, a lifted term."""
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    rng = np.random.default_rng(0)

    def directions(rank: int, dim: int = DIM) -> np.ndarray:
        return rng.normal(size=(dim, rank)) / np.sqrt(dim)

    terms = (
        PairTerm(0, 0, 1, directions(2), directions(2), power=0.5),
        PairTerm(0, 0, 2, directions(1), directions(1), shift=(0.3, -0.4), weight=2.0, power=1.0),
        PairTerm(0, 1, 2, directions(3), directions(3)),
        PairTerm(0, 2, 2, directions(1), directions(1)),
        PairTerm(0, 0, 2, directions(2, 5), directions(2, 5), lift_u=directions(2), lift_v=directions(2)),
    )
    means = replace(probe.means, coefficient=tuple(rng.normal(size=(DIM, 1)) for _ in MPPS))
    return replace(probe, terms=terms, means=means, means_weight=np.array([0.7]), intercept=np.array([0.2]))


def abmil() -> FittedAbmil:
    """Published attention over three magnifications, with random weights."""
    torch.manual_seed(0)
    maps = tuple(AffineMap(np.full(DIM, 0.1 * place, np.float32), np.full(DIM, 1.5, np.float32)) for place in range(3))
    return FittedAbmil(GatedAttention([DIM] * 3, 1).eval(), maps, 1, np.array([3.0]), np.array([0.5]))


def with_probe(head: Head, probe: FittedProbe) -> Head:
    """The head with another probe of the same bags."""
    return replace(head, probes=(probe,))


def absent(bag: Bag, usual: np.ndarray) -> Bag:
    """The bag of a slide without any of these tiles."""
    return replace(
        bag,
        rows=bag.rows[:0],
        start=np.array([0, 0]),
        n_instances=np.array([0]),
        mean=usual[None].astype(np.float32),
        region_mean=np.full_like(bag.region_mean, np.nan),
        region_present=np.zeros_like(bag.region_present),
    )


def worth_by_the_head(head: Head, tiles: EmbeddingSet, slide: str) -> np.ndarray:
    """What the head says, by its own `score`, of a slide that has lost the tiles of some magnifications."""
    tokens, worth = tiles.read(slide), []
    (probe,) = head.probes
    for coalition in range(1 << len(MPPS)):
        bags: dict[tuple[str, str], Bag] = {}
        for place, mpp in enumerate(MPPS):
            bag = bag_of_slide(tokens, mpp)
            usual = probe.means.offset[place] if isinstance(probe, FittedContrast) else np.full(DIM, np.nan)
            bags[TILES, NAMES[place]] = bag if coalition >> place & 1 else absent(bag, usual)
        if coalition or not isinstance(probe, FittedNetwork):
            worth.append(head.score(bags, 0)[0])
        else:  # it takes no slide without an instance: attention then sums up nothing, and its constant is left
            (one,) = probe.columns
            worth.append(np.array([one.location + one.scale * float(one.parameters["head bias"].item())]))
    return np.array(worth)


def adds_up(one: SlideExplanation, score: np.ndarray) -> None:
    """Every sum that is promised, to 1e-6."""
    parts, near = one.parts, dict[str, Any](rtol=0, atol=1e-6)
    assert np.allclose(parts.score, score, **near)
    assert np.allclose(parts.base + parts.shapley.sum(axis=0), score, **near)
    assert np.allclose(parts.base + parts.own.sum(axis=0) + parts.interaction.sum(axis=0), score, **near)
    assert one.regions is not None
    assert np.allclose(parts.base + one.regions.contribution.sum(axis=0), score, **near)
    assert np.allclose(one.regions.shapley.sum(axis=0), one.regions.contribution, **near)
    assert np.allclose(one.regions.shapley.sum(axis=1), parts.shapley, **near)
    assert np.allclose(one.regions.interaction.sum(axis=1), parts.interaction, **near)


@pytest.fixture(scope="module")
def heads(few: Panel) -> Mapping[str, Head]:
    contrast, union = few.head("pairing", "contrast"), few.head("fine", "union")
    return {
        "contrast": contrast,
        "rich contrast": with_probe(contrast, rich(contrast)),
        "union": union,
        "abmil": with_probe(union, abmil()),
    }


KINDS = ("contrast", "rich contrast", "union", "abmil")


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_regions_add_up_to_the_score_before_calibration(
    few: Panel, heads: Mapping[str, Head], kind: str
) -> None:
    head = heads[kind]
    for slide in few.tiles.slides[:5]:
        bags = {(TILES, name): bag_of_slide(few.tiles.read(slide), mpp) for name, mpp in zip(NAMES, MPPS, strict=True)}

        adds_up(explain_slide(head, Sources(few.tiles), slide), head.score(bags, 0)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_absent_is_what_the_head_itself_says_of_a_slide_without_these_tiles(
    few: Panel, heads: Mapping[str, Head], kind: str
) -> None:
    slide = few.tiles.slides[3]
    with np.errstate(invalid="ignore"):
        worth = worth_by_the_head(heads[kind], few.tiles, slide)

    parts = explain_slide(heads[kind], Sources(few.tiles), slide).parts

    assert np.allclose(parts.base, worth[0], rtol=0, atol=1e-6)
    assert np.allclose(parts.shapley, shapley_values(worth), rtol=0, atol=1e-6)
    assert np.allclose(parts.interaction, interactions(worth), rtol=0, atol=1e-6)
    if kind != "contrast":
        assert (np.abs(parts.shapley) > 1e-4).all()


@pytest.mark.parametrize("kind", ["union", "abmil"])
def test_tiles_of_attention_add_up_to_their_regions(few: Panel, heads: Mapping[str, Head], kind: str) -> None:
    slide = few.tiles.slides[1]
    one, tokens = explain_slide(heads[kind], Sources(few.tiles), slide), few.tiles.read(slide)
    total = np.zeros((tokens.n_regions, len(one.parts.score)))
    for mpp, tiles in one.tiles.items():
        np.add.at(total, tokens.region[mpp], tiles.contribution)
        corner = tokens.region_xy_um[tokens.region[mpp]]
        assert tiles.side_um == 224 * mpp
        assert (tiles.xy_um >= corner).all()
        assert (tiles.xy_um + tiles.side_um <= corner + one.side_um).all()

    assert one.regions is not None
    assert set(one.tiles) == set(MPPS)
    assert np.allclose(total, one.regions.contribution, rtol=0, atol=1e-9)


def test_tiles_of_contrast_are_the_part_of_the_slide_means(few: Panel, heads: Mapping[str, Head]) -> None:
    head, slide = heads["rich contrast"], few.tiles.slides[1]
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    bags = [bag_of_slide(few.tiles.read(slide), mpp) for mpp in MPPS]

    one = explain_slide(head, Sources(few.tiles), slide)

    of_tiles = sum(tiles.contribution.sum() for tiles in one.tiles.values())
    means = probe.means_weight * (probe.means.score(bags, np.array([0]))[0] - probe.means.intercept)
    assert of_tiles == pytest.approx(float(means[0]), abs=1e-6)


@pytest.mark.parametrize("arm", ["0.5/mean", "0.5/mlp", "0.5/gated-attention", "0.5/second-moment"])
def test_of_a_head_of_one_magnification_it_is_all_and_the_others_are_nothing(few: Panel, arm: str) -> None:
    head, slide = few.head("fine", arm), few.tiles.slides[0]
    bag = bag_of_slide(few.tiles.read(slide), 0.5)
    score = head.score({(TILES, "0.5"): bag}, 0)[0]

    one = explain_slide(head, Sources(few.tiles), slide)

    assert (one.parts.shapley[:2] == 0).all()
    assert (one.parts.own[:2] == 0).all()
    assert (one.parts.interaction == 0).all()
    assert np.allclose(one.parts.base + one.parts.shapley[2], score, rtol=0, atol=1e-6)
    assert abs(one.parts.shapley[2, 0]) > 1e-4
    if arm == "0.5/mlp":  # a network on the slide mean is no sum over regions
        assert one.regions is None
        assert not one.tiles
    else:
        adds_up(one, score)
    if arm in ("0.5/mean", "0.5/mlp"):  # nothing is there: the slide mean is that of the training slides
        usual = replace(bag, mean=np.mean([few.tiles.read(s).features[0.5].mean(0) for s in few.tiles.slides], 0)[None])
        assert np.allclose(one.parts.base, head.score({(TILES, "0.5"): usual}, 0)[0], rtol=0, atol=1e-5)


def test_averaged_heads_have_the_mean_of_their_parts(few: Panel) -> None:
    head, slide = few.head("fine", "late"), few.tiles.slides[2]
    bags = {(TILES, name): bag_of_slide(few.tiles.read(slide), mpp) for name, mpp in zip(NAMES, MPPS, strict=True)}

    one = explain_slide(head, Sources(few.tiles), slide)

    adds_up(one, head.score(bags, 0)[0])
    assert (one.parts.interaction == 0).all()
    for place, probe in enumerate(head.probes):
        alone = probe.score([bags[TILES, NAMES[place]]], np.array([0]))[0]
        nothing = explain_slide(
            replace(head, probes=(probe,), facts=_only(head, place)), Sources(few.tiles), slide
        ).parts.base
        assert np.allclose(one.parts.shapley[place], (alone - nothing) / 3, rtol=0, atol=1e-6)


def _only(head: Head, place: int) -> Any:
    return head.facts.model_copy(update={"branches": (head.facts.branches[place],)})


def test_the_order_of_magnifications_in_a_head_does_not_matter(few: Panel, heads: Mapping[str, Head]) -> None:
    head, order = heads["rich contrast"], (2, 0, 1)  # place in the turned head -> place before
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    at = [order.index(place) for place in range(3)]
    turned = replace(
        probe,
        offset=tuple(probe.offset[place] for place in order),
        terms=tuple(replace(one, first=at[one.first], second=at[one.second]) for one in probe.terms),
        means=replace(
            probe.means,
            offset=tuple(probe.means.offset[place] for place in order),
            coefficient=tuple(probe.means.coefficient[place] for place in order),
        ),
    )
    tokens = few.tiles.read(few.tiles.slides[4])

    here = explain_tokens(head, branches_of(head), Sources(few.tiles), tokens)
    names = tuple(NAMES[place] for place in order)
    branch = Branch(turned, tuple((TILES, name) for name in names), order, way_to_ask(turned, names, "head"))
    there = explain_tokens(head, [branch], Sources(few.tiles), tokens)

    assert np.allclose(here.parts.shapley, there.parts.shapley, rtol=0, atol=1e-9)
    assert np.allclose(here.parts.interaction, there.parts.interaction, rtol=0, atol=1e-9)
    assert here.regions is not None
    assert there.regions is not None
    assert np.allclose(here.regions.shapley, there.regions.shapley, rtol=0, atol=1e-9)


def test_of_a_pair_with_one_side_absent_nothing_is_read(few: Panel, heads: Mapping[str, Head]) -> None:
    """The interaction of two magnifications is the sum of their own terms, whatever the third one shows."""
    head, slide = heads["rich contrast"], few.tiles.slides[0]
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    bags = [bag_of_slide(few.tiles.read(slide), mpp) for mpp in MPPS]
    terms = dict.fromkeys(combinations(range(3), 2), 0.0)
    for term in probe.terms:
        if term.first != term.second:
            terms[term.first, term.second] += float(probe.add_up(term, bags, np.array([0]))[0])

    found = explain_slide(head, Sources(few.tiles), slide).parts.interaction[:, 0]

    assert np.allclose(found, list(terms.values()), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("concat", r"\(mean\) takes 2, 1, 0.5 mpp side by side and was not fitted with one of them missing"),
        ("concat-mlp", r"\(mlp\) takes 2, 1, 0.5 mpp side by side"),
        ("region-mlp", r"\(region_mlp\) takes 2, 1, 0.5 mpp side by side"),
        ("parents", "pools 'parents', which are not the tiles of one magnification"),
    ],
)
def test_a_head_that_cannot_be_asked_without_a_magnification_is_refused(few: Panel, arm: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain_slide(few.head("fine", arm), Sources(few.tiles), few.tiles.slides[0])


@pytest.mark.parametrize("readout", ["attention", "decoded"])
def test_a_readout_with_a_part_for_each_magnification_is_refused(
    few: Panel, heads: Mapping[str, Head], readout: str
) -> None:
    head = heads["contrast"]
    (branch,) = head.facts.branches
    facts = head.facts.model_copy(update={"branches": (branch.model_copy(update={"bags": ((readout, "region"),)}),)})

    with pytest.raises(ConfigError, match=f"pools the readout {readout} of a region encoder"):
        explain_slide(replace(head, facts=facts), Sources(few.tiles), few.tiles.slides[0])


def test_what_is_not_finite_is_refused(few: Panel, heads: Mapping[str, Head]) -> None:
    probe = replace(rich(heads["contrast"]), intercept=np.array([np.inf]))

    with pytest.raises(StoreError, match="is not finite"):
        explain_slide(with_probe(heads["contrast"], probe), Sources(few.tiles), few.tiles.slides[0])
