"""One arm of an evaluation: what goes in, how it is pooled, what it can know; and how arms are asked for by words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from parfocal.errors import ConfigError
from parfocal.heads import Fit

__all__ = ["ARM_METHODS", "Arm", "ArmKind", "Knowledge", "choose_arms"]

ArmKind = Literal["single", "late", "mixed"]
"""What an arm can know: one magnification, unordered bags of several, or which tiles of several lie together."""

Knowledge = Literal["single", "single, with regions", "late", "mixed"]
"""The same, with those apart that know of one magnification which tiles lie in one region."""

ARM_METHODS: Mapping[str, str] = {
    "mean": "mean of a slide's vectors, linear model (logistic, least squares or hazards)",
    "mlp": "mean of a slide's vectors, one hidden layer",
    "abmil": "gated attention over a slide's vectors",
    "second-moment": "second moment of the regions' means of one magnification, stacked with slide means",
    "pseudo-coarse": "gated attention over the finest tiles and their means in place of coarser ones",
    "pseudo-contrast": "cross-scale contrast of the same",
    "concat": "slide means of all magnifications side by side, linear model",
    "concat-mlp": "slide means of all magnifications side by side, one hidden layer",
    "late": "one gated attention for each magnification, averaged",
    "union": "gated attention over the tiles of all magnifications",
    "parents": "gated attention, each finest tile beside its parents",
    "contrast": "cross-scale contrast of tile embeddings, or of what a region encoder made",
    "region-mlp": "one hidden layer over each region's means of all magnifications, averaged",
    "bilinear": "low-rank products of each region's means of two magnifications, averaged",
    "finetune": "a region encoder trained on in every fold; slow, and only where its model is named",
}
"""What each method does with the vectors of a slide, by the word that asks for it."""

_TRAINED = frozenset({"mlp", "abmil", "pseudo-coarse", "concat-mlp", "union", "parents", "region-mlp", "bilinear"})
_REGIONS = frozenset({"second-moment", "pseudo-coarse", "pseudo-contrast"})


@dataclass(frozen=True, eq=False)
class Arm:
    """One line of the table.

    Attributes:
        name: what goes in.
        family: the heading it stands under.
        pooling: how a slide becomes a number.
        kind: what it can know.
        bags: what is pooled: (number of the set, name of the bag).
        pool: the probe; None for an arm that averages the predictions of others.
        average_of: the numbers of these others in the table.
        id: what it is asked for by, unique in its table: source and method, such as `0.5/abmil` or `mem/cls/mean`.
        with_regions: whether it knows which tiles of its one magnification lie in one region.
        reads: the digest of what the probe reads beside bags, such as a model; empty without.
    """

    name: str
    family: str
    pooling: str
    kind: ArmKind
    bags: tuple[tuple[int, str], ...]
    pool: Fit | None
    average_of: tuple[int, ...] = ()
    id: str = ""
    with_regions: bool = False
    reads: str = ""

    @property
    def label(self) -> str:
        """The arm in one piece of text, unique in its table."""
        return f"{self.name}: {self.pooling}"

    @property
    def method(self) -> str:
        """The word of `ARM_METHODS`."""
        return self.id.rsplit("/", 1)[-1]

    @property
    def knows(self) -> Knowledge:
        """What it can know.

        A ceiling for unordered tiles of one magnification is none for an arm that knows which of them lie together: in
        pixels, the arrangement of fine tiles shows something of what a coarse one shows.
        """
        return "single, with regions" if self.kind == "single" and self.with_regions else self.kind

    @property
    def is_random(self) -> bool:
        """Whether its fit draws random numbers, so that another seed gives another result."""
        return self.pool is not None and self.method in _TRAINED | {"finetune"}


def choose_arms(arms: Sequence[Arm], only: Sequence[str]) -> tuple[Arm, ...]:
    """The arms that some word asks for, in the order of the table, with those that they average; all without a word.

    A word is a method, an arm's id, or neighbouring parts of ids: `abmil`, `0.5/abmil`, `0.5`, `mem`, `mem/cls`, `cls`.

    Raises:
        ConfigError: a word asks for none.
    """
    if not only:
        return tuple(arms)
    for word in only:
        if not any(_asks_for(word, arm) for arm in arms):
            words = dict.fromkeys(part for arm in arms for part in arm.id.split("/"))
            hint = " It needs a model (--models FOLDER)." if word == "finetune" else ""
            raise ConfigError(f"there is no arm {word!r}; these sets allow {', '.join(words)}, or an id.{hint}")
    kept = {place for place, arm in enumerate(arms) if any(_asks_for(word, arm) for word in only)}
    kept |= {other for place in kept for other in arms[place].average_of}
    order = sorted(kept)
    return tuple(
        replace(arms[place], average_of=tuple(order.index(other) for other in arms[place].average_of))
        for place in order
    )


def _asks_for(word: str, arm: Arm) -> bool:
    return f"/{word.strip('/')}/" in f"/{arm.id}/"
