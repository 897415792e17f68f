"""Whether a slide is done: what the store has of it, and whether that is still what would be made of its file.

A store never changes the id of a slide that it has: the same file under another id is refused.
"""

import os
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from parfocal.addresses import address_of, shown_path
from parfocal.embed.onto import SAME_MPP, added_mpps, index_of
from parfocal.embed.settings import EmbedSettings, asked_mpp, asked_scan
from parfocal.embed.stored_part import as_rest, as_word, in_part
from parfocal.embed.summary import EmbeddedSlide
from parfocal.embed.zoom import Zoom
from parfocal.errors import MismatchError, ParfocalWarning, SlideError, StoreError
from parfocal.geometry import format_mpp
from parfocal.regions.places import Places, places_digest, read_places
from parfocal.slides import SlideSource, check_slide_mpp, slide_exists
from parfocal.store.files import PLACES, SCAN
from parfocal.store.fingerprint import FINGERPRINT, SIZES, TIMES, is_digest, is_embedded_file, slide_digest, slide_state
from parfocal.store.h5 import SEAL_BYTES, check_seal, opened_h5, tree_digest
from parfocal.store.layout import (
    BUDGET,
    COARSER,
    FILE_DIGEST,
    POLICY,
    VERSION_ATTRIBUTE,
    check_belongs,
    check_version,
    features_path,
    index_path,
    repair_advice,
)
from parfocal.store.mirror import bytes_away
from parfocal.store.reading import Reading
from parfocal.store.set import done_slides, stored_rows
from parfocal.table import some_of


def kept_slide(
    source: SlideSource, settings: EmbedSettings, set_path: Path, zoom: Zoom | None = None
) -> EmbeddedSlide | None:
    """What the store has of a slide that is done; None for one that is not, or not with so large a budget.

    A changed slide is refused and not redone: the rows in the store may be the ones that a model was trained on, and
    a finished file is never written again. A slide whose files are lost or damaged is refused for the same reason;
    removing its index is the word that it shall be embedded anew.

    Raises:
        MismatchError: the slide's file, or what is asked of it, is not what was embedded.
        StoreError: its index cannot be read, or a magnification's features are not the rows that it names.
        SlideError: its file may have changed and cannot be read.
        ConfigError: the resolution asked for it is one that no slide has.
    """
    started, new = time.monotonic(), added_mpps(settings)
    path = index_path(set_path, source.slide)
    if not path.exists():
        return None
    with opened_h5(path, "Remove it to embed the slide anew.") as index:
        attributes = dict(index.attrs)
        check_version(attributes.get(VERSION_ATTRIBUTE), path)
        slide_mpp = float(attributes["slide_mpp"])
        groups = {mpp: index[format_mpp(mpp)] for mpp in settings.grid.mpps}
        digests = {mpp: group.attrs.get(FILE_DIGEST) for mpp, group in groups.items()}
        reasons = {mpp: group["absent_reason"] for mpp, group in groups.items() if "absent_reason" in group}
        kept = EmbeddedSlide(
            source.slide,
            source.path,
            True,
            int(index["region_xy_um"].shape[0]),
            {mpp: stored_rows(groups[mpp]) for mpp in new},
            0.0,
            {mpp: len(texts) for mpp, texts in reasons.items()},
            next((str(texts.asstr()[0]) for texts in reasons.values()), None),
            float(attributes.get(BUDGET, 1.0)),
            tuple(map(float, attributes.get(COARSER, ()))),
        )
    anew = f"remove {path} to embed it anew"
    _check_file(source, settings, attributes, anew)
    asked = asked_mpp(source, settings)
    check_slide_mpp(asked, f"the mpp of {source.slide}")
    # What tiles were added to has the resolution that those count by.
    close = 1e-6 if settings.add_to is None else SAME_MPP
    if asked is not None and abs(asked - slide_mpp) > close * slide_mpp:
        raise MismatchError(
            f"{source.slide} is in the store with {slide_mpp:g} um per pixel, and {asked:g} is asked now. "
            f"Ask for {slide_mpp:g} or for none to keep it, or {anew}."
        )
    if settings.places is not None:
        digest = places_digest(known_places(settings.places).on_slide(source.slide, slide_mpp))
        if digest != attributes.get(PLACES):
            raise MismatchError(
                f"{source.slide} is in the store with regions on other places than {settings.places} has now. "
                f"Embed into another store, or {anew}."
            )
    # Without a number the first one is meant, and a file that holds one has only that.
    scan, stored_scan = asked_scan(source, settings) or 0, int(attributes.get(SCAN, 0))
    if scan != stored_scan:
        raise MismatchError(
            f"{source.slide} is in the store as scan {stored_scan} of its file, and scan {scan} is asked now. Ask for "
            f"--scan {stored_scan} to keep it, give the other one its own id in a manifest (slide,path,scan), or "
            f"{anew}."
        )
    if zoom is not None:
        zoom.check(source.slide, attributes, anew)
        if not zoom.has_read(source.slide, attributes):
            return None
    elif (reading := Reading.of(attributes)) is not None:
        raise MismatchError(
            f"{source.slide} is in the store with a budget of {reading.shares} by the policy {reading.policy}. "
            f"{as_rest(attributes)}, or {anew}."
        )
    _check_there(source.slide, settings, digests, anew)
    for mpp, rows in kept.n_tiles.items():
        _check_features(set_path, source.slide, mpp, rows, digests[mpp])
    return replace(kept, seconds=time.monotonic() - started)


