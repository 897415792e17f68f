"""One of several equal parts of the slides of a run, for machines that share it and do not speak to each other."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field, field_validator, model_validator

from parfocal.config import Settings
from parfocal.errors import ConfigError

Named = TypeVar("Named")

_SHARD = re.compile(r"(\d{1,7})/(\d{1,7})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 0 as SLURM and Kubernetes count the tasks of an array.

    Attributes:
        number: which one, from 0.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that a text such as `0/4` names.

        Raises:
            ConfigError: it names none.
        """
        found = _SHARD.fullmatch(text)
        if found is None or int(found[1]) >= int(found[2]):
            raise ConfigError(
                f"the shard {text!r} cannot be: it is I/N, with I from 0 to N - 1. The first of four is 0/4, the last "
                "3/4."
            )
        return cls(int(found[1]), int(found[2]))

    def holds(self, slide: str) -> bool:
        """Whether a slide is in this shard.

        It is by a digest of the id alone, so that no other slide, and no order of a list, moves it. Python's own hash
        would differ from process to process.
        """
        digest = hashlib.sha256(slide.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _itself(slide: object) -> str:
    return str(slide)


class Sharding(Settings):
    """Which part of the slides a run works on."""

    shard: str | None = Field(
        None,
        description="Work on one of N equal parts of the slides: I/N, with I from 0 to N - 1. Which part a slide is in "
        "is decided by its id alone, so a longer list moves none. All slides when None.",
    )

    @field_validator("shard")
    @classmethod
    def _can_be(cls, text: str | None) -> str | None:
        return None if text is None else str(Shard.parse(text))

    @model_validator(mode="after")
    def _nobody_else_shares(self) -> "Sharding":
        if self.shard is not None and getattr(self, "executor", None) == "ray":
            raise ConfigError(
                f"shard={self.shard} is for machines that do not speak to each other, and on a Ray cluster they do, so "
                "the cluster shares the slides itself. Leave --shard or --executor ray out."
            )
        return self

    @property
    def part(self) -> Shard | None:
        """The shard; None where the run works on all slides."""
        return shard_of(self.shard)

    def own(self, slides: Iterable[Named], *, name: Callable[[Named], str] = _itself) -> list[Named]:
        """The slides that this run works on, in their order.

        Args:
            slides: of the whole run.
            name: gives the id of one; it is an id itself where nothing is said.
        """
        part = self.part
        return [slide for slide in slides if part is None or part.holds(name(slide))]


def shard_of(text: str | None) -> Shard | None:
    """The shard that is asked for; None where none is.

    Raises:
        ConfigError: there is no such shard.
    """
    return None if text is None else Shard.parse(text)


def refuse_shard(shard: str | None, what: str) -> None:
    """Return if no shard is asked for.

    Args:
        shard: what is asked for.
        what: what needs all slides at once, such as `a budget of all slides together`.

    Raises:
        ConfigError: one is.
    """
    if shard is not None:
        raise ConfigError(f"{what} needs all slides in one run, and shard={shard} has a part of them. Leave it out.")
