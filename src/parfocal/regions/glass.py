"""The colour of a slide's empty glass, which everything else on it is compared with.

Glass is flat, and the brightest thing that there is much of. It need not be white or grey: a lamp, a filter or a
camera's white balance tints it. White padding and blank tiles are flat as well; they give way to glass that is not
pure white. A slide whose background is dark is no brightfield slide.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from parfocal.regions.colours import strongest, weakest

# Grey levels between the darkest and the brightest neighbour of a pixel of flat ground; noise has 2 to 4 at this scale.
_FLAT = 7
# Smallest share of the slide for a colour to be its glass.
_COMMON = 0.01
# Half the width of a peak of colours, in grey levels.
_PEAK = 6
_MAX_PEAKS = 8
_SAMPLE = 100_000
_WHITE = 253
_NEUTRAL = 10
# The largest tint of glass, as the part of the brightest colour that the weakest one lacks. Stains absorb green first:
# flat pink is more likely pale tissue than a pink lamp.
_MAX_TINT = {"green": 0.18, "other": 0.35}
_MIN_SHARE_OF_TINT = 0.04
# Of the pixels of about the same colour, flat or not, so many belong to glass's narrow peak: .67 to .96 of the glass of
# seventeen real slides and fields; smooth bone, cartilage and pale necrosis have .02 to .4.
_ABOUT = 18
_NARROW = 0.5
# Under an uneven lamp only the tint makes a peak, which says less: more of it is asked for.
_NARROW_UNEVEN = 0.7
_COMMON_UNEVEN = 0.1
_DARKEST = 60
_BRIGHTER = 15
_FLUORESCENCE = 128


@dataclass(frozen=True, eq=False)
class Glass:
    """What is known of a slide's background.

    Attributes:
        colour: red, green and blue of the glass; nearly white where the slide shows none.
        is_dark_field: whether its background is dark and what is on it bright, as in fluorescence.
    """

    colour: Float[np.ndarray, "3"]
    is_dark_field: bool = False


@dataclass(frozen=True, eq=False)
class _Peak:
    colour: Float[np.ndarray, "3"]
    share: float
    is_fill: bool
    """It is one exact colour with straight edges: padding, or tiles that were not scanned."""

    @property
    def is_white(self) -> bool:
        return bool(self.colour.min() >= _WHITE)

    @property
    def is_neutral(self) -> bool:
        return bool(self.colour.max() - self.colour.min() <= _NEUTRAL)

    @property
    def may_be_glass(self) -> bool:
        brightest = float(self.colour.max())
        if self.is_neutral:
            return brightest >= _DARKEST
        weakest = "green" if int(self.colour.argmin()) == 1 else "other"
        is_tint = 1 - float(self.colour.min()) / brightest <= _MAX_TINT[weakest]
        return brightest >= _DARKEST and is_tint and self.share >= _MIN_SHARE_OF_TINT


def find_glass(rgb: UInt8[np.ndarray, "y x 3"]) -> Glass:
    """The colour of the glass on a small picture of a slide."""
    brightest = strongest(rgb)
    peaks = _peaks(rgb)
    shown = [peak for peak in peaks if peak.may_be_glass]
    candidates = [one for one in shown if not any(_outshines(other, one) for other in shown)]
    candidates = [one for one in candidates if _is_narrow(rgb, one) and not _is_outshone(rgb, one)]
    real = [one for one in candidates if not one.is_white]
    white = [one for one in candidates if one.is_white]
    # Grey glass goes before white, which may be padding. Tinted glass does where there is more of it, or where the
    # white is padding for certain: something flat and coloured on white glass is tissue.
    white_share = sum(one.share for one in white)
    is_padding = all(one.is_fill for one in white)
    chosen = [one for one in real if one.is_neutral and not one.is_fill]
    chosen = chosen or [one for one in real if one.share > white_share or (is_padding and not one.is_fill)]
    chosen = chosen or [one for one in real if one.is_neutral] or white or real
    if chosen:
        return Glass(max(chosen, key=lambda one: one.share).colour)
    uneven = _uneven_glass(rgb)
    if uneven is not None:
        return Glass(uneven)
    return Glass(np.full(3, 250.0), _is_dark_field(brightest, peaks))


def _peaks(rgb: UInt8[np.ndarray, "y x 3"]) -> list[_Peak]:
    """The commonest flat colours, most common first."""
    flat = _is_flat(rgb)
    colours = rgb[flat]
    colours = colours[:: max(len(colours) // _SAMPLE, 1)]
    # In units of the sample, of all pixels, flat or not.
    everything = max(len(colours) / max(float(flat.mean()), 1e-9), 1.0)
    least = _COMMON * everything
    if len(colours) < least:
        return []
    bins = (colours >> 2).astype(np.int32)
    counts = np.bincount((bins[:, 0] << 12) | (bins[:, 1] << 6) | bins[:, 2], minlength=1 << 18).astype(np.float32)
    cube = _box3(counts.reshape(64, 64, 64))
    found: list[_Peak] = []
    for _ in range(_MAX_PEAKS):
        place = np.unravel_index(int(cube.argmax()), cube.shape)
        if cube[place] < least / 2:
            break
        centre = np.array(place) * 4 + 1.5
        colour = colours[_near(colours, centre)].mean(axis=0)
        nearest = colours[_near(colours, colour)]
        share = len(nearest) / everything
        if share >= _COMMON:
            found.append(_Peak(nearest.mean(axis=0), share, _is_fill(rgb, nearest)))
        low = [max(at - 3, 0) for at in place]
        cube[tuple(slice(start, at + 4) for start, at in zip(low, place, strict=True))] = 0
    return sorted(found, key=lambda peak: -peak.share)


def _near(colours: UInt8[np.ndarray, "n 3"], colour: Float[np.ndarray, "3"]) -> Bool[np.ndarray, "n"]:
    """Which of the colours differ from one by no more than half the width of a peak, each of the three."""
    # OpenCV rounds bounds to whole grey levels, so they are made whole first.
    found = cv2.inRange(colours[:, None], np.ceil(colour - _PEAK), np.floor(colour + _PEAK))
    return np.asarray(found)[:, 0] > 0


def _uneven_glass(rgb: UInt8[np.ndarray, "y x 3"]) -> Float[np.ndarray, "3"] | None:
    """The colour of glass under a lamp that is brighter in some places than in others: its tint is the same everywhere.

    Taken from its brighter half. Stained tissue has one tint as well where the stain is grey, but it is not flat.
    """
    step = max(rgb.shape[0] * rgb.shape[1] // _SAMPLE, 1)
    flat = _is_flat(rgb).ravel()[::step]
    colours = rgb.reshape(-1, 3)[::step].astype(np.float32)
    shown = (colours.max(axis=1) >= _DARKEST) & (colours.min(axis=1) < _WHITE)
    if (flat & shown).mean() < _COMMON_UNEVEN:
        return None
    tint = colours[:, ::2] / np.maximum(colours.sum(axis=1, keepdims=True), 1.0)  # red and blue, as parts of all
    bins = (tint[flat & shown] * 100).astype(np.int64)
    commonest = int(np.bincount(bins[:, 0] * 101 + bins[:, 1]).argmax())
    centre = (np.array([commonest // 101, commonest % 101]) + 0.5) / 100
    centre = tint[flat & shown & (np.abs(tint - centre) <= 0.01).all(axis=1)].mean(axis=0)
    near = flat & shown & (np.abs(tint - centre) <= 0.01).all(axis=1)
    about = shown & (np.abs(tint - centre) <= 0.02).all(axis=1)
    if near.mean() < _COMMON_UNEVEN or near.sum() < _NARROW_UNEVEN * about.sum():
        return None
    brightness = colours.mean(axis=1)
    top = near & (brightness >= np.median(brightness[near]))
    colour = colours[top].mean(axis=0).astype(np.float64)
    is_outshone = (shown & (brightness > np.percentile(brightness[near], 99) + _BRIGHTER / 2)).mean() > 0.02
    return colour if _Peak(colour, float(near.mean()), False).may_be_glass and not is_outshone else None


def _is_flat(rgb: UInt8[np.ndarray, "y x 3"]) -> Bool[np.ndarray, "y x"]:
    kernel = np.ones((3, 3), np.uint8)
    return strongest(np.asarray(cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel))) <= _FLAT


def _box3(cube: Float[np.ndarray, "r g b"]) -> Float[np.ndarray, "r g b"]:
    """Sums of 3 x 3 x 3 neighbours."""
    for axis in range(3):
        sums = cube.copy()
        along, total = np.moveaxis(cube, axis, 0), np.moveaxis(sums, axis, 0)
        total[1:] += along[:-1]
        total[:-1] += along[1:]
        cube = sums
    return cube


def _is_fill(rgb: UInt8[np.ndarray, "y x 3"], colours: UInt8[np.ndarray, "n 3"]) -> bool:
    """Whether a flat colour is one exact colour for the most part, and its edges run along rows and columns."""
    codes = (colours.astype(np.int32) << np.array([16, 8, 0])).sum(axis=1)
    half = len(codes) // 2
    commonest = int(np.partition(codes, half)[half])  # the middle one, where one is so common
    if np.count_nonzero(codes == commonest) < 0.9 * len(codes):
        return False
    exact = np.array([commonest >> shift & 255 for shift in (16, 8, 0)], np.uint8)
    mask = np.asarray(cv2.inRange(rgb, exact, exact)) // 255
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    steps = straight = 0
    for one in (mask, mask.T):
        if one.shape[1] < 2:
            continue
        edge = one[:, 1:] != one[:, :-1]  # (y, x): a step between two columns
        steps += int(edge.sum())
        run = cv2.erode(edge.astype(np.uint8), np.ones((9, 1), np.uint8), borderValue=1)
        straight += int(cv2.dilate(run, np.ones((9, 1), np.uint8)).astype(bool).sum())
    return steps == 0 or straight >= 0.75 * steps


def _outshines(other: _Peak, one: _Peak) -> bool:
    """Whether the other flat colour is the glass and this one lies on it, as a shadow or pale tissue does."""
    if other.is_white or other.is_fill:
        return False
    difference = other.colour - one.colour
    return bool(difference.min() >= -4 and difference.mean() >= _PEAK)


def _is_narrow(rgb: UInt8[np.ndarray, "y x 3"], peak: _Peak) -> bool:
    """Whether most of what has about this colour has nearly this colour, and is flat."""
    low, high = np.clip(peak.colour - _ABOUT, 0, 255), np.clip(peak.colour + _ABOUT, 0, 255)
    about = cv2.inRange(rgb, low, high).astype(bool)
    if not peak.is_white:
        about &= weakest(rgb) < _WHITE
    return bool(peak.share >= _NARROW * about.mean())


def _is_outshone(rgb: UInt8[np.ndarray, "y x 3"], peak: _Peak) -> bool:
    """Whether a good part of the slide is brighter than a dim or tinted colour: then that is no glass."""
    if peak.is_neutral and peak.colour.max() >= 200:
        return False
    # Tissue is darker than its glass under any light; white padding does not count.
    margin = _BRIGHTER if peak.is_neutral else _BRIGHTER / 2
    brighter = (rgb.mean(axis=2) > peak.colour.mean() + margin) & (weakest(rgb) < _WHITE)
    return float(brighter.mean()) > 0.02


def _is_dark_field(brightest: UInt8[np.ndarray, "y x"], peaks: list[_Peak]) -> bool:
    """Whether most of a slide without glass is dark, and the rest is not as bright as stained tissue in gaps is."""
    if peaks and peaks[0].share >= 0.05:
        ground = float(peaks[0].colour.max())
        is_ground = ground < (_FLUORESCENCE if peaks[0].share >= 0.3 else _DARKEST)
    else:
        ground = float(np.percentile(brightest, 10))
        is_ground = ground < _DARKEST / 2
    signal = brightest[brightest > ground + _BRIGHTER]
    if not is_ground or not len(signal):
        return is_ground
    # Black that is no straight-edged gap of a scan surrounds saturated signal as well as faint.
    surrounds = bool(peaks) and peaks[0].share >= 0.5 and not peaks[0].is_fill
    return surrounds or float(np.median(signal)) < _FLUORESCENCE
