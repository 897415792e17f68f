"""What a probe says of one slide when some of its magnifications are absent, and what of it is whose.

Absent is absent: contrast gets no evidence from a pair with one side missing, and nothing from a slide mean that is not
there, which is to say the training mean; attention is asked with a bag that lacks the tiles, and sums up nothing where
no tile is left. A probe that needs several magnifications side by side was fitted with all of them there and has no
answer when one is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int

from parfocal.bags import Bag
from parfocal.errors import ConfigError
from parfocal.heads import FittedProbe
from parfocal.heads.abmil import FittedAbmil
from parfocal.heads.attention import AttentionNetwork
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import regions_partly_read
from parfocal.heads.linear import FittedMean
from parfocal.heads.mlp import MeanNetwork
from parfocal.heads.network import FittedNetwork

_ONE = np.array([0])


@dataclass(frozen=True, eq=False)
class ShownSlide:
    """One slide as a probe takes it.

    Attributes:
        bags: of this slide alone, all instances kept, by their numbers in the probe; those that can be asked about.
        region: of each bag the number of each instance's region in the slide.
        of_region: of each bag the number in the slide of each of its own regions.
        n_regions: of the slide.
        share: of each region's tiles that was read, of the bags that were read in part.
    """

    bags: Mapping[int, Bag]
    region: Mapping[int, Int[np.ndarray, " _tile"]]
    of_region: Mapping[int, Int[np.ndarray, " _region"]]
    n_regions: int
    share: Mapping[int, Float64[np.ndarray, " _region"]] = field(default_factory=dict)

    @property
    def in_order(self) -> list[Bag]:
        """The bags in the probe's order, with another one in the place of each that cannot be asked about."""
        any_bag = next(iter(self.bags.values()))
        return [self.bags.get(number, any_bag) for number in range(max(self.bags) + 1)]


@dataclass(frozen=True, eq=False)
class Said:
    """What a probe says with some magnifications.

    Attributes:
        total: the score of each column.
        of_regions: what each region adds to the score with none; None where the score is no sum over regions.
        of_tiles: what each tile adds by itself, by the number of its bag; the bags whose tiles add something so.
    """

    total: Float64[np.ndarray, " column"]
    of_regions: Float64[np.ndarray, "region column"] | None
    of_tiles: Mapping[int, Float64[np.ndarray, "_tile column"]] = field(default_factory=dict)


Ask = Callable[[frozenset[int]], Said]
"""From the numbers of the bags that are there to what is said."""


def way_to_ask(
    probe: FittedProbe, bags: Sequence[str], head: str, *, knows_absent: bool = False
) -> Callable[[ShownSlide], Ask]:
    """How a probe is asked about a slide with some of its magnifications.

    Args:
        probe: fitted.
        bags: the names of its bags, for messages.
        head: the head's folder, for messages.
        knows_absent: whether it was fitted on slides without some of its magnifications.

    Raises:
        ConfigError: it has no answer where one of its magnifications is absent, or it is not known how to ask it.
    """
    if isinstance(probe, FittedContrast):
        return lambda slide: _of_contrast(probe, slide)
    if isinstance(probe, FittedAbmil):
        return lambda slide: _of_sum(probe.constant, probe.of_instances, slide)
    if isinstance(probe, FittedNetwork) and isinstance(probe.network, AttentionNetwork):
        return lambda slide: _of_attention(probe, slide)
    takes_means = isinstance(probe, FittedMean) or (
        isinstance(probe, FittedNetwork) and isinstance(probe.network, MeanNetwork)
    )
    if len(bags) > 1 and not (takes_means and knows_absent):
        remedy = "Fit it with --drop-magnifications 0.5, or explain" if takes_means else "Explain"
        raise ConfigError(
            f"the head {head} ({probe.state().probe}) takes {', '.join(bags)} mpp side by side and was not fitted with "
            f"one of them missing, so it cannot say what each adds. {remedy} a head of the arm "
            "contrast or union, or of one magnification."
        )
    if isinstance(probe, FittedMean):
        return lambda slide: _of_sum(
            probe.intercept, lambda of: {n: probe.of_tiles(bag, n) for n, bag in of.items()}, slide
        )
    if isinstance(probe, FittedNetwork) and isinstance(probe.network, MeanNetwork):
        return lambda slide: _of_mean_network(probe, slide)
    raise ConfigError(
        f"the head {head} ({probe.state().probe}) is of a kind that cannot be asked without a magnification. Explain "
        "a head of the arm contrast or union, or one of mean, mlp, gated-attention or abmil of one magnification."
    )


def _of_contrast(probe: FittedContrast, slide: ShownSlide) -> Ask:
    # The mean of what was read counts by the share of regions that it is the mean of, as in `score_partly_read`.
    known = {number: slide.bags[number].region_present.mean() for number in slide.share}
    means = {
        number: probe.means.of_tiles(bag, number) * probe.means_weight * known.get(number, 1.0)
        for number, bag in slide.bags.items()
    }
    bags = slide.in_order
    terms = [
        (sides, one.column, slide.of_region[one.first], regions_partly_read(probe, one, bags, slide.share))
        for one in probe.terms
        if (sides := {one.first, one.second}) <= slide.bags.keys()
    ]
    constant = probe.intercept + probe.means.intercept * probe.means_weight

    def ask(there: frozenset[int]) -> Said:
        of_tiles = {number: means[number] for number in sorted(there)}
        of_regions = _by_region(of_tiles, slide, len(constant))
        for sides, column, regions, added in terms:
            if sides <= there:
                of_regions[regions, column] += added
        return Said(constant + of_regions.sum(axis=0), of_regions, of_tiles)

    return ask


def _of_attention(probe: FittedNetwork, slide: ShownSlide) -> Ask:
    network = probe.network
    assert isinstance(network, AttentionNetwork)

    def of_instances(bags: Mapping[int, Bag]) -> dict[int, Float64[np.ndarray, "_tile column"]]:
        of_columns = [network.of_instances(one, bags) for one in probe.columns]
        return {number: np.stack([one[number] for one in of_columns], axis=1) for number in bags}

    return _of_sum(np.array([network.constant(one) for one in probe.columns]), of_instances, slide)


def _of_sum(
    constant: Float64[np.ndarray, " column"],
    of_instances: Callable[[Mapping[int, Bag]], Mapping[int, Float64[np.ndarray, "_tile column"]]],
    slide: ShownSlide,
) -> Ask:
    """A probe whose score is a constant and a sum over the tiles that are there."""

    def ask(there: frozenset[int]) -> Said:
        of_tiles = of_instances({number: slide.bags[number] for number in sorted(there)}) if there else {}
        of_regions = _by_region(of_tiles, slide, len(constant))
        return Said(constant + of_regions.sum(axis=0), of_regions, of_tiles)

    return ask


def _of_mean_network(probe: FittedNetwork, slide: ShownSlide) -> Ask:
    """A network on slide means, which takes one that is left out for the training mean."""

    def ask(there: frozenset[int]) -> Said:
        shown = [
            bag if number in there else replace(bag, n_instances=np.zeros_like(bag.n_instances))
            for number, bag in enumerate(slide.in_order)
        ]
        return Said(probe.score(shown, _ONE)[0], None)

    return ask


def _by_region(
    of_tiles: Mapping[int, Float64[np.ndarray, "_tile column"]], slide: ShownSlide, n_columns: int
) -> Float64[np.ndarray, "region column"]:
    """What the tiles of each region add together."""
    total = np.zeros((slide.n_regions, n_columns))
    for number, added in of_tiles.items():
        np.add.at(total, slide.region[number], added)
    return total
