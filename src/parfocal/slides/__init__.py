"""Step 1 of the path: from a file to calibrated pixels.

In goes a path (or folders and manifests), out comes an open `Slide`: its levels, its micrometres per pixel with their
source, and RGB windows of any level, white beyond the edge. Nothing here knows of regions or tiles.
"""

from parfocal.slides.calibration import Calibration, check_slide_mpp
from parfocal.slides.folders import slide_name
from parfocal.slides.on_disk import slide_bytes, slide_exists, slide_files
from parfocal.slides.opening import open_slide
from parfocal.slides.reader import Gap, Window
from parfocal.slides.remote import RemoteFile, remote_state
from parfocal.slides.slide import (
    MAX_ENLARGEMENT,
    Level,
    Slide,
    check_resolution,
    read_tile,
    resample,
    tile_window,
)
from parfocal.slides.sources import SlideIds, SlideSource, find_slides, read_manifest

__all__ = [
    "MAX_ENLARGEMENT",
    "Calibration",
    "Gap",
    "Level",
    "RemoteFile",
    "Slide",
    "SlideIds",
    "SlideSource",
    "Window",
    "check_resolution",
    "check_slide_mpp",
    "find_slides",
    "open_slide",
    "read_manifest",
    "read_tile",
    "remote_state",
    "resample",
    "slide_bytes",
    "slide_exists",
    "slide_files",
    "slide_name",
    "tile_window",
]
