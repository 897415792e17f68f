"""An index is opened once for all questions about its slide, and again as soon as its file is another one."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from parfocal.errors import StoreError
from parfocal.store import EmbeddingSet, SlideTokens, create_set, only_mpps, open_set, write_tokens
from parfocal.store import set as module
from parfocal.store.layout import index_path

MPPS = (2.0, 0.5)


def slide(name: str, *, regions: int = 3, seed: int = 0) -> SlideTokens:
    rng = np.random.default_rng(seed)
    region = {mpp: np.arange(regions, dtype=np.int32) for mpp in MPPS}
    features = {mpp: rng.standard_normal((regions, 4)).astype(np.float16) for mpp in MPPS}
    center_um = {mpp: rng.uniform(-9, 9, (regions, 2)).astype(np.float32) for mpp in MPPS}
    return SlideTokens(name, 448.0, 0.5, rng.uniform(0, 9e3, (regions, 2)), features, region, center_um)


@pytest.fixture
def made(tmp_path: Path) -> EmbeddingSet:
    path = create_set(
        tmp_path, "toy", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, 4), settings={"encoder": "toy"},
        encoder_digests=dict.fromkeys(MPPS, "a"), tile_px=224,
    )  # fmt: skip
    for number, name in enumerate("ab"):
        write_tokens(path, slide(name, seed=number))
    return open_set(path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The indexes that are opened, by their slides."""
    found: list[str] = []

    @contextmanager
    def noted(path: Path, *given: Any, **named: Any) -> Iterator[h5py.File]:
        if path.parent.name == "index":
            found.append(path.stem)
        with before(path, *given, **named) as file:
            yield file

    before = module.opened_h5
    monkeypatch.setattr(module, "opened_h5", noted)
    return found


QUESTIONS: tuple[Callable[[EmbeddingSet], object], ...] = (
    lambda one: one.n_tiles("a"),
    lambda one: one.n_rows("a"),
    lambda one: one.n_unread("a"),
    lambda one: one.attributes("a"),
    lambda one: one.region_xy_um("a").tolist(),
    lambda one: one.read("a").region[0.5].tolist(),
    lambda one: one.places("a").center_um[0.5].tolist(),
    lambda one: [source.digest for source in one.row_sources("a").values()],
)


def test_all_questions_about_a_slide_and_through_fewer_slides_open_its_index_once(
    made: EmbeddingSet, opened: list[str]
) -> None:
    answers = [ask(made) for ask in QUESTIONS]
    again = [ask(replace(made, slides=("a",))) for ask in QUESTIONS]

    assert opened == ["a"]
    assert again == answers
    assert [ask(open_set(made.path)) for ask in QUESTIONS] == answers
    made.n_tiles("b")
    assert opened[-1] == "b"


def test_another_process_opens_it_itself(made: EmbeddingSet, opened: list[str]) -> None:
    before = made.n_tiles("a")

    assert pickle.loads(pickle.dumps(made)).n_tiles("a") == before
    assert opened == ["a", "a"]


def test_fewer_magnifications_are_those_of_the_whole_index(made: EmbeddingSet) -> None:
    coarse = only_mpps(made, (2.0,))

    assert coarse.n_tiles("a") == {2.0: 3}
    assert made.n_tiles("a") == {2.0: 3, 0.5: 3}
    np.testing.assert_array_equal(coarse.read("a").center_um[2.0], made.read("a").center_um[2.0])


def test_a_slide_that_is_written_anew_between_two_questions_is_the_new_one(made: EmbeddingSet) -> None:
    fewer = replace(made, slides=("a",))
    before = [ask(made) for ask in QUESTIONS]

    new = replace(slide("a", regions=5, seed=7), slide_mpp=0.25)
    write_tokens(made.path, new)

    for one in (made, fewer):
        after = [ask(one) for ask in QUESTIONS]
        assert after == [ask(open_set(made.path)) for ask in QUESTIONS]
        assert [was == now for was, now in zip(before, after, strict=True)].count(True) == 1  # nothing is unread
        np.testing.assert_array_equal(one.read("a").features[0.5], new.features[0.5])


def test_a_file_of_the_same_size_and_time_in_its_place_is_seen(made: EmbeddingSet) -> None:
    path = index_path(made.path, "a")
    before, state = made.region_xy_um("a"), path.stat()
    write_tokens(made.path, slide("a", seed=7))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert not np.array_equal(made.region_xy_um("a"), before)
    np.testing.assert_array_equal(made.region_xy_um("a"), slide("a", seed=7).region_xy_um)


def damaged(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Path.unlink, "a is not done"),
        (damaged, "changed since it was written"),
        (lambda path: shutil.copy(path.with_stem("b"), path), "a file of the slide b, not of a"),
    ],
)
def test_what_happens_to_a_file_between_two_questions_is_told(
    made: EmbeddingSet, change: Callable[[Path], object], says: str
) -> None:
    for ask in QUESTIONS:
        ask(made)

    change(index_path(made.path, "a"))

    for ask in QUESTIONS:
        with pytest.raises(StoreError, match=says):
            ask(made)


def test_who_changes_what_was_given_changes_nothing_for_others(made: EmbeddingSet) -> None:
    def given() -> list[np.ndarray]:
        tokens, places = made.read("a"), made.places("a")
        by_mpp = [tokens.region, tokens.center_um, places.region, places.center_um]
        return [
            made.region_xy_um("a"), tokens.region_xy_um, places.region_xy_um,
            *(values for one in by_mpp for values in one.values()),
        ]  # fmt: skip

    before = [values.copy() for values in given()]
    for values in given():
        values += 1

    for values, expected in zip(given(), before, strict=True):
        np.testing.assert_array_equal(values, expected)
