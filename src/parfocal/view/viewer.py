"""Everything that a page asks for, as plain values; what takes long is found in the background, slide after slide."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float64

from parfocal.errors import ParfocalError, SlideError
from parfocal.geometry import Box, format_mpp
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.similar import RegionSearch, SimilarRegion
from parfocal.version import __version__
from parfocal.view.columns import RegionColumns, read_columns
from parfocal.view.overlays import SCORE, SIMILAR, drawn, of_parts, of_set, values_of_set
from parfocal.view.pictures import TILE_PX, SlidePictures
from parfocal.view.plain import magnification_label, plain_number
from parfocal.view.viewed import NothingThereError, ViewedSet

if TYPE_CHECKING:
    import parfocal.view.said  # torch, which looking without a head does without

_T = TypeVar("_T")
_KEPT = 8  # columns of slides
_MOST_SIMILAR = 100


class Viewer:
    """A set of a store, with or without a head, as a page looks at it.

    Methods may be called from several threads. What a head says is asked for by one thread of its own, so that nobody
    waits for it but those who ask for it.
    """

    def __init__(
        self, viewed: ViewedSet, search: RegionSearch, opinions: "parfocal.view.said.HeadOpinions | None" = None
    ) -> None:
        """Take what is looked at.

        Args:
            viewed: the set and its slides' files.
            search: the regions of the set that are alike.
            opinions: of a head.
        """
        self.viewed, self.search, self.opinions = viewed, search, opinions
        self.pictures = SlidePictures(viewed)
        n = len(viewed.slides)
        self._said: list[tuple[dict[str, Any] | None, str | None] | None] = [None] * n
        self._broken: dict[int, str] = {}
        self._why: dict[int, str | None] = {}
        self._news: list[int] = []
        self._columns: OrderedDict[int, RegionColumns] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="head")
        self._stopped = threading.Event()
        self._background = threading.Thread(target=self._look_through, name="look", daemon=True)

    def start(self) -> None:
        """Begin to look through the slides."""
        self._background.start()

    def close(self) -> None:
        """Stop looking, and give files back."""
        self._stopped.set()
        self.viewed.stopped.set()
        self._asking.shutdown(wait=True, cancel_futures=True)
        if self._background.is_alive():
            self._background.join()
        self.pictures.close()

    def _look_through(self) -> None:
        for number in range(len(self.viewed.slides)):
            if self._stopped.is_set():
                return
            found = attempt(partial(self.viewed.problem, number))
            if isinstance(found, Failed):
                self._broken[number] = found.problem
            else:
                self._why[number] = found
            self._news.append(number)
        if self.opinions is None:
            return
        for number, slide in enumerate(self.viewed.slides):
            said = attempt(partial(self._asked, partial(self.opinions.predict, slide)))
            if self._stopped.is_set():
                return
            self._said[number] = (None, said.problem) if isinstance(said, Failed) else said
            self._news.append(number)
        if self.opinions.has_directions:
            for slide in self.viewed.slides:
                attempt(partial(self._asked, partial(self.opinions.look_for_ends, slide)))
                if self._stopped.is_set():
                    return

    def _asked(self, question: Callable[[], _T]) -> _T:
        """An answer of the head, by the thread that asks it."""
        return self._asking.submit(question).result()

    def _heads(self) -> "parfocal.view.said.HeadOpinions":
        if self.opinions is None:
            raise NothingThereError("no head was given: start again with --head HEAD.")
        return self.opinions

    def store(self) -> dict[str, Any]:
        """The set and the head."""
        embeddings = self.viewed.embeddings
        return {
            "version": __version__,
            "store": embeddings.path.absolute().parent.name,
            "set": embeddings.name,
            "encoder": str(embeddings.settings.get("encoder", embeddings.settings.get("model", embeddings.name))),
            "region_um": embeddings.region_um,
            "magnifications": [{"mpp": mpp, "label": magnification_label(mpp)} for mpp in embeddings.mpps],
            "n_slides": len(self.viewed.slides),
            "head": None if self.opinions is None else self.opinions.describe(),
        }

    def slides(self) -> list[dict[str, Any]]:
        """Every slide with what is known of it by now."""
        return [self._entry(number) for number in range(len(self.viewed.slides))]

    def news(self, after: int) -> dict[str, Any]:
        """The slides of which more is known since so many events."""
        fresh = self._news[max(after, 0) :]
        return {"next": max(after, 0) + len(fresh), "slides": [self._entry(number) for number in sorted({*fresh})]}

    def _entry(self, number: int) -> dict[str, Any]:
        broken, said = self._broken.get(number), self._said[number]
        facts = self.viewed.known(number) if number in self._why else None
        why = broken or self._why.get(number)
        prediction, error = said or (None, None)
        return {
            "number": number,
            "id": self.viewed.slides[number],
            "n_regions": None if facts is None else facts.n_regions,
            "n_tiles": None if facts is None else dict(facts.n_tiles),
            "shares_read": {} if facts is None else _labelled(facts.shares_read),
            "is_there": None if facts is None and broken is None else why is None,
            "why": why,
            "prediction": prediction,
            "error": broken or error,
            "pending": broken is None and (facts is None or (self.opinions is not None and said is None)),
        }

    def slide(self, number: int) -> dict[str, Any]:
        """One slide: its size and levels, and what can be asked of it."""
        facts, no_parts = self.viewed.facts(self._number(number)), self._why_no_parts(number)
        mpp, size_px, levels, why = facts.slide_mpp, facts.size_px, list[dict[str, Any]](), None
        try:
            with self.pictures.opened(number) as one:
                mpp, size_px = one.slide.mpp, (one.slide.width_px, one.slide.height_px)
                levels = [
                    {
                        "w": level.width,
                        "h": level.height,
                        "downsample": level.downsample,
                        "mpp": level.downsample * one.slide.mpp,
                    }
                    for level in one.levels
                ]
        except SlideError as error:
            why = str(error)
        if self._why.get(number, why) != why:  # it has come or gone, or is not what it seemed
            self._why[number] = why
            self._news.append(number)
        return {
            "number": number,
            "id": self.viewed.slides[number],
            "mpp": mpp,
            "size_px": size_px,
            "size_um": None if size_px is None or mpp is None else [side * mpp for side in size_px],
            "levels": levels,
            "tile_size": TILE_PX,
            "is_there": why is None,
            "why": why,
            "region_um": self._of_regions(number).places.region_um,
            "explains": no_parts is None,
            "why_no_parts": no_parts if self.opinions is not None else None,
            "directions": [] if self.opinions is None else self.opinions.directions(),
        }

    def explanation(self, number: int) -> dict[str, Any]:
        """What the parts of a slide's score add."""
        slide = self.viewed.slides[self._number(number)]
        return self._asked(partial(self._heads().describe_slide, slide))

    def regions(self, number: int) -> dict[str, Any]:
        """The regions of a slide in columns, and which overlays there are."""
        columns = self._of_regions(self._number(number))
        return {**columns.describe(), "overlays": [*self._overlays(number)]}

    def _overlays(self, number: int) -> list[dict[str, Any]]:
        opinions = self.opinions
        told = opinions is not None and opinions.sums_over_regions and self._why_no_parts(number) is None
        parts = opinions.parts if opinions is not None and told else ()
        return [*of_parts(parts), *of_set(self.viewed.embeddings, self.viewed.facts(number).shares_read)]

    def _why_no_parts(self, number: int) -> str | None:
        """Why no part of a slide's score can be told; None where it can."""
        return "no head was given." if self.opinions is None else self.opinions.why_not(self.viewed.slides[number])

    def overlay(self, number: int, key: str, region: int | None = None) -> dict[str, Any]:
        """The values of one overlay: a number for each region, or None.

        Args:
            number: of the slide.
            key: as `regions` names it, or `similar`.
            region: of `similar`, which region the others are compared with.
        """
        slide = self.viewed.slides[self._number(number)]
        if key == SIMILAR and region is not None:
            self._region(number, region)
            return drawn(key, self.search.along(slide, region), diverging=False)
        known = {one["key"]: one for one in self._overlays(number)}
        if key not in known:
            raise NothingThereError(f"there is no overlay {key!r}; there are {', '.join(known)} and similar.")
        values = values_of_set(self.viewed.embeddings, slide, key)
        if values is None:
            values = self._contributions(slide)[key]
        return drawn(key, values, diverging=bool(known[key]["diverging"]))

    def _contributions(self, slide: str) -> dict[str, Float64[np.ndarray, " region"]]:
        values = self._asked(partial(self._heads().of_regions, slide))
        if not values:
            raise NothingThereError("the score of this head is no sum over regions, so no region has a part of it.")
        return values

    def region(self, number: int, region: int) -> dict[str, Any]:
        """One region: its tiles at every magnification, and what it adds."""
        columns = self._region(self._number(number), region)
        slide, corner = self.viewed.slides[number], columns.places.region_xy_um[region].tolist()
        parts: dict[str, float | None] | None = None
        score, why = None, None
        added = dict[float, np.ndarray]()
        if self.opinions is not None:
            try:
                values = self._contributions(slide)
                score = plain_number(float(values[SCORE][region]), 9)
                parts = {key: plain_number(float(one[region]), 9) for key, one in values.items() if key != SCORE}
            except ParfocalError as error:
                why = str(error)
            else:
                for mpp in columns.mpps:
                    own = self._asked(partial(self.opinions.of_tiles, slide, mpp))
                    if own is not None:
                        added[mpp] = own
        return {
            "number": region,
            "x_um": corner[0],
            "y_um": corner[1],
            "side_um": columns.places.region_um,
            "tiles": {
                format_mpp(mpp): [
                    {
                        "x_um": x,
                        "y_um": y,
                        "side_um": side,
                        "status": status,
                        "contribution": (
                            plain_number(float(added[mpp][row])) if mpp in added and row is not None else None
                        ),
                    }
                    for x, y, side, status, row in columns.tiles(region, mpp)
                ]
                for mpp in columns.mpps
            },
            "parts": parts,
            "score": score,
            "why_no_parts": why,
        }

    def similar(self, number: int, region: int, n: int) -> list[dict[str, Any]]:
        """The regions of all slides that are most alike."""
        self._region(self._number(number), region)
        if not 1 <= n <= _MOST_SIMILAR:
            raise NothingThereError(f"k is 1 to {_MOST_SIMILAR}, and {n} is asked.")
        found = self.search.nearest(self.viewed.slides[number], region, n)
        return [self._alike(one) for one in found]

    def _alike(self, one: SimilarRegion) -> dict[str, Any]:
        return {
            "slide": self.viewed.slides.index(one.slide),
            "id": one.slide,
            "region": one.region,
            "x_um": one.x_um,
            "y_um": one.y_um,
            "similarity": plain_number(one.similarity, 4),
        }

    def directions(self) -> dict[str, Any]:
        """The directions of a contrast head, and how many slides have been looked through for their ends."""
        if self.opinions is None or not self.opinions.has_directions:
            return {"n_seen": 0, "n_slides": 0, "directions": []}
        return {
            "n_seen": self.opinions.n_seen,
            "n_slides": len(self.viewed.slides),
            "directions": self.opinions.directions(),
        }

    def direction(self, number: int) -> dict[str, Any]:
        """The regions at both ends of a direction, over the slides that have been looked through."""
        opinions = self._heads()
        known = opinions.directions()
        if not 0 <= number < len(known):
            raise NothingThereError(f"there is no direction {number}; {len(known)} are known.")
        counts, ends = self.directions(), opinions.ends_of(number)
        return {
            "label": known[number]["label"],
            "n_seen": counts["n_seen"],
            "n_slides": counts["n_slides"],
            **{end: [self._end(one) for one in ends if one["end"] == end] for end in ("top", "bottom")},
        }

    def _end(self, one: Mapping[str, Any]) -> dict[str, Any]:
        number, place = self.viewed.slides.index(one["slide"]), (one["x_um"], one["y_um"])
        said = self._said[number]
        away = np.abs(self._of_regions(number).places.region_xy_um - place).max(axis=1)
        return {
            "slide": number,
            "id": one["slide"],
            "region": int(away.argmin()),
            "x_um": one["x_um"],
            "y_um": one["y_um"],
            "value": plain_number(one["value"], 4),
            "outside": bool(said and said[0] and said[0]["outside"]),
        }

    def tile(self, number: int, level: int, column: int, row: int) -> bytes:
        """A tile of a slide's pyramid as JPEG."""
        return self.pictures.tile(self._number(number), level, column, row)

    def crop(self, number: int, box: Box, px: int) -> bytes:
        """A square of a slide as JPEG."""
        return self.pictures.crop(self._number(number), box, px)

    def _number(self, number: int) -> int:
        if not 0 <= number < len(self.viewed.slides):
            raise NothingThereError(f"there is no slide {number}; there are {len(self.viewed.slides)}, from 0.")
        return number

    def _region(self, number: int, region: int) -> RegionColumns:
        columns = self._of_regions(number)
        if not 0 <= region < columns.n_regions:
            raise NothingThereError(f"there is no region {region}; the slide has {columns.n_regions}, from 0.")
        return columns

    def _of_regions(self, number: int) -> RegionColumns:
        with self._lock:
            if number in self._columns:
                self._columns.move_to_end(number)
                return self._columns[number]
        found = read_columns(self.viewed.embeddings, self.viewed.slides[number])
        with self._lock:
            self._columns[number] = found
            while len(self._columns) > _KEPT:
                self._columns.popitem(last=False)
        return found


def _labelled(shares: Mapping[str, float]) -> dict[str, float]:
    return {magnification_label(float(name)): share for name, share in shares.items()}
