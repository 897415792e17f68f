"""Flat pictures that are too large, or too slow, to be read as slides become tiled pyramids, which are.

In: a PNG, a JPEG, or a TIFF without levels. Out: a TIFF in tiles with levels, each half of the one before it, that says
how many micrometres a pixel has.
"""

from parfocal.convert.run import ConvertedPicture, ConvertSettings, ConvertSummary, convert_pictures

__all__ = ["ConvertSettings", "ConvertSummary", "ConvertedPicture", "convert_pictures"]