def _check_file(source: SlideSource, settings: EmbedSettings, stored: Mapping[str, Any], anew: str) -> None:
    """Refuse a slide whose file is another one than the one that was embedded; one that is not there is not asked.

    What decides is said by `is_embedded_file`.
    """
    if not slide_exists(source.path):
        return
    same = is_embedded_file(source.path, stored, trust_times=settings.trust_times)
    if same and not is_digest(str(stored[FINGERPRINT])):
        warnings.warn(
            f"{source.slide} was embedded by an older version: that its file is the same is known from its size, "
            "its first and its last MiB only.",
            ParfocalWarning,
            stacklevel=2,
        )
    if not same:
        raise MismatchError(
            f"{source.slide} is in the store, but {shown_path(source.path)} is another file than the one that was "
            f"embedded. {anew[0].upper()}{anew[1:]}, or give the slide another name."
        )


def _check_there(slide: str, settings: EmbedSettings, digests: Mapping[float, str | None], anew: str) -> None:
    """Refuse a slide whose tiles that were there have been indexed anew since, or whose files are not as they were."""
    if settings.add_to is None:
        return
    index = index_of(settings.add_to)
    for mpp, rows in index.row_sources(slide).items():
        if digests[mpp] != rows.digest:
            raise MismatchError(
                f"the features of {slide} at {format_mpp(mpp)} mpp are others in {index} now than when magnifications "
                f"were added to them. {anew[0].upper()}{anew[1:]}."
            )
        is_same = rows.path.exists() and (rows.digest is None or tree_digest(rows.path) == rows.digest)
        if not is_same:
            what = "has changed since it was indexed" if rows.path.exists() else "is absent"
            raise StoreError(f"cannot use {rows.path}: it {what}. {repair_advice(index.path, slide)}")


def _check_features(set_path: Path, slide: str, mpp: float, rows: int, digest: str | None) -> None:
    """Refuse a features file that is absent, does not open, is another slide's, or has other rows than its index.

    Its seal and its size say so, as long as it is not younger than its index, which is written last; all of its bytes
    are checked where it is, and by whoever uses them.
    """
    path, remedy = features_path(set_path, slide, mpp), repair_advice(set_path, slide)
    away = bytes_away(set_path, slide).get(path.relative_to(set_path).parts[0])
    if digest is not None and away == SEAL_BYTES + int(digest.partition("-")[2]):
        return  # at the address of the store; whoever reads it there checks all of its bytes
    if digest is not None and path.is_file():
        is_younger = path.stat().st_mtime_ns >= index_path(set_path, slide).stat().st_mtime_ns
        check_seal(path, remedy, digest, whole=is_younger)
        return
    with opened_h5(path, remedy) as file:
        found = (len(file["features"]), len(file["coords"]))
        attributes = dict(file.attrs)
    check_belongs(attributes, path, remedy, slide=slide, mpp=mpp)
    if found != (rows, rows):
        raise StoreError(
            f"{slide} is in the store, but {path} has {found[0]} features and {found[1]} coords where its index has "
            f"{rows}. {remedy}"
        )


