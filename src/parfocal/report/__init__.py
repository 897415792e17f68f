"""Step 10 of the path: predictions in, metrics, comparisons, tables and one self-contained page out.

`parfocal.report.statistics` holds the numbers, this folder the page: build a `ReportPage` from sections of text, tables
and figures, and `make_report` writes it as one HTML file.
"""

from parfocal.report.arms import (
    ArmResult,
    Reference,
    arms_sentences,
    arms_table,
    show_difference,
    show_interval,
    show_number,
    show_p,
    show_signed,
)
from parfocal.report.figures import (
    curves_panel,
    forest_figure,
    reliability_figure,
    roc_figure,
    training_figure,
)
from parfocal.report.images import png, slide_map_figure, tile_gallery, tile_strip
from parfocal.report.page import (
    Column,
    Figure,
    Note,
    Panel,
    ReportPage,
    Row,
    Section,
    Table,
    Text,
    make_report,
)

__all__ = [
    "ArmResult",
    "Column",
    "Figure",
    "Note",
    "Panel",
    "Reference",
    "ReportPage",
    "Row",
    "Section",
    "Table",
    "Text",
    "arms_sentences",
    "arms_table",
    "curves_panel",
    "forest_figure",
    "make_report",
    "png",
    "reliability_figure",
    "roc_figure",
    "show_difference",
    "show_interval",
    "show_number",
    "show_p",
    "show_signed",
    "slide_map_figure",
    "tile_gallery",
    "tile_strip",
    "training_figure",
]
