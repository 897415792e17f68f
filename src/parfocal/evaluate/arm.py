"""One arm of an evaluation: what goes in, how it is pooled, what it can know; and how arms are asked for by words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from parfocal.errors import ConfigError
from parfocal.heads import Fit

ArmKind = Literal["single", "late", "mixed", "slide"]
"""What an arm can know: one magnification, unordered bags of several, which tiles of several lie together, or what a
whole-slide encoder of another tool says of the slide."""

Knowledge = Literal["single", "single, with regions", "late", "mixed", "slide"]
"""The same, with those apart that know of one magnification which tiles lie in one region."""

SPLIT = "split"
"""The source of the arms that tell context from magnification."""

ATTENTIVE = "gated-attention"
"""The method of the primary comparison."""


@dataclass(frozen=True)
class Method:
    """One way from what goes into an arm to a score.

    Attributes:
        meaning: what it does with the vectors of a slide.
        head: the registered head that it fits; empty for one that averages other arms.
        pooling: how it is shown; as the head is where empty.
    """

    meaning: str
    head: str
    pooling: str = ""


_MOMENTS = "means and second moments"

ARM_METHODS: Mapping[str, Method] = {
    "mean": Method("mean of a slide's vectors, linear model (logistic, least squares or hazards)", "mean"),
    "mlp": Method("mean of a slide's vectors, one hidden layer", "mlp"),
    "gated-attention": Method("gated attention over a slide's vectors, a small network trained shortly", "attention"),
    "abmil": Method(
        "the gated attention of Ilse, Tomczak and Welling (2018) at its published width and training; slow, and only "
        "where it is named",
        "abmil",
    ),
    "second-moment": Method(
        "second moment of the regions' means of one magnification, stacked with slide means",
        "contrast",
        "second moment of regions",
    ),
    "pseudo-coarse": Method(
        "gated attention over the finest tiles and their means in place of coarser ones",
        "attention",
        "gated attention over all",
    ),
    "pseudo-contrast": Method("cross-scale contrast of the same", "contrast"),
    "concat": Method(
        "slide means of all magnifications side by side, linear model", "mean", "means side by side, linear model"
    ),
    "concat-mlp": Method(
        "slide means of all magnifications side by side, one hidden layer",
        "mlp",
        "means side by side, one hidden layer",
    ),
    "late": Method("one gated attention for each magnification, averaged", "", "one gated attention each, averaged"),
    "union": Method(
        "gated attention over the tiles of all magnifications", "attention", "gated attention over all tiles"
    ),
    "parents": Method(
        "gated attention, each finest tile beside its parents",
        "attention",
        "gated attention, each tile beside its parents",
    ),
    "contrast": Method("cross-scale contrast of tile embeddings, or of what a region encoder made", "contrast"),
    "region-mlp": Method("one hidden layer over each region's means of all magnifications, averaged", "region_mlp"),
    "finest": Method("means and second moments of the finest tiles, each by itself", "contrast", _MOMENTS),
    "context": Method("the same, and of their means over the areas of coarser tiles", "contrast", _MOMENTS),
    "everything": Method(
        "the same, and of the coarser tiles, with the products of magnifications within regions", "contrast", _MOMENTS
    ),
    "elsewhere": Method("the same, with products of fine tiles and coarse ones of other regions", "contrast", _MOMENTS),
    "bilinear": Method("low-rank products of each region's means of two magnifications, averaged", "bilinear"),
    "finetune": Method(
        "a region encoder trained on in every fold; slow, and only where its model is named", "finetuned"
    ),
}
"""What each method does, by the word that asks for it; another package's head is a method of its own name."""


@dataclass(frozen=True, eq=False)
class Arm:
    """One line of the table: fields say what it is, and three texts how it is shown.

    Attributes:
        source: what goes in, by the word that asks for it: a magnification (`0.5`), or a model and its readout
            (`mem/tokens`); empty for all magnifications. Where there are several sets of tiles, theirs comes first.
        method: how a slide becomes a number, a word of `ARM_METHODS` or the name of another package's head.
        knows: what it can know. A ceiling for unordered tiles of one magnification is none for an arm that knows which
            of them lie together: in pixels, the arrangement of fine tiles shows something of what a coarse one shows.
        name: what goes in, as it is shown.
        family: the heading it stands under.
        pooling: the method, as it is shown.
        bags: what is pooled: (number of the set, name of the bag).
        pool: the probe; None for an arm that averages the predictions of others, and where none is there yet.
        average_of: the numbers of these others in the table.
        model: the region encoder that made what is pooled or is trained on; empty without.
        readout: what was read out of it.
        is_control: whether it is there to show what learning brings, as a model of random weights is.
        is_random: whether its fit draws random numbers, so that another seed gives another result.
        reads: the digest of what the probe reads beside bags, such as a model; empty without.
        by_request: whether it takes so long that it is there only where its method is named.
    """

    source: str
    method: str
    knows: Knowledge
    name: str
    family: str
    pooling: str
    bags: tuple[tuple[int, str], ...] = ()
    pool: Fit | None = None
    average_of: tuple[int, ...] = ()
    model: str = ""
    readout: str = ""
    is_control: bool = False
    is_random: bool = False
    reads: str = ""
    by_request: bool = False

    @property
    def id(self) -> str:
        """What it is asked for by, unique in its table: source and method, such as `0.5/mlp` or `mem/cls/mean`."""
        return f"{self.source}/{self.method}" if self.source else self.method

    @property
    def label(self) -> str:
        """The arm in one piece of text for people, unique in its table but for a set of equal name."""
        return f"{self.name}: {self.pooling}"

    @property
    def kind(self) -> ArmKind:
        """What it can know, in short: one that knows the regions of one magnification is a single one."""
        return "single" if self.knows == "single, with regions" else self.knows


def places_of(arms: Sequence[Arm], text: str) -> list[int]:
    """The places of the arms with this id, or with this label in a report."""
    return [place for place, arm in enumerate(arms) if text in (arm.id, arm.label)]


def arm_label(arms: Sequence[Arm], place: int) -> str:
    """What an arm is called; with its family where another one of the table has the same label."""
    arm = arms[place]
    alone = sum(other.label == arm.label for other in arms) == 1
    return arm.label if alone else f"{arm.family}, {arm.label}"


def choose_arms(arms: Sequence[Arm], only: Sequence[str]) -> tuple[Arm, ...]:
    """The arms that some word asks for, in the order of the table, with those that they average.

    Without a word it is all but those by request. A word is a method, an arm's id, or neighbouring parts of ids: `mlp`,
    `0.5/mlp`, `0.5`, `mem`, `mem/cls`, `cls`.

    Raises:
        ConfigError: a word asks for none.
    """
    for word in only:
        if not any(_asks_for(word, arm) for arm in arms):
            words = dict.fromkeys(part for arm in arms for part in arm.id.split("/"))
            hint = " It needs a model (--models FOLDER)." if word == "finetune" else ""
            raise ConfigError(f"there is no arm {word!r}; these sets allow {', '.join(words)}, or an id.{hint}")
    kept = {
        place
        for place, arm in enumerate(arms)
        if (any(_asks_for(word, arm) for word in only) if only else not arm.by_request)
    }
    kept |= {other for place in kept for other in arms[place].average_of}
    order = sorted(kept)
    return tuple(
        replace(arms[place], average_of=tuple(order.index(other) for other in arms[place].average_of))
        for place in order
    )


def _asks_for(word: str, arm: Arm) -> bool:
    names_method = not arm.by_request or arm.method in word.split("/")
    return names_method and f"/{word.strip('/')}/" in f"/{arm.id}/"
