"""A slide's shard is by its id alone."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.convert import ConvertSettings
from parfocal.embed import EmbedSettings
from parfocal.errors import ConfigError
from parfocal.export import ExportSettings
from parfocal.run.shards import Shard, Sharding

IDS = [f"case {number}/slide-{number % 7}" for number in range(400)]


@settings(max_examples=20)
@given(st.lists(st.text(min_size=1, max_size=5), max_size=8, unique=True), st.integers(1, 9))
def test_every_slide_is_in_one_shard_and_keeps_its_place(slides: list[str], count: int) -> None:
    parts = [Sharding(shard=f"{number}/{count}").own(slides) for number in range(count)]

    assert sorted(slide for part in parts for slide in part) == sorted(slides)
    assert all(part == [slide for slide in slides if slide in part] for part in parts)


def test_a_longer_list_moves_nobody() -> None:
    own = Sharding(shard="2/5").own

    assert set(own(IDS[::3])) == set(own(IDS)) & set(IDS[::3])


def test_the_shard_is_the_published_digest_and_not_a_hash_that_differs_by_process() -> None:
    for slide in IDS[:20]:
        by_hand = int(hashlib.sha256(slide.encode()).hexdigest()[:16], 16) % 7
        assert [Shard(number, 7).holds(slide) for number in range(7)].index(True) == by_hand


def test_shards_are_of_about_one_size() -> None:
    sizes = [len(Sharding(shard=f"{number}/4").own(IDS)) for number in range(4)]

    # Binomial: four standard deviations of n = 400, p = 1/4 are 35.
    assert max(abs(size - 100) for size in sizes) < 35


@pytest.mark.parametrize("text", ["4/4", "-1/4", "0/0", "1", "a/b", "1/2/3", "", " 0/4", "0.5/4", "٣/٤"])
@pytest.mark.parametrize("kind", [EmbedSettings, ExportSettings, ConvertSettings])
def test_what_is_no_shard_is_one_line_that_says_what_is(kind: type[Sharding], text: str) -> None:
    with pytest.raises(ConfigError, match="it is I/N, with I from 0 to N - 1") as caught:
        kind(shard=text)

    assert "\n" not in str(caught.value)


def test_ids_of_files_that_are_no_utf8_have_a_shard() -> None:
    assert sum(Shard(number, 3).holds("\udcfe") for number in range(3)) == 1
