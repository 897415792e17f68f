"""What was made or read last, kept as long as there is room for it: most questions are about the slide of just now."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

Part = TypeVar("Part")


@dataclass(eq=False)
class Recent(Generic[Part]):
    """What was made last, under its key: never more than has room, whoever asks.

    Attributes:
        room: how much is kept at most.
        size: how much of it a part takes; all take one where None.
    """

    room: int
    size: Callable[[Part], int] | None = None
    parts: dict[Hashable, tuple[Part, int]] = field(default_factory=dict, init=False)
    lock: Lock = field(default_factory=Lock, init=False)
    taken: int = field(default=0, init=False)

    def __reduce__(self) -> tuple[type["Recent[Part]"], tuple[int, Callable[[Part], int] | None]]:
        return Recent, (self.room, self.size)  # another process begins with none of them

    def get(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """What is there, or else what `make` gives; what was not asked for longest makes room."""
        with self.lock:
            found = self.parts.pop(key, None)
            if found is not None:
                self.parts[key] = found
                return found[0]
        made = make()
        size = 1 if self.size is None else self.size(made)
        with self.lock:
            self.taken += size - self.parts.pop(key, (made, 0))[1]
            self.parts[key] = made, size
            while self.taken > self.room:
                self.taken -= self.parts.pop(next(iter(self.parts)))[1]
        return made
