"""Slides and tile encoders in, a set of embeddings in a store out: `embed_slides`, and what it would cost."""

from parfocal.embed.estimate import RunEstimate, SlideEstimate, estimate_run, estimate_table
from parfocal.embed.fleet import FleetPlan, FleetRun, FleetSettings, fleet_table, plan_fleet, play_fleet
from parfocal.embed.glance import Glance
from parfocal.embed.run import create_embedding_set, embed_slides
from parfocal.embed.settings import EmbedSettings, SlideSettings, load_encoders
from parfocal.embed.slide import embed_slide
from parfocal.embed.summary import EmbeddedSlide, EmbedSummary, summary_table
from parfocal.embed.zoom import Stop, Zoom

__all__ = [
    "EmbedSettings",
    "EmbedSummary",
    "EmbeddedSlide",
    "FleetPlan",
    "FleetRun",
    "FleetSettings",
    "Glance",
    "RunEstimate",
    "SlideEstimate",
    "SlideSettings",
    "Stop",
    "Zoom",
    "create_embedding_set",
    "embed_slide",
    "embed_slides",
    "estimate_run",
    "estimate_table",
    "fleet_table",
    "load_encoders",
    "plan_fleet",
    "play_fleet",
    "summary_table",
]