@lru_cache(maxsize=1)
def known_places(path: Path) -> Places:
    """The places of a file without their targets; a process reads it once for all slides of a run."""
    return read_places(path)


def check_places(sources: Sequence[SlideSource], settings: EmbedSettings) -> None:
    """At the beginning of a run: read its places, whatever an earlier run in this process has read.

    Raises:
        ConfigError: the file cannot be read, or its places belong to two of the slides.
    """
    if settings.places is not None:
        known_places.cache_clear()
        known_places(settings.places).check_names(source.slide for source in sources)


def slides_with_other_ids(
    sources: Sequence[SlideSource], settings: EmbedSettings, set_path: Path
) -> dict[str, MismatchError]:
    """Which slides the store has under another id, by the id that is asked for now, each with the refusal.

    Two ids of one slide would count it twice in every cohort, and labels would find one of them only. A slide is known
    by where its file was; where nothing lies there any more, by what the file is. A copy beside its original is
    a slide of its own.

    Only slides that are new to the store are looked at, beside those of the store that are not asked for.
    """
    new = {_place(source.path, asked_scan(source, settings)): source for source in sources}
    done = set(done_slides(set_path))
    new = {place: source for place, source in new.items() if source.slide not in done}
    found: dict[str, MismatchError] = {}
    if not new:
        return found
    for slide, stored in _attributes(set_path, sorted(done - {source.slide for source in sources})):
        path, scan = Path(str(stored.get("slide_path", ""))), int(stored.get(SCAN, 0))
        source = new.get(_place(path, scan))
        # Nobody asks for the addresses of a whole store whether something is there.
        if source is None and address_of(path) is None and not path.exists():
            source = next((one for place, one in new.items() if place[1] == scan and _is_moved(one.path, stored)), None)
        if source is not None:
            found[source.slide] = MismatchError(
                f"{shown_path(source.path)} is in the store as {slide}, and a store keeps the ids of its slides. "
                f"Give the same folder as before and the same --ids, or that id in a manifest (slide,path); or remove "
                f"{index_path(set_path, slide)} to embed it anew as {source.slide}."
            )
    return found


def check_one_reading(set_path: Path, zoom: Zoom | None, asked: Collection[str]) -> None:
    """Refuse to put slides beside those of a set that have been read in another way.

    Slides that are there already are not touched, and refused one by one where they were read in another way.

    Raises:
        MismatchError: a slide is new to the set, and would be read otherwise than those of the set.
    """
    done = done_slides(set_path)
    new = sorted({*asked} - {*done})
    if not new:
        return
    is_whole = zoom is None or zoom.reads_all
    for slide, stored in _attributes(set_path, done):
        was_in_part = in_part(stored)
        if is_whole and was_in_part and not (zoom and slide in asked):
            raise MismatchError(
                f"{set_path} holds slides that the policy {stored[POLICY]} has read in part, such as {slide}, and "
                f"{some_of(new)} would be read whole. Read them with {as_word(stored)} too, or use another store."
            )
        if zoom is not None and not is_whole:
            if not was_in_part:
                raise MismatchError(
                    f"{set_path} holds slides that have been read whole, such as {slide}, and {some_of(new)} would be "
                    "read in part. Leave --zoom out, or use another store."
                )
            zoom.check(slide, {**stored, BUDGET: 0.0}, "leave these slides out")


def _place(path: Path, scan: int | None) -> tuple[str, int]:
    return shown_path(path) if address_of(path) else os.path.realpath(path), scan or 0


def _attributes(set_path: Path, slides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for slide in slides:
        try:
            with opened_h5(index_path(set_path, slide)) as index:
                yield slide, dict(index.attrs)
        except StoreError:
            # Told where that slide is asked for.
            continue


def _is_moved(path: Path, stored: dict[str, Any]) -> bool:
    """Whether a file is the one that was embedded, at another place; its bytes are read where its size is the same."""
    try:
        state = slide_state(path)
        if state.sizes != stored.get(SIZES):
            return False
        return state.times == stored.get(TIMES) or slide_digest(path) == stored.get(FINGERPRINT)
    except SlideError:
        return False
