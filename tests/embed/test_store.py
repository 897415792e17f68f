"""What is written to a store comes back, in the layout that the field reads, and damage is said."""

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parfocal.errors import FormatVersionError, MismatchError, NotFiniteError, ParfocalWarning, StoreError
from parfocal.store import (
    SlideOrigin,
    SlideRegions,
    SlideTokens,
    SlideWriter,
    create_set,
    open_set,
    open_sets,
    write_regions,
    write_tokens,
)
from parfocal.store.layout import chunk_rows, seal_settings

WithoutSeals = Callable[[Path], None]
DIMS = {2.0: 7, 0.5: 5}


def tokens_of(slide: str, *, seed: int = 0, slide_mpp: float = 0.2525) -> SlideTokens:
    """Three regions of 448 um, the second without a fine tile, the third with two of sixteen."""
    rng = np.random.default_rng(seed)
    fine = np.array([[-168, -168], [56, -56], [-56, 168], [168, 168]], dtype=np.float32)
    return SlideTokens(
        slide=slide,
        region_um=448.0,
        slide_mpp=slide_mpp,
        region_xy_um=np.array([[448.0, 0.0], [896.0, 0.0], [448.0, 1344.0]]),
        features={
            0.5: rng.normal(size=(4, 5)).astype(np.float16),
            2.0: rng.normal(size=(3, 7)).astype(np.float16),
        },
        region={2.0: np.arange(3, dtype=np.int32), 0.5: np.array([0, 0, 2, 2], dtype=np.int32)},
        center_um={2.0: np.zeros((3, 2), np.float32), 0.5: fine},
    )


def new_set(root: Path, *, dtype: str = "float16", name: str = "toy-00000000") -> Path:
    return create_set(
        root,
        name,
        "tiles",
        region_um=448.0,
        dims=DIMS,
        settings={"encoder": "toy", "note": (1, 2)},
        encoder_digests={2.0: "aa", 0.5: "aa"},
        tile_px=224,
        dtype=dtype,  # type: ignore[arg-type]
    )


def test_tokens_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = tokens_of("case.1/scan 2")
    write_tokens(new_set(tmp_path), written, origin=SlideOrigin(fingerprint="f"))

    store = open_set(tmp_path)
    read = store.read("case.1/scan 2")

    assert store.slides == ("case.1/scan 2",)
    assert store.mpps == read.mpps == (2.0, 0.5)
    assert store.dims == DIMS
    assert store.encoder_digest == "aa"
    assert store.n_regions("case.1/scan 2") == 3
    assert store.n_tiles("case.1/scan 2") == {2.0: 3, 0.5: 4}
    assert store.attributes("case.1/scan 2")["slide_fingerprint"] == "f"
    assert np.array_equal(read.region_xy_um, written.region_xy_um)
    for mpp in read.mpps:
        assert np.array_equal(read.features[mpp], written.features[mpp])
        assert read.features[mpp].dtype == np.float16
        assert np.array_equal(read.region[mpp], written.region[mpp])
        assert np.array_equal(read.center_um[mpp], written.center_um[mpp])


