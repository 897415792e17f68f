"""A fitted head as policies take it: it does not know itself which bags it was fitted on."""

from collections.abc import Collection
from dataclasses import dataclass

from parfocal.bags import Bag, bag_of_slide
from parfocal.errors import ConfigError
from parfocal.geometry import format_mpp
from parfocal.heads import FittedProbe
from parfocal.store import SlideTokens


@dataclass(frozen=True, eq=False)
class HeadOfBags:
    """A fitted head and what its bags are.

    Attributes:
        probe: the head.
        bags: the name of each bag that it pools, in its order: magnifications as text, such as `2` and `0.5`.
    """

    probe: FittedProbe
    bags: tuple[str, ...]

    @property
    def finest(self) -> int | None:
        """Which of the bags holds the tiles of the finest magnification; None where none holds those of one alone."""
        mpps = {float(name): number for number, name in enumerate(self.bags) if name.replace(".", "").isdecimal()}
        return mpps[min(mpps)] if mpps else None

    def known(self, coarse: SlideTokens, unread: Collection[int]) -> dict[int, Bag]:
        """The bags that the head pools beside those that are not read, by their numbers, of one slide.

        Args:
            coarse: what is known of the slide.
            unread: the numbers of the bags that are not read.

        Raises:
            ConfigError: the slide does not show one of them.
            ValueError: the slide has no tile of one of them.
        """
        shown = {format_mpp(mpp): mpp for mpp in coarse.mpps}
        wanted = {number: name for number, name in enumerate(self.bags) if number not in unread}
        missing = [name for name in wanted.values() if name not in shown]
        if missing:
            names = " and ".join(self.bags[number] for number in sorted(unread))
            raise ConfigError(
                f"the head pools {', '.join(missing)}, and {', '.join(shown) or 'nothing'} is known of {coarse.slide} "
                f"before tiles at {names} mpp are read. Fit a head on the coarser magnifications and that "
                "one."
            )
        return {number: bag_of_slide(coarse, shown[name]) for number, name in wanted.items()}

    def unread_at(self, mpp: float) -> tuple[int, ...]:
        """Which of the bags hold tiles of a magnification that is to be read, or of finer ones that it opens.

        Raises:
            ConfigError: none holds that magnification.
        """
        least = self.number_of(mpp)
        mpps = {number: float(name) for number, name in enumerate(self.bags) if name.replace(".", "").isdecimal()}
        return tuple(number for number, own in mpps.items() if number == least or own < mpp)

    def number_of(self, mpp: float) -> int:
        """Which of the bags holds the tiles of a magnification.

        Raises:
            ConfigError: none does.
        """
        name = format_mpp(mpp)
        if name not in self.bags:
            raise ConfigError(
                f"the head does not pool tiles at {name} mpp but {', '.join(self.bags)}, so it cannot say where to "
                "read. Fit one on the magnifications of the slides, or choose a policy that needs no head."
            )
        return self.bags.index(name)
