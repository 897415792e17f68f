"""A head takes what it was fitted on and nothing else, and a damaged one is not used; each refusal names both sides."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError, FormatVersionError, MismatchError, ParfocalError, StoreError
from parfocal.heads.registry import HEADS
from parfocal.predict import PredictSettings, fit_head, load_head, predict_slides
from parfocal.predict.given import check_named
from parfocal.predict.source import embed_settings

from .scans import ENCODER, GRID, LEAN, Scanned


@pytest.fixture(scope="module")
def head(scanned: Scanned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heads") / "head"
    return fit_head([scanned.store], scanned.labels, "red", "2/mean", out, LEAN).path


def test_an_input_that_is_not_there_is_refused_at_once_and_an_address_is_asked_later(tmp_path: Path) -> None:
    check_named([Path("s3://lab/scans"), "https://host/a.svs"], tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"cannot predict .*scans: there is no such file or folder"):
        check_named([tmp_path / "scans"], tmp_path / "out.csv")


def other_grid(**changes: object) -> GridConfig:
    return GridConfig.model_validate({**GRID.model_dump(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": other_grid(mpps=(2.0, 1.0, 0.5))}, "the magnifications 2, 1, 0.5 mpp, and .* fitted on 2, 0.5 mpp"),
        ({"grid": other_grid(region_um=112.0)}, "regions of 112 um, and the head was fitted on 56 um"),
        ({"grid": other_grid(stride_um=28.0)}, "a region every 28 um, and the head was fitted on 56 um"),
        ({"grid": other_grid(min_tissue=0.1)}, "the tissue share 0.1"),
        ({"coarse": "native"}, "coarse tiles that are native, and the head was fitted on derived"),
    ],
)
def test_other_embeddings_are_refused(
    scanned: Scanned, head: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    settings = EmbedSettings.model_validate({"encoder": scanned.encoder, "grid": GRID, "dtype": "float32"} | changes)
    embed_slides([scanned.new_slides / "n0.tif"], tmp_path / "store", settings)

    with pytest.raises(MismatchError, match=message):
        predict_slides([tmp_path / "store"], head, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_another_encoder_is_refused_in_a_store_and_for_slides(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(ENCODER)
    spec = f"python:{tmp_path / 'other.py'}:quick,tile_px={GRID.tile_px}"
    embed_slides([scanned.new_slides / "n0.tif"], tmp_path / "store", EmbedSettings(encoder=spec, grid=GRID))
    ours = load_head(head).facts.tiles.encoder_digest

    with pytest.raises(MismatchError, match=rf"has embeddings of .*, and the head was fitted on those of .*{ours}"):
        predict_slides([tmp_path / "store"], head, tmp_path / "out.csv")
    with pytest.raises(MismatchError, match=rf"fitted on embeddings of .*{ours}.*another encoder"):
        predict_slides([scanned.new_slides], head, tmp_path / "out.csv", PredictSettings(encoder=spec))


def test_code_that_a_head_names_is_not_run_because_the_head_says_so(
    scanned: Scanned, head: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"names Python code as its tile encoder \(python:.*--encoder SPEC"):
        predict_slides([scanned.new_slides], head, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_an_arm_whose_fit_fails_is_one_line_and_no_head(
    scanned: Scanned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*_: object) -> list[object]:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setitem(HEADS.ours, "mean", replace(HEADS.get("mean"), fit=diverging))
    with pytest.raises(ParfocalError, match=r"cannot fit 5x \(2 mpp\): .* on 'red': LinAlgError: Singular matrix"):
        fit_head([scanned.store], scanned.labels, "red", "2/mean", tmp_path / "head", LEAN)
    assert not (tmp_path / "head").exists()


def test_what_is_not_there_and_a_folder_in_the_tables_place_are_named(
    scanned: Scanned, head: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"cannot predict .*nowhere: there is no such"):
        predict_slides([tmp_path / "nowhere"], head, tmp_path / "out.csv")
    with pytest.raises(ConfigError, match=r"it is a folder. Name a file, such as"):
        predict_slides([scanned.new_store], head, tmp_path)


def test_an_encoder_that_cannot_be_loaded_is_asked_for(scanned: Scanned, tmp_path: Path) -> None:
    out = tmp_path / "head"
    fit_head([scanned.store], scanned.labels, "red", "2/mean", out, LEAN, encoder="file:gone.onnx,tile_px=28")

    with pytest.raises(ConfigError, match=r"cannot be loaded as 'file:gone\.onnx.*--encoder SPEC"):
        predict_slides([scanned.new_slides], out, tmp_path / "out.csv")
    found = predict_slides([scanned.new_slides], out, tmp_path / "out.csv", PredictSettings(encoder=scanned.encoder))
    assert found.exit_status == 0


def flip_a_byte(head: Path) -> None:
    content = bytearray((head / "head.safetensors").read_bytes())
    content[-3] ^= 1
    (head / "head.safetensors").write_bytes(content)


def cut_the_json(head: Path) -> None:
    (head / "head.json").write_text((head / "head.json").read_text()[:100])


def change(place: str, value: object) -> Callable[[Path], None]:
    def edit(head: Path) -> None:
        content = json.loads((head / "head.json").read_text())
        content[place] = value
        (head / "head.json").write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "not the file that head.json names"),
        (cut_the_json, "is damaged"),
        (change("kind", "guess"), r"is damaged \(kind"),
        (change("outside", {"cut": 1.0, "n": 16, "bags": ["2", "0.5", "1"]}), "is damaged"),
        (change("outside", {"cut": 9.0, "n": 16, "bags": ["2", "0.5"], "false_alarms": 0.05}), "do not give the cut 9"),
        (lambda head: (head / "head.safetensors").unlink(), "is damaged"),
        (lambda head: (head / "head.json").unlink(), "no head at"),
    ],
)
def test_a_damaged_head_is_not_used(head: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(head, copy)
    assert load_head(copy).digest == load_head(head).digest
    damage(copy)

    with pytest.raises(StoreError, match=message):
        load_head(copy)


def test_a_newer_head_asks_for_a_newer_parfocal(head: Path, tmp_path: Path) -> None:
    shutil.copytree(head, tmp_path / "copy")
    change("parfocal_head", 99)(tmp_path / "copy")

    with pytest.raises(FormatVersionError, match="format 99"):
        load_head(tmp_path / "copy")


def test_a_head_of_the_first_format_loads_without_what_it_did_not_know(head: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(head, copy)
    arrays = load_file(copy / "head.safetensors")
    old = {name: one for name, one in arrays.items() if not name.endswith((".inside", ".residue"))}
    assert len(old) < len(arrays)
    save_file(old, copy / "head.safetensors")
    digest = hashlib.sha256((copy / "head.safetensors").read_bytes()).hexdigest()
    for place, value in (("parfocal_head", 1), ("arrays_digest", digest)):
        change(place, value)(copy)

    habit = load_head(copy).habits.bags[0]

    # No number of regions changes what it expects of a mean.
    np.testing.assert_array_equal(habit.inside, [habit.means.spread**2, 0 * habit.means.spread])
    assert habit.residue[1] == 0


def test_a_head_with_another_region_encoder_in_it_is_refused(scanned: Scanned, tmp_path: Path) -> None:
    from parfocal.region_encoder import RegionEncoder

    inputs, out = [scanned.store, scanned.regions], tmp_path / "head"
    fit_head(inputs, scanned.labels, "red", "mem/cls/mean", out, LEAN, models=[scanned.model])
    encoder = RegionEncoder.from_pretrained(scanned.model)
    RegionEncoder(encoder.config).save_pretrained(out / "model")  # other random weights

    with pytest.raises(MismatchError, match="damaged: its region encoder is"):
        predict_slides([scanned.new_store], out, tmp_path / "out.csv")


def test_a_head_is_replaced_as_a_whole_and_nothing_else_is(scanned: Scanned, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    shutil.copytree(head, out)
    (out / "left over").write_text("from before")
    fit_head([scanned.store], scanned.labels, "red", "0.5/mean", out, LEAN)

    assert sorted(path.name for path in out.iterdir()) == ["head.html", "head.json", "head.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head"]
    assert load_head(out).facts.arm == "0.5/mean"
    with pytest.raises(ConfigError, match="is no head"):
        fit_head([scanned.store], scanned.labels, "red", "2/mean", scanned.folder / "slides", LEAN)


def test_a_head_of_tiles_that_another_program_has_cut_asks_for_an_index(head: Path) -> None:
    facts = load_head(head).facts.tiles
    settings = {name: value for name, value in facts.settings.items() if name != "grid"}
    indexed = facts.model_copy(update={"settings": settings})

    with pytest.raises(ConfigError, match="parfocal index FOLDER"):
        embed_settings(indexed, head, encoder="filterbank")
