"""Where the rows of one magnification of a slide are, whoever wrote them."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from parfocal.store.files import ForeignRows
from parfocal.store.layout import FILE_DIGEST
from parfocal.store.slide_index import SlideIndex

_FOREIGN = ("features_file", "features_part", "features_format")


@dataclass(frozen=True, eq=False)
class RowSource:
    """What an index says of the rows of one magnification, or of the regions of a slide.

    Attributes:
        count: how many there are.
        row: the row of each in the features file; None where all rows are meant, in their own order.
        foreign: where the rows are; None for the set's own.
        digest: that of the features file; None in sets of older versions.
        folder: of the set.
        own: the set's features file, where it has rows of its own.
    """

    count: int
    row: np.ndarray | None
    foreign: ForeignRows | None
    digest: str | None
    folder: Path
    own: Path

    @property
    def path(self) -> Path:
        """The file that the rows are in."""
        return self.own if self.foreign is None else Path(os.path.normpath(self.folder / self.foreign.file))

    def rows_in(self, set_path: Path) -> ForeignRows:
        """The same rows as another set names them."""
        file = os.path.relpath(self.path.resolve(), set_path.resolve())
        return ForeignRows(file) if self.foreign is None else replace(self.foreign, file=file)

    @classmethod
    def of(cls, group: SlideIndex, count: int, folder: Path, own: Path) -> "RowSource":
        """What a group of an index says of `count` rows; those of the set itself are in `own`."""
        file, part, name, digest = (
            None if value is None else str(value) for value in map(group.attrs.get, (*_FOREIGN, FILE_DIGEST))
        )
        foreign = None if file is None else ForeignRows(file, part or "", name)
        return cls(count, group.values.get("row"), foreign, digest, folder, own)
