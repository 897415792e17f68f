"""What a policy says: in which order the fine tiles of a slide are read, by what is known before any of them is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from parfocal.embed.glance import Glance, TileOrder, is_order
from parfocal.errors import ConfigError, PluginError
from parfocal.plugins import Origin, Plugin

Needs = Literal["nothing", "model", "head"]
"""What a policy is bound to: nothing, a `TileDecoder` of a pretrained model, or a `HeadOfBags`."""

Order = Callable[[Glance], TileOrder]
"""From what is known of a slide to the numbers of all its planned tiles, the first to be read first.

It depends on nothing else but what it was bound to: not on other slides, and on no fine embedding.
"""

_NEEDED = {"model": "a pretrained model that predicts tiles", "head": "a fitted head"}


@dataclass(frozen=True)
class Policy(Plugin):
    """One way to choose where to look closely.

    A budget is a prefix of its order (`chosen`), so budgets nest.

    Attributes:
        name: the word of `--zoom`.
        order: of a slide; of a policy that needs something, only once that is bound.
        needs: what has to be bound first.
        binds: makes the order from what is needed.
    """

    order: Order | None = None
    needs: Needs = "nothing"
    binds: Callable[[Any], Order] | None = None

    def __post_init__(self) -> None:
        if (self.needs == "nothing") != (self.binds is None) or (self.needs == "nothing" and self.order is None):
            raise ValueError(f"the policy {self.name} has either an order, or something that it needs and is bound to")

    def bound(self, to: Any) -> "Policy":
        """The policy with what it needs.

        Args:
            to: a `TileDecoder` or a `HeadOfBags`, as `needs` says.

        Raises:
            ConfigError: it needs nothing, or what is given cannot say where to read.
        """
        if self.binds is None:
            raise ConfigError(f"the policy {self.name} looks at the slide alone. Name no model and no head with it.")
        return replace(self, order=self.binds(to))

    def __call__(self, glance: Glance) -> TileOrder:
        """The order of a slide's tiles.

        Raises:
            ConfigError: what the policy needs was not given.
        """
        if self.order is None:
            raise ConfigError(f"the policy {self.name} needs {_NEEDED[self.needs]}. Name one, or another policy.")
        return self.order(glance)

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

    def __call__(self, glance: Glance) -> TileOrder:
        with self.origin.blamed():
            order = self.order(glance)
            if not is_order(order, glance.n_tiles):
                raise PluginError(
                    f"{self.origin} does not name each of the {glance.n_tiles} tiles of {glance.coarse.slide} once."
                )
        return order
