"""Step 10 of the path: predictions in, metrics, comparisons, tables and one self-contained page out.

`parfocal.stats` holds the numbers, this folder what is written of them: a table is declared once as `Field`s, from
which CSV, JSON, terminal and page follow (`writer.py`); a `ReportPage` is built of sections of text, tables and
figures, and `make_report` writes it as one HTML file.
"""

from parfocal.report.arms import ArmResult, Reference, arms_sentences, arms_table
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
from parfocal.report.writer import (
    Field,
    columns,
    interval_columns,
    page_table,
    pick,
    plain,
    read,
    show,
    show_difference,
    show_interval,
    show_number,
    show_p,
    show_signed,
    terminal_table,
    to_records,
    write_json,
    write_table,
)

__all__ = [
    "ArmResult",
    "Column",
    "Field",
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
    "columns",
    "curves_panel",
    "forest_figure",
    "interval_columns",
    "make_report",
    "page_table",
    "pick",
    "plain",
    "png",
    "read",
    "reliability_figure",
    "roc_figure",
    "show",
    "show_difference",
    "show_interval",
    "show_number",
    "show_p",
    "show_signed",
    "slide_map_figure",
    "terminal_table",
    "tile_gallery",
    "tile_strip",
    "to_records",
    "training_figure",
    "write_json",
    "write_table",
]
