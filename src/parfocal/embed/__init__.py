"""Slides and tile encoders in, a set of embeddings in a store out: `embed_slides`, its events, what it would cost."""

from parfocal.embed.estimate import RunEstimate, SlideEstimate, estimate_run
from parfocal.embed.events import (
    EmbedSummary,
    Event,
    Notice,
    OnEvent,
    RunStarted,
    SlideFinished,
    TilesDone,
)
from parfocal.embed.progress import RunProgress, estimate_table, summary_table
from parfocal.embed.run import create_embedding_set, embed_slides
from parfocal.embed.settings import EmbedSettings, load_encoders
from parfocal.embed.slide import EmbeddedSlide, embed_slide

__all__ = [
    "EmbedSettings",
    "EmbedSummary",
    "EmbeddedSlide",
    "Event",
    "Notice",
    "OnEvent",
    "RunEstimate",
    "RunProgress",
    "RunStarted",
    "SlideEstimate",
    "SlideFinished",
    "TilesDone",
    "create_embedding_set",
    "embed_slide",
    "embed_slides",
    "estimate_run",
    "estimate_table",
    "load_encoders",
    "summary_table",
]