def test_a_tool_that_knows_trident_reads_our_files(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"), origin=SlideOrigin(size_l0px=(9001, 7003), objective_power=40.0))

    with h5py.File(path / "0.5" / "s.h5") as file:
        features, coords = file["features"][:], file["coords"][:]
        attributes = dict(file["coords"].attrs)
        assert file["features"].attrs["encoder"] == "toy"
        assert float(file.attrs["mpp"]) == 0.5
        assert float(file.attrs["slide_mpp"]) == 0.2525
        # 448 um are 1774.26 level-0 pixels, so a window has 1774 or 1775: 0.49993 or 0.50021 um per pixel of a tile.
        assert 0.4999 < file.attrs["realised_mpp_min"] <= 0.5 <= file.attrs["realised_mpp_max"] < 0.5003

    assert features.shape == (4, 5)
    assert coords.dtype == np.int64
    # By hand: 448 / 0.2525 = 1774.26, and 224 um further 672 / 0.2525 = 2661.39.
    assert coords[:2].tolist() == [[1774, 0], [2661, 444]]
    assert coords[2].tolist() == [round((448 + 112) / 0.2525), round((1344 + 336) / 0.2525)]
    assert attributes == {
        "patch_size": 224,
        "patch_size_level0": 444,
        "level0_magnification": 40,
        "target_magnification": 20,
        "overlap": 0,
        "name": "s",
        "savetodir": str(path / "0.5"),
        "level0_width": 9001,
        "level0_height": 7003,
    }


def test_regions_come_back_and_carry_their_corner(tmp_path: Path) -> None:
    path = create_set(
        tmp_path,
        "model-00000000-cls",
        "regions",
        region_um=448.0,
        dims=6,
        settings={"encoder": "model"},
        encoder_digests={2.0: "aa", 0.5: "aa"},
        dtype="float32",
    )
    written = SlideRegions(
        "s", 448.0, 0.5, np.array([[448.0, 896.0], [0.0, 1344.0]]), np.arange(12, dtype=np.float32).reshape(2, 6)
    )
    write_regions(path, written)

    read = open_set(path).read_regions("s")

    assert np.array_equal(read.features, written.features)
    assert np.array_equal(read.region_xy_um, written.region_xy_um)
    with h5py.File(path / "region" / "s.h5") as file:
        assert file["coords"][:].tolist() == [[896, 1792], [0, 2688]]
        assert file["coords"].attrs["patch_size_level0"] == 896
    with pytest.raises(StoreError, match="set of tiles is needed"):
        open_set(path).read("s")


def test_without_a_resolution_places_are_micrometres_and_say_so(tmp_path: Path) -> None:
    """As of a slide that was indexed from files in micrometres: whoever needs pixels finds none."""
    path = new_set(tmp_path, dtype="float32")
    tokens = tokens_of("s", slide_mpp=float("nan"))
    write_tokens(path, tokens)

    again = open_set(path).read("s")
    assert np.isnan(again.slide_mpp)
    np.testing.assert_array_equal(again.region_xy_um, tokens.region_xy_um)
    for mpp in tokens.mpps:
        np.testing.assert_array_equal(again.features[mpp], tokens.features[mpp])
        np.testing.assert_array_equal(again.center_um[mpp], tokens.center_um[mpp])
        with h5py.File(path / f"{mpp:g}" / "s.h5") as file:
            of = file["coords"].attrs
            assert of["unit"] == "um"
            assert not {"patch_size_level0", "level0_magnification", "level0_width"} & set(of)
            corner_um = tokens.region_xy_um[tokens.region[mpp]] + tokens.center_um[mpp]
            corner_um = corner_um + (tokens.region_um - of["patch_size"] * mpp) / 2
            assert np.abs(file["coords"][...] - corner_um).max() <= 0.5


def test_a_slide_without_tissue_is_done_and_empty(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    empty = SlideTokens(
        "none",
        448.0,
        0.5,
        np.zeros((0, 2)),
        {m: np.zeros((0, d), np.float16) for m, d in DIMS.items()},
        {m: np.zeros(0, np.int32) for m in DIMS},
        {m: np.zeros((0, 2), np.float32) for m in DIMS},
    )
    write_tokens(path, empty)

    read = open_set(path).read("none")

    assert read.n_regions == 0
    assert {m: f.shape for m, f in read.features.items()} == {2.0: (0, 7), 0.5: (0, 5)}


@pytest.mark.parametrize(("value", "match"), [(7e4, "--dtype float32"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_a_value_that_the_rows_cannot_hold_is_refused_and_leaves_nothing(
    tmp_path: Path, value: float, match: str
) -> None:
    path = new_set(tmp_path)
    tokens = tokens_of("s")
    features = {m: f.astype(np.float32) for m, f in tokens.features.items()}
    features[0.5][2, 1] = value
    tokens = SlideTokens("s", 448.0, 0.5, tokens.region_xy_um, features, tokens.region, tokens.center_um)

    with pytest.raises(StoreError, match=match):
        write_tokens(path, tokens)

    assert [p.name for p in path.rglob("*") if p.is_file()] == ["settings.json"]


def test_float32_rows_hold_what_float16_cannot(tmp_path: Path) -> None:
    path = new_set(tmp_path, dtype="float32")
    tokens = tokens_of("s")
    features = {m: f.astype(np.float32) * 1e6 for m, f in tokens.features.items()}
    write_tokens(path, SlideTokens("s", 448.0, 0.5, tokens.region_xy_um, features, tokens.region, tokens.center_um))

    assert np.array_equal(open_set(path).read("s").features[0.5], features[0.5])


def test_missing_rows_do_not_become_a_finished_slide(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    tokens = tokens_of("s")
    with (
        pytest.raises(StoreError, match="rows are missing"),
        SlideWriter(path, tokens.places) as writer,
    ):
        writer.append(0.5, tokens.features[0.5][:3])

    assert open_set(path).slides == ()
    assert not list(path.rglob("*.h5"))


def test_features_that_do_not_fit_their_index_are_named(tmp_path: Path, without_seals: WithoutSeals) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    without_seals(path)
    with h5py.File(path / "0.5" / "s.h5", "r+") as file:
        file["features"].resize((3, 5))
    with pytest.raises(StoreError, match=r"0\.5/s\.h5: it has 3 features and 4 coords"), quiet():
        open_set(path).read("s")
    with h5py.File(path / "0.5" / "s.h5", "r+") as file:
        file["coords"].resize((3, 2))
    with pytest.raises(StoreError, match=r"0\.5/s\.h5: it has 3 rows of width 5, its index expects 4"), quiet():
        open_set(path).read("s")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    whole = (path / "2" / "s.h5").read_bytes()
    (path / "2" / "s.h5").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(StoreError, match=r"2/s\.h5: it is damaged.* Put it back, or remove .*index/s\.h5"):
        open_set(path).read("s")
    (path / "2" / "s.h5").unlink()
    with pytest.raises(StoreError, match=r"absent.* Put it back, or remove .*index/s\.h5 and embed"):
        open_set(path).read("s")


def test_a_newer_format_is_refused(tmp_path: Path, without_seals: WithoutSeals) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    without_seals(path)
    with h5py.File(path / "2" / "s.h5", "r+") as file:
        file.attrs["parfocal_format"] = 99
    with pytest.raises(FormatVersionError, match="format 99"):
        open_set(path).read("s")
    content = json.loads((path / "settings.json").read_text())
    (path / "settings.json").write_text(json.dumps(content | {"parfocal_format": 2}))
    with pytest.raises(FormatVersionError, match="newer"):
        open_set(path)


@settings(max_examples=20)
@given(
    key=st.sampled_from(["kind", "mpps", "dims", "region_um", "settings", "encoder_digest", "encoder_digests"]),
    value=st.sampled_from([None, "text", 1.5, [], {}]),
)
def test_settings_of_a_set_that_make_no_sense_are_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = new_set(tmp_path_factory.mktemp("odd"))
    content = json.loads((path / "settings.json").read_text())
    assume(not isinstance(value, type(content[key])))
    (path / "settings.json").write_text(json.dumps(content | {key: value}))

    with pytest.raises(StoreError, match=f"lacks {key}"):
        open_set(path)


@pytest.mark.parametrize("version", ["new", None, [1]])
def test_a_version_that_is_no_number_is_one_line(tmp_path: Path, version: object) -> None:
    path = new_set(tmp_path)
    content = json.loads((path / "settings.json").read_text())
    (path / "settings.json").write_text(json.dumps(content | {"parfocal_format": version}))

    with pytest.raises(StoreError, match="parfocal_format"):
        open_set(path)


def test_a_folder_is_never_shared_by_two_settings(tmp_path: Path) -> None:
    new_set(tmp_path)
    assert new_set(tmp_path) == tmp_path / "toy-00000000"
    with pytest.raises(MismatchError, match="another dtype"):
        new_set(tmp_path, dtype="float32")


def test_several_sets_must_be_told_apart(tmp_path: Path) -> None:
    first = new_set(tmp_path)
    for path in (first, new_set(tmp_path, name="other-11111111")):
        write_tokens(path, tokens_of("s"))

    assert [one.name for one in open_sets(tmp_path)] == ["other-11111111", "toy-00000000"]
    assert open_set(first).name == "toy-00000000"
    with pytest.raises(StoreError, match="other-11111111, toy-00000000"):
        open_set(tmp_path)
    with pytest.raises(StoreError, match="holds no embeddings"):
        open_set(tmp_path / "absent")


def test_a_set_that_no_slide_came_into_is_not_in_the_way(tmp_path: Path) -> None:
    full, empty = new_set(tmp_path), new_set(tmp_path, name="other-11111111")
    with pytest.raises(StoreError, match=r"no slide is done in any of its 2 sets: other-11111111, toy-00000000\."):
        open_sets(tmp_path)
    write_tokens(full, tokens_of("s"))

    assert open_set(tmp_path).path == full
    assert [one.path for one in open_sets(tmp_path)] == [full]
    assert open_set(empty).slides == ()


def test_a_path_may_be_text(tmp_path: Path) -> None:
    write_tokens(new_set(tmp_path), tokens_of("s"))

    assert open_set(str(tmp_path)).read("s").n_regions == 3
    assert [one.path for one in open_sets(str(tmp_path))] == [tmp_path / "toy-00000000"]
    with pytest.raises(StoreError, match="holds no embeddings"):
        open_sets("absent")


def test_a_chunk_is_about_a_mebibyte_and_never_larger_than_the_file() -> None:
    assert chunk_rows(100_000, 1280, 2) == 409
    assert chunk_rows(100_000, 1 << 22, 4) == 1
    assert chunk_rows(16, 1280, 2) == 16
    assert chunk_rows(0, 1280, 2) == 1


def test_tokens_out_of_region_order_are_refused() -> None:
    good = tokens_of("s")
    with pytest.raises(ValueError, match="not in the order"):
        SlideTokens(
            "s",
            448.0,
            0.5,
            good.region_xy_um,
            good.features,
            {**good.region, 0.5: np.array([0, 2, 0, 2], dtype=np.int32)},
            good.center_um,
        )


def copy(of: Path, over: Path) -> None:
    over.write_bytes(of.read_bytes())


@pytest.mark.parametrize("case", ["slide", "value", "coords", "mpp", "settings", "index value", "index mpp", "index"])
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, case: str) -> None:
    path, other = new_set(tmp_path), new_set(tmp_path / "other", name="toy-00000000")
    write_tokens(path, tokens_of("s"))
    write_tokens(path, tokens_of("t", seed=1))
    text = (other / "settings.json").read_text().replace('"toy"', '"boy"')
    (other / "settings.json").write_text(json.dumps(seal_settings(json.loads(text))))
    write_tokens(other, tokens_of("s"))
    features, index = path / "0.5" / "s.h5", path / "index" / "s.h5"
    where = index if case.startswith("index") else features
    if case == "slide":
        copy(path / "0.5" / "t.h5", features)
    elif case == "mpp":
        copy(path / "2" / "s.h5", features)
    elif case == "settings":
        copy(other / "0.5" / "s.h5", features)
    elif case == "index":
        copy(path / "index" / "t.h5", index)
    else:
        with h5py.File(where, "r+") as file:
            if case == "value":
                file["features"][3, 4] += 1
            elif case == "coords":
                file["coords"][0, 0] += 1
            elif case == "index value":
                file["0.5/center_um"][1, 1] += 1
            else:
                file.attrs["slide_mpp"] = 0.25

    with pytest.raises(StoreError, match=f"{where}: .* (Put it back|Remove it)"):
        open_set(path).read("s")
    assert open_set(path).read("t").n_regions == 3


def test_regions_of_another_slide_are_refused(tmp_path: Path) -> None:
    path = create_set(
        tmp_path,
        "model-0",
        "regions",
        region_um=448.0,
        dims=2,
        settings={},
        encoder_digests={2.0: "a"},
        dtype="float32",
    )
    for seed, slide in enumerate("st"):
        rows = np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)
        write_regions(path, SlideRegions(slide, 448.0, 0.5, np.arange(6.0).reshape(3, 2), rows))
    with h5py.File(path / "region" / "t.h5", "r+") as file:
        file.attrs["slide"] = "s"  # the lie is complete but for the rows
    copy(path / "region" / "t.h5", path / "region" / "s.h5")

    with pytest.raises(StoreError, match=r"region/s\.h5: it is not the file that its index"):
        open_set(path).read_regions("s")


def test_a_set_of_an_older_version_loads_and_is_said_to_be_unchecked_once(
    tmp_path: Path, without_seals: WithoutSeals
) -> None:
    path = new_set(tmp_path)
    for slide in "st":
        write_tokens(path, tokens_of(slide))
    without_seals(path)
    store = open_set(path)

    with pytest.warns(ParfocalWarning, match="unchecked") as caught:
        read = [store.read(slide) for slide in ("s", "t", "s")]

    assert len(caught) == 1
    assert np.array_equal(read[0].features[0.5], tokens_of("s").features[0.5])


def test_a_slide_that_changes_while_a_set_is_open_is_noticed(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    store = open_set(path)
    store.read("s")
    with h5py.File(path / "2" / "s.h5", "r+") as file:
        file["features"][0, 0] += 1
    os.utime(path / "2" / "s.h5", ns=(1, 1))

    with pytest.raises(StoreError, match="has changed since it was written"):
        store.read("s")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_name_their_slide(tmp_path: Path, without_seals: WithoutSeals, value: float) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    without_seals(path)
    with h5py.File(path / "0.5" / "s.h5", "r+") as file:
        file["features"][1:3, 2] = value
    store = open_set(path)

    for _ in range(2):
        with pytest.raises(NotFiniteError, match=r"cannot use s: 2 of 4 rows of .*0\.5/s\.h5"), quiet():
            store.read("s")


@pytest.mark.parametrize("name", ["region", "center_um", "region_xy_um"])
def test_an_index_that_makes_no_sense_is_one_line(tmp_path: Path, without_seals: WithoutSeals, name: str) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    without_seals(path)
    with h5py.File(path / "index" / "s.h5", "r+") as file:
        dataset = file[name if name == "region_xy_um" else f"0.5/{name}"]
        dataset[0] = 9 if name == "region" else np.nan

    with pytest.raises(StoreError, match=r"index/s\.h5: .* Remove it and embed"), quiet():
        open_set(path).read("s")


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParfocalWarning)
        yield


@pytest.mark.parametrize(
    "change",
    [{"mpps": []}, {"mpps": "x"}, {"kind": "else"}, {"dims": {"2": 7}}, {"dims": 7}, {"dtype": "int8"}, {"settings": 1},
     {"encoder_digests": {"2": "aa", "0.5": 1}}, {"region_um": None}, {"tile_px": "wide"}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    path = new_set(tmp_path)
    content = json.loads((path / "settings.json").read_text())
    (path / "settings.json").write_text(json.dumps(content | change))

    with pytest.raises(StoreError, match=r"cannot open the set .*settings\.json is damaged") as caught:
        open_set(path)
    assert "\n" not in str(caught.value)
    (path / "settings.json").unlink()
    os.mkfifo(path / "settings.json")
    with pytest.raises(StoreError):
        open_set(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"region_um": 900.0},
        {"tile_px": 112},
        {"encoder_digest": "00000000"},
        {"dtype": "float32"},
        {"mpps": [2.0, 1.0]},
    ],
)
def test_settings_that_somebody_has_edited_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = new_set(tmp_path)
    write_tokens(path, tokens_of("s"))
    content = json.loads((path / "settings.json").read_text())
    assert content | change != content
    (path / "settings.json").write_text(json.dumps(content | change))

    with pytest.raises(StoreError, match="cannot open the set"):
        open_set(path)


def test_settings_of_an_older_version_have_no_digest_and_are_read(tmp_path: Path) -> None:
    path = new_set(tmp_path)
    content = json.loads((path / "settings.json").read_text())
    del content["digest"]
    (path / "settings.json").write_text(json.dumps(content))

    assert open_set(path).path == path
