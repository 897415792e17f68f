"""Which of the sets of a store is meant."""

from collections.abc import Sequence

from parfocal.errors import ConfigError
from parfocal.store.set import EmbeddingSet
from parfocal.table import some_of


def the_set(sets: Sequence[EmbeddingSet], source: str, name: str | None, *, kind: str) -> EmbeddingSet:
    """The set that is meant: by its name or the beginning of it; without one the only set of a kind, or the only set.

    Raises:
        ConfigError: there is no such set, or several are meant.
    """
    if name is None:
        found = [one for one in sets if one.kind == kind] or [*sets]
    else:
        found = [one for one in sets if one.name == name] or [one for one in sets if one.name.startswith(name)]
    if len(found) != 1:
        what = f"{len(found)} sets" + ("" if name is None else f" whose name begins with {name!r}")
        names = some_of([one.name for one in found or sets], 6)
        raise ConfigError(f"{source} holds {what}. Name one with --set: {names}.")
    return found[0]
