"""What the index of a slide says, as plain values: read in one go, and known as long as its file is the same."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from parfocal.store.h5 import attributes_of, values_of

# Every index has the first of these, a group of a magnification the second and the third.
_OF_ALL, _OF_TILES = ("region_xy_um",), ("region", "center_um")
_OF_SOME = ("row", "tissue", "absent_coords", "unread_coords")
_BYTES_OF_ATTRIBUTES = 1 << 12


@dataclass(frozen=True, eq=False)
class SlideIndex:
    """What an index says of a slide, or one group of it of the tiles of a magnification. Nothing of it is changed.

    Attributes:
        attrs: its attributes.
        values: its arrays, by their names.
        groups: those of its magnifications, by their names.
    """

    attrs: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    groups: Mapping[str, "SlideIndex"] = field(default_factory=dict)

    def n_bytes(self) -> int:
        """What it takes in memory, about."""
        own = _BYTES_OF_ATTRIBUTES + sum(values.nbytes for values in self.values.values())
        return own + sum(group.n_bytes() for group in self.groups.values())

    @classmethod
    def read(cls, file: h5py.File, attrs: Mapping[str, Any], names: Iterable[str]) -> "SlideIndex":
        """What an open file says, of whose magnifications those of `names` are read."""
        groups = {name: file[name] for name in names}
        return cls(
            attrs,
            _values(file, _OF_ALL),
            {name: cls(attributes_of(group), _values(group, _OF_TILES)) for name, group in groups.items()},
        )


def _values(group: h5py.Group, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    found = {name: values_of(group, name) for name in (*names, *(one for one in _OF_SOME if one in group))}
    for values in found.values():
        values.flags.writeable = False
    return found
