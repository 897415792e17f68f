"""What a policy says: in which order tiles of a slide are read at a magnification, by what is known of coarser ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from parfocal.embed.glance import Glance, Ranked, TileOrder, is_order
from parfocal.errors import ConfigError, PluginError
from parfocal.plugins import Origin, Plugin

Need = Literal["head", "model"]
"""What a policy is bound to: a `HeadOfBags`, or a `TileDecoder` of a pretrained model."""

Order = Callable[[Glance], TileOrder | Ranked]
"""From what is known of a slide to the numbers of all its planned tiles, the first to be read first; with what reading
each is worth where that can be compared between slides, or with how the order goes on by what has been read.

It depends on nothing else but what it was bound to: not on other slides, and on no fine embedding that was not read.
"""

_NEEDED: dict[Need, str] = {"model": "a pretrained model that predicts tiles", "head": "a fitted head"}


@dataclass(frozen=True)
class Policy(Plugin):
    """One way to choose where to look closely.

    A budget is a prefix of its order (`chosen`), so budgets nest.

    Attributes:
        name: the word of `--zoom`.
        order: of a slide; of a policy that needs something, only once that is bound.
        needs: what has to be bound first, in the order that `binds` takes it.
        binds: makes the order from what is needed.
        draws: whether another seed of the run gives another order.
        over_slides: whether it says what tiles are worth in one unit on all slides, so that a budget can be spent over
            slides and not only on each.
        by_levels: whether it can choose among coarser tiles before anything of finer ones is read.
    """

    order: Order | None = None
    needs: tuple[Need, ...] = ()
    binds: Callable[..., Order] | None = None
    draws: bool = False
    over_slides: bool = False
    by_levels: bool = True

    def __post_init__(self) -> None:
        if bool(self.needs) == (self.binds is None) or (not self.needs and self.order is None):
            raise ValueError(f"the policy {self.name} has either an order, or something that it needs and is bound to")

    def bound(self, *to: Any) -> "Policy":
        """The policy with what it needs.

        Args:
            to: a `HeadOfBags`, a `TileDecoder` or both, as `needs` says.

        Raises:
            ConfigError: it needs nothing, or what is given cannot say where to read.
        """
        if self.binds is None:
            raise ConfigError(f"the policy {self.name} looks at the slide alone. Name no model and no head with it.")
        return replace(self, order=self.binds(*to))

    def with_head(self, head: Any) -> "Policy":
        """The policy, bound to a `HeadOfBags` where it needs one.

        Raises:
            ConfigError: the head cannot say where to read.
        """
        return self.bound(head) if self.needs else self

    def __call__(self, glance: Glance) -> TileOrder:
        """The order of a slide's tiles before any is read.

        Raises:
            ConfigError: what the policy needs was not given.
        """
        return self.ranked(glance).order

    def ranked(self, glance: Glance) -> Ranked:
        """The order of a slide's tiles, with what they are worth of a policy that says so over slides.

        Raises:
            ConfigError: what the policy needs was not given.
        """
        if self.order is None:
            needed = " and ".join(_NEEDED[need] for need in self.needs)
            raise ConfigError(f"the policy {self.name} needs {needed}. Name what it needs, or another policy.")
        return Ranked.of(self.order(glance))

    def guarded(self, origin: Origin) -> "Policy":
        """The same as it comes from another package: what it gives is looked at, and failures name the package."""
        order = None if self.order is None else _AddedOrder(origin, self.order)
        binds = None if self.binds is None else origin.guarded(self.binds, _AddedOrder)
        return replace(self, order=order, binds=binds)


@dataclass(frozen=True)
class _AddedOrder:
    """The order of another package."""

    origin: Origin
    order: Order

    def __call__(self, glance: Glance) -> Ranked:
        with self.origin.blamed():
            ranked = Ranked.of(self.order(glance))
            if not is_order(ranked.order, glance.n_tiles):
                raise PluginError(
                    f"{self.origin} does not name each of the {glance.n_tiles} tiles of {glance.coarse.slide} once."
                )
        return self._going_on(ranked)

    def _going_on(self, ranked: Ranked) -> Ranked:
        if ranked.goes_on is None:
            return ranked
        return replace(ranked, goes_on=self.origin.guarded(ranked.goes_on, lambda _, rest: self._going_on(rest)))
