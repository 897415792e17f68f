"""A store never changes the id of a slide that it has: the same file under another id is refused."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parfocal.embeddings.files import SCAN, SIZES, TIMES
from parfocal.embeddings.fingerprint import slide_digest, slide_state
from parfocal.embeddings.h5 import opened_h5
from parfocal.embeddings.layout import index_path
from parfocal.embeddings.settings import EmbedSettings, asked_scan
from parfocal.embeddings.store import done_slides
from parfocal.errors import MismatchError, SlideError, StoreError
from parfocal.slides import SlideSource

__all__ = ["slides_with_other_ids"]


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
        if source is None and not path.exists():
            source = next((one for place, one in new.items() if place[1] == scan and _is_moved(one.path, stored)), None)
        if source is not None:
            found[source.slide] = MismatchError(
                f"{source.path} is in the store as {slide}, and a store keeps the ids of its slides. Give the same "
                f"folder as before and the same --ids, or that id in a manifest (slide,path); or remove "
                f"{index_path(set_path, slide)} to embed it anew as {source.slide}."
            )
    return found


def _place(path: Path, scan: int | None) -> tuple[str, int]:
    return os.path.realpath(path), scan or 0


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
        return state.times == stored.get(TIMES) or slide_digest(path) == stored.get("slide_fingerprint")
    except SlideError:
        return False
