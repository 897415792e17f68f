"""Contrast where a part of the regions is not read in one bag: what is read counts, what is not adds what is usual.

F_i is a sum over regions, so a head that was fitted on whole slides need not be fitted again, as long as nothing in the
sum depends on which regions were read. With a what the known bag gives and b what the other one gives (projections, or
their tanh), a region adds

    (a - mean of a over the slide) (b - b usual) if it is read,        and        a (b usual) in any case.

Where the share s of a region's tiles is read, b counts times s (1 + q) / (s + q), with q the noise of a whole region's
mean over what its tiles have in common: the mean of few tiles says less, and is not to be believed as much.

b is centred on what the slide's mean is expected to be from the known bag (see `expected`), and the divisor stays the
slide's number of regions. The mean of a is taken off because a constant in a costs a whole slide nothing, where b adds
up to nothing, and so may be anything; over the regions that happen to be read b does not add up. What reading a region
can add is known before: |a - mean of a| times the spread of b.

Where the known bag is read in part itself, the mean of a is over what was read of it: then what b is wrong by for a
whole slide, such as stain, cancels over these regions as it does over all. Centred on what is usual instead, stain
stays in both; centred on the regions that both bags have, regions that were chosen for their a lose it (see the
decision on slides that are read in part). A region that neither has adds what is usual of both.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from parfocal.bags import Bag
from parfocal.errors import ConfigError
from parfocal.heads.base import Bags, Scores, Slides
from parfocal.heads.contrast.expected import expected_along, means_of_regions
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.moments import slide_means, slide_sums
from parfocal.heads.contrast.terms import PairTerm, Usual, project


def score_partly_read(
    head: FittedContrast,
    bags: Bags,
    slides: Slides,
    partly: Collection[int],
    *,
    share: Mapping[int, Float64[np.ndarray, " _region"]] | None = None,
) -> Scores:
    """The score of each column for slides of which some bags hold a part of the regions.

    Where all of a slide is read, directions without a tanh give what `head.score` gives. The mean of what was read
    counts by the share of regions that it is the mean of, so that a slide of which nothing is read has the usual one.

    Args:
        head: fitted on whole slides; a bag of which a part was read in training too is scored as `head.score` does.
        bags: as the head was fitted on; rows of regions that are not present are never read.
        slides: numbers.
        partly: the numbers of the bags that are partly read. Where both bags of a pair are, the first is the known one
            as far as it is read, and its regions are believed by their share too.
        share: of the tiles of each region of these slides that was read, by the number of the bag; without it regions
            are read whole or not at all.

    Raises:
        ConfigError: the head was saved before heads kept what is usual, or it takes the second moment of a bag that is
            partly read.
    """
    shown = [
        bag.of_share(head.means.offset[number], slides) if number in partly else bag for number, bag in enumerate(bags)
    ]
    total = head.means.score(shown, slides) * head.means_weight + head.intercept
    for term in head.terms:
        side = _side_in_part(head, term, bags, partly)
        if side is None:
            added = head.add_up(term, bags, slides)
        else:
            counts = np.diff(bags[term.first].region_start)[slides]
            of_region = _of_regions(head, side, bags, slides, partly, share or {})
            divisor = np.maximum(counts, 1) ** (1 - term.power)
            added = slide_sums(of_region[:, None], counts)[:, 0] / divisor
        total[:, term.column] += added
    return np.asarray(total)


def regions_partly_read(
    head: FittedContrast, term: PairTerm, bags: Bags, share: Mapping[int, Float64[np.ndarray, " _region"]]
) -> Float64[np.ndarray, " region"]:
    """What each region of one slide adds to `score_partly_read` through one of the terms.

    Args:
        head: as there.
        term: one of its terms.
        bags: of the slide alone.
        share: of the tiles of each region that was read, by the numbers of the bags that are partly read.

    Raises:
        ConfigError: as there.
    """
    side = _side_in_part(head, term, bags, share)
    if side is None:
        return head.of_regions(term, bags, 0)
    of_region = _of_regions(head, side, bags, np.array([0]), share, share)
    return np.asarray(of_region / max(len(of_region), 1) ** (1 - term.power))


def _side_in_part(head: FittedContrast, term: PairTerm, bags: Bags, partly: Collection[int]) -> "_Side | None":
    """The side of a term that is read in part; None where nothing in the sum depends on which regions were read."""
    number = 1 if term.second in partly else 0
    unread = term.second if number else term.first
    if unread not in partly or head.offset[unread] is not None:
        return None
    if term.first == term.second:
        raise ConfigError(
            f"this contrast head compares the regions of {bags[unread].name} with one another, and of these a part "
            "is read: what they are centred on is not known. Fit a head on several magnifications."
        )
    return _Side.of(term, number)


def worth_of_reading(head: FittedContrast, known: Mapping[int, Bag], *unread: int) -> Float64[np.ndarray, " region"]:
    """How far the score of one slide is expected to move when a region is read in some of the bags.

    The root of the expected square of what the region adds, as if b were independent of a, which it is over all classes
    where only the pairing knows the label. Several pairs of directions are weighed by the covariance of what they give;
    squares of several pairs of bags and of several columns are added.

    Args:
        head: fitted on these bags and on those that are not read.
        known: bags of this slide alone, by their numbers in the head; of some a part of the regions may be there.
        unread: numbers of the bags that are not read. What two of these add together is the same for all regions.

    Returns:
        Of each region, in the units of the score; 0 where the other bag does not have the region.

    Raises:
        ConfigError: no term pairs one of them with another bag, so all regions are worth the same; or the head was
            saved before it kept the spread.
    """
    squares = []
    for side in _sides(head, unread):
        term = side.term
        a, there = side.known(head, known, np.array([0]))
        weight = term.weight / max(len(there), 1) ** (1 - term.power)
        squares.append(np.where(there, weight**2 * np.einsum("rj,jk,rk->r", a, side.usual.size, a), 0.0))
    # A square that is 0 may be a little less by rounding.
    return np.asarray(np.sqrt(np.maximum(np.sum(squares, axis=0), 0.0)))


def noise_of_regions(head: FittedContrast, *unread: int) -> float:
    """The noise of a region's mean in unread bags over what its tiles have in common, along the head's directions.

    The mean over its terms, by the weight that they have in the score. A share s of a region's tiles tells s / (s + q)
    of what the region could tell, with q this number.

    Raises:
        ConfigError: as `worth_of_reading`.
    """
    sides = _sides(head, unread)
    weight = np.array([side.term.weight**2 * np.trace(side.usual.size) for side in sides])
    return float(np.average([side.usual.noise for side in sides], weights=weight if weight.sum() > 0 else None))


def pairs_with_known(head: FittedContrast, unread: Collection[int]) -> bool:
    """Whether a term pairs a bag that is not read with one that is."""
    return any((term.first in unread) != (term.second in unread) for term in head.terms)


def _sides(head: FittedContrast, unread: Collection[int]) -> "list[_Side]":
    """The sides of the terms that pair a bag that is not read with one that is."""
    terms = [term for term in head.terms if (term.first in unread) != (term.second in unread)]
    if not terms:
        raise ConfigError(
            "this contrast head pairs the magnification that is to be read with no other one, so it cannot say where "
            "to read. Choose a policy that needs no head, such as stride."
        )
    return [_Side.of(term, 1 if term.second in unread else 0) for term in terms]


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two sides of a term, which is read in part, and what is usual of it.

    Attributes:
        term: of which.
        number: 0 for the first, 1 for the second.
        usual: of this side.
    """

    term: PairTerm
    number: int
    usual: Usual

    @staticmethod
    def of(term: PairTerm, number: int) -> "_Side":
        if term.usual is None:
            raise ConfigError(
                "this contrast head was saved before heads kept what is usual of slides that are read in part. Fit it "
                "again."
            )
        return _Side(term, number, term.usual[number])

    @property
    def bags(self) -> tuple[int, int]:
        """The numbers of the known bag and of the one that is read in part."""
        return (self.term.first, self.term.second) if self.number else (self.term.second, self.term.first)

    def known(
        self, head: FittedContrast, bags: Mapping[int, Bag], slides: Slides
    ) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]]:
        """What the known side gives about its slide's mean, and which regions it has; the others are 0."""
        a, there, of_slide = self._other(head, bags, slides)
        a[there] -= slide_means(a[there], of_slide[there], len(slides))[of_slide[there]]
        return a, there

    def in_any_case(
        self, head: FittedContrast, bags: Mapping[int, Bag], slides: Slides, *, partly: bool
    ) -> Float64[np.ndarray, "region"]:
        """What each region adds without being read; where the known side is partly read, one that it lacks too."""
        a, there, _ = self._other(head, bags, slides)
        if partly:
            a[~there] = self.of_known.mean
        return np.asarray(a @ self.usual.mean)

    @property
    def of_known(self) -> Usual:
        """What is usual of the known side."""
        assert self.term.usual is not None  # `of` has looked
        return self.term.usual[1 - self.number]

    def _other(
        self, head: FittedContrast, bags: Mapping[int, Bag], slides: Slides
    ) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"], np.ndarray]:
        term, (number, _) = self.term, self.bags
        onto, lifted = (term.u, term.lift_u) if self.number else (term.v, term.lift_v)
        along, there = project(bags[number], head.offset[number], onto, slides, lifted)
        a = np.where(there[:, None], term.squashed(along, 1 - self.number), 0.0)
        return a, there, np.repeat(np.arange(len(slides)), np.diff(bags[number].region_start)[slides])

    def read(
        self, bags: Bags, slides: Slides
    ) -> tuple[Float64[np.ndarray, "region rank"], Bool[np.ndarray, " region"]]:
        """What the other side gives about what is usual, and which regions are read."""
        term, (known, number) = self.term, self.bags
        onto, lifted = (term.v, term.lift_v) if self.number else (term.u, term.lift_u)
        about = expected_along(self.usual.expected, means_of_regions(bags[known], slides))
        along, there = project(bags[number], None, onto, slides, lifted, about)
        return term.squashed(along, self.number) - self.usual.mean, there


def _of_regions(
    head: FittedContrast,
    side: _Side,
    bags: Bags,
    slides: Slides,
    partly: Collection[int],
    share: Mapping[int, Float64[np.ndarray, " _region"]],
) -> Float64[np.ndarray, " region"]:
    """What each region of some slides adds, before it is divided by their number."""
    by_number = dict(enumerate(bags))
    (a, a_there), (b, b_there) = side.known(head, by_number, slides), side.read(bags, slides)
    known, unread = side.bags
    believed: Float64[np.ndarray, " region"] | float = 1.0
    for number, usual in ((known, side.of_known), (unread, side.usual)):
        if number in share:
            own = share[number]
            believed = believed * own * (1 + usual.noise) / np.maximum(own + usual.noise, 1e-300)
    of_region = np.where(a_there & b_there, believed * (a * b).sum(axis=1), 0.0)
    of_region += side.in_any_case(head, by_number, slides, partly=known in partly)
    return np.asarray(side.term.weight * of_region)
