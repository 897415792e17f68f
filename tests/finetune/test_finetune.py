"""From pixels to a tuned encoder that the other commands take; killed and rerun, refused where it cannot be."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal import finetune_encoder, predict_places
from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.encoders import load_tile_encoder
from parfocal.encoders.network import NetworkEncoder
from parfocal.errors import ConfigError, EncoderError, MismatchError
from parfocal.files import read_csv
from parfocal.finetune import FinetuneResult, FinetuneSettings, KeptTiles, Tune, TunedEncoder
from parfocal.finetune.reading import PreparedRegion
from parfocal.predict import load_place_head
from parfocal.pretrain.metrics import read_metrics
from parfocal.region_encoder import RegionEncoder
from parfocal.run.events import Event, Notice, Progress

from ..run import fresh
from .conftest import GRID, NAMES, TILE_PX, Drawn

CNN = f"timm:test_efficientnet,tile_px={TILE_PX},random=0"
VIT = f"timm:test_vit,tile_px={TILE_PX},random=0"
QUICK = FinetuneSettings(
    encoder=CNN, tune="last-stages:2", grid=GRID, slides_per_step=2, regions_per_slide=4, steps=4, head_steps=20,
    head_decay=0.01, lr=0.01, tile_lr=1e-3, chunk=16, log_every=1, checkpoint_every=1, precision="float32",
    encoder_dtype="float32",
    device=("cpu",), holdout_slides=("a", "b"),
)  # fmt: skip


def ignore(_: object) -> None:
    """Listen to nothing."""


def tune_places(drawn: Drawn, out: Path, settings: FinetuneSettings = QUICK, **others: Any) -> FinetuneResult:
    return finetune_encoder(
        [drawn.slides],
        out,
        settings,
        **{"places": drawn.places, "targets": ["share", "chance"], "on_event": ignore, **others},
    )


def tune_slides(drawn: Drawn, out: Path, settings: FinetuneSettings = QUICK, **others: Any) -> FinetuneResult:
    columns = LabelColumns(group="patient")
    return finetune_encoder(
        [drawn.slides], out, settings, labels=drawn.labels, targets=["striped"], columns=columns, on_event=ignore,
        **others,
    )  # fmt: skip


@pytest.fixture(scope="module")
def at_places(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return tune_places(drawn, tmp_path_factory.mktemp("run") / "places")


def test_what_comes_out_is_embedded_and_represented_by_the_usual_commands(
    drawn: Drawn, at_places: FinetuneResult, tmp_path: Path
) -> None:
    how = EmbedSettings(encoder=at_places.spec, grid=GRID, encoder_dtype="float32", places=drawn.places)
    summary = embed_slides([drawn.slides], tmp_path / "store", how, on_event=ignore)
    assert not summary.failed
    made = represent_regions(
        summary.set_path, str(at_places.region_encoder), tmp_path / "regions", RepresentSettings(), on_event=ignore
    )
    assert len(made.done) == len(NAMES)
    untuned, tuned = load_tile_encoder(CNN, dtype="float32"), load_tile_encoder(at_places.spec, dtype="float32")
    assert untuned.digest != tuned.digest
    assert untuned.name == tuned.name


def test_only_the_last_stages_have_changed(at_places: FinetuneResult) -> None:
    before, after = (load_tile_encoder(spec, dtype="float32") for spec in (CNN, at_places.spec))
    assert isinstance(before, NetworkEncoder)
    assert isinstance(after, NetworkEncoder)
    frozen = dict(before.backbone.named_parameters())
    tuned = TunedEncoder(before, Tune.of("last-stages:2"))
    chosen = {id(one) for one in tuned.trained}
    moved = {name for name, one in after.backbone.named_parameters() if not torch.equal(one, frozen[name])}

    assert moved
    assert moved <= {name for name, one in frozen.items() if id(one) in chosen}
    statistics = dict(before.backbone.named_buffers())
    assert all(torch.equal(one, statistics[name]) for name, one in after.backbone.named_buffers())


def test_held_out_places_are_told_before_and_after(drawn: Drawn, at_places: FinetuneResult) -> None:
    rows = list(read_csv(at_places.out / "held_out.csv"))
    record = json.loads((at_places.out / "finetune.json").read_text())["finetuning"]

    assert rows[0] == ["slide", "x_um", "y_um", "share", "chance"]
    assert {row[0] for row in rows[1:]} == {"a", "b"}
    assert len(rows) == 1 + 2 * 12
    assert record["held_out_slides"] == ["a", "b"]
    assert record["settings"]["tune"] == "last-stages:2"
    assert at_places.before is not None
    assert at_places.after is not None
    by_hand = []
    truth = {tuple(row[:3]): [float(one) for one in row[3:]] for row in read_csv(drawn.places) if row[0] in "ab"}
    for slide in "ab":
        own = [row for row in rows[1:] if row[0] == slide]
        said = np.array([[float(one) for one in row[3:]] for row in own])
        true = np.array([truth[row[0], row[1], row[2]] for row in own])
        by_hand += [np.corrcoef(said[:, target], true[:, target])[0, 1] for target in (0, 1)]
    assert at_places.after == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_the_head_predicts_what_training_said_of_held_out_places(
    drawn: Drawn, at_places: FinetuneResult, tmp_path: Path
) -> None:
    assert at_places.head is not None
    held_out = [drawn.slides / f"{name}.tif" for name in "ab"]
    summary = predict_places(
        held_out, at_places.head, tmp_path / "said.csv", places=drawn.places, maps=0, on_event=ignore
    )
    said, wanted = (
        {(row[0], float(row[1]), float(row[2])): [float(one) for one in row[3:5]] for row in list(read_csv(path))[1:]}
        for path in (summary.out, at_places.out / "held_out.csv")
    )
    assert said.keys() == wanted.keys()
    for place, values in wanted.items():
        assert said[place] == pytest.approx(values, abs=2e-3)  # rows are stored in float16
    facts = load_place_head(at_places.head).facts
    assert facts.metric.estimate == pytest.approx(at_places.after, abs=1e-6)


@pytest.mark.parametrize("readout", ["cls", "tokens"])
def test_the_head_knows_absolute_values_too(drawn: Drawn, tmp_path: Path, readout: str) -> None:
    settings = QUICK.model_copy(update={"readout": readout, "centre": False, "steps": 1, "holdout_slides": ("a",)})
    result = tune_places(drawn, tmp_path / "run", settings)
    assert result.head is not None
    predict_places(
        [drawn.slides / "a.tif"], result.head, tmp_path / "said.csv", places=drawn.places, maps=0, on_event=ignore
    )
    said, wanted = (
        np.array([[float(one) for one in row[3:5]] for row in list(read_csv(path))[1:]])
        for path in (tmp_path / "said.csv", result.out / "held_out.csv")
    )
    assert np.allclose(said, wanted, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("head", ["linear", "attention", "abmilx"])
def test_labels_of_slides_are_learnt(drawn: Drawn, tmp_path: Path, head: str) -> None:
    settings = QUICK.model_copy(
        update={"head": head, "steps": 20, "readout": "cls+mixed", "head_steps": 0, "checkpoint_every": 50, "chunk": 64}
    )
    result = tune_slides(drawn, tmp_path / "slides", settings)
    losses = [row["loss"] for row in read_metrics(result.out / "metrics.csv") if "loss" in row]

    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)  # of a head that knows nothing
    assert np.mean(losses[-3:]) < 0.6
    assert [row[:2] for row in read_csv(result.out / "held_out.csv")][1:] == [["a", "yes"], ["b", "no"]]


def test_a_vision_transformer_is_trained_saved_loaded_and_embeds(drawn: Drawn, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"encoder": VIT, "tune": "lora:2"})
    result = tune_places(drawn, tmp_path / "lora", settings)
    summary = embed_slides(
        [drawn.slides / "a.tif"], tmp_path / "store", EmbedSettings(encoder=result.spec, grid=GRID), on_event=ignore
    )
    assert not summary.failed
    before, after = load_tile_encoder(VIT, dtype="float32"), load_tile_encoder(result.spec, dtype="float32")
    assert isinstance(before, NetworkEncoder)
    assert isinstance(after, NetworkEncoder)
    old = dict(before.backbone.named_parameters())
    moved = {name for name, one in after.backbone.named_parameters() if not torch.equal(one, old[name])}
    assert {name.split(".", 3)[3] for name in moved} == {
        "attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight",
    }  # fmt: skip


def test_merged_weights_give_what_the_adapters_gave(tmp_path: Path) -> None:
    encoder = load_tile_encoder(VIT, dtype="float32")
    assert isinstance(encoder, NetworkEncoder)
    tuned = TunedEncoder(encoder, Tune.of("lora:3"), seed=1)
    tiles = np.random.default_rng(0).integers(0, 256, (4, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    untouched = tuned(tuned.prepare(tiles)).detach()
    assert torch.equal(untouched, torch.from_numpy(load_tile_encoder(VIT, dtype="float32").encode(tiles)))
    for one in tuned.trained:
        torch.nn.init.normal_(one, std=0.05, generator=torch.Generator().manual_seed(len(one)))
    torch.save(tuned.tensors(), tmp_path / "weights.pt")
    merged = load_tile_encoder(f"timm:test_vit,tile_px={TILE_PX},checkpoint={tmp_path / 'weights.pt'}", dtype="float32")

    found = tuned(tuned.prepare(tiles)).detach()
    assert not torch.allclose(found, untouched, atol=1e-2)
    assert torch.allclose(found, torch.from_numpy(merged.encode(tiles)), atol=1e-4)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_a_network_in_two_parts_gives_what_it_gives_whole(name: str) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for spec in (f"timm:{name},tile_px=64,random=0", f"timm:{name},tile_px=64,random=0+grid2"):
        encoder = load_tile_encoder(spec, dtype="float32")
        assert isinstance(encoder, NetworkEncoder)
        whole = encoder.encode(tiles)
        for n_stages in (1, 2):
            tuned = TunedEncoder(encoder, Tune.of(f"last-stages:{n_stages}"))
            assert np.allclose(tuned(tuned.prepare(tiles)).detach().numpy(), whole, atol=1e-6)


def test_a_killed_run_gives_the_numbers_of_one_that_was_not(
    drawn: Drawn, at_places: FinetuneResult, tmp_path: Path
) -> None:
    def die(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "steps" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_places(drawn, tmp_path / "run", on_event=die)
    assert (tmp_path / "run" / "resume.pt").is_file()
    # Nothing is kept in memory, and tiles go in other chunks: neither decides what comes out.
    resumed = tune_places(drawn, tmp_path / "run", QUICK.model_copy(update={"cache_mib": 0}))

    for file in ("metrics.csv", "held_out.csv", "encoder.safetensors"):
        assert (resumed.out / file).read_bytes() == (at_places.out / file).read_bytes(), file
    model = "region-encoder/model.safetensors"
    assert (resumed.out / model).read_bytes() == (at_places.out / model).read_bytes()
    assert not (resumed.out / "resume.pt").exists()


def test_a_finished_run_is_not_repeated_and_another_is_refused(drawn: Drawn, at_places: FinetuneResult) -> None:
    again = tune_places(drawn, at_places.out)
    assert again.was_finished
    assert (again.before, again.after) == (at_places.before, at_places.after)
    with pytest.raises(MismatchError, match=r"cannot fine-tune into .* settings lr=0.01, now it is 0.02"):
        tune_places(drawn, at_places.out, QUICK.model_copy(update={"lr": 0.02}))


def test_a_pretrained_region_encoder_is_taken_only_where_it_fits(
    drawn: Drawn, at_places: FinetuneResult, tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match="embeddings of another tile encoder"):
        tune_places(drawn, tmp_path / "run", model=at_places.region_encoder)
    settings = QUICK.model_copy(update={"encoder": at_places.spec, "tune": "none", "steps": 1, "region_lr": 1e-9})
    result = tune_places(drawn, tmp_path / "run", settings, model=at_places.region_encoder)
    assert result.spec == at_places.spec
    assert not (result.out / "encoder.safetensors").exists()
    was, now = (RegionEncoder.from_pretrained(one.region_encoder) for one in (at_places, result))
    assert was.config == now.config
    assert torch.allclose(was.specials, now.specials, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoder": "filterbank"}, "no network of torch"),
        ({"encoder": VIT}, r"cannot tune .* \(VisionTransformer\) by last-stages"),
        ({"tune": "lora:2"}, r"cannot tune .* \(EfficientNet\) by lora"),
        ({"tune": "last-stages:9"}, "stages and not 9"),
        ({"holdout_slides": ("z",)}, "no slide 'z' to hold out"),
        ({"holdout_slides": NAMES}, "none is left to train on"),
        ({"head": "attention"}, "a place is one region"),
        ({"regions_per_slide": 1}, "from which nothing is learnt. Use 2 or more, or --no-centre"),
    ],
)
def test_what_cannot_be_done_is_said(drawn: Drawn, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tune_places(drawn, tmp_path / "run", QUICK.model_copy(update=changes))


def test_a_group_of_places_has_to_be_there_and_may_not_tear_a_slide(drawn: Drawn, tmp_path: Path) -> None:
    header, *rows = drawn.places.read_text().split()
    torn = tmp_path / "places.csv"
    torn.write_text("\n".join([f"{header},patient", *(f"{row},p{n % 2}" for n, row in enumerate(rows))]))

    def tune(places: Path, group: str, targets: list[str]) -> None:
        columns = LabelColumns(group=group)
        tune_places(drawn, tmp_path / "run", places=places, targets=targets, columns=columns)

    # All in one folder: what could not begin leaves it to the call that is corrected.
    with pytest.raises(ConfigError, match="no 'hospital' to group by; it has share, chance"):
        tune(drawn.places, "hospital", ["all"])
    with pytest.raises(ConfigError, match="'share' says which places stay together, and no other target"):
        tune(drawn.places, "share", ["share"])
    with pytest.raises(ConfigError, match="are of several groups; a slide belongs to one"):
        tune(torn, "patient", ["share"])
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_that_no_spec_can_name_is_refused_before_training(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="Use a path without commas"):
        tune_places(drawn, tmp_path / "run,1")

    assert not (tmp_path / "run,1").exists()


@pytest.mark.parametrize("changes", [{"most_variable": 5}, {"centre": False}])
def test_what_is_asked_of_places_is_refused_of_slides(drawn: Drawn, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="go with --places FILE"):
        tune_slides(drawn, tmp_path / "run", QUICK.model_copy(update=changes))


def test_held_out_slides_of_one_class_are_said_to_tell_nothing(drawn: Drawn, tmp_path: Path) -> None:
    events: list[Event] = []
    settings = QUICK.model_copy(update={"holdout_slides": ("a", "c"), "steps": 0})
    columns = LabelColumns(group="patient")

    result = finetune_encoder(
        [drawn.slides],
        tmp_path / "run",
        settings,
        labels=drawn.labels,
        targets=["striped"],
        columns=columns,
        on_event=events.append,
    )

    assert result.before is None
    told = [one.text for one in events if isinstance(one, Notice) and one.is_warning]
    assert told == ["no two held-out slides differ in 'striped', so AUC cannot be told of them. Hold out more."]


def test_a_way_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="tune=all is not one of lora:RANK"):
        FinetuneSettings(tune="all")


def test_the_command_says_how_to_go_on(drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "finetune", drawn.slides, "-o", tmp_path / "out", "--encoder", CNN, "--places", drawn.places, "--target", "all",
        "--tile-px", TILE_PX, "--region-um", 64, "--mpps", 2, 1, "--steps", 1, "--head-steps", 1, "--device", "cpu",
        "--precision", "float32",
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    shown = capsys.readouterr().out
    assert (
        f"--encoder timm:test_efficientnet,tile_px={TILE_PX},checkpoint={tmp_path / 'out' / 'encoder.safetensors'}"
        in shown
    )
    assert f"represent with: --model {tmp_path / 'out' / 'region-encoder'}" in shown
    assert main(["finetune", str(drawn.slides), "-o", str(tmp_path / "x"), "--encoder", CNN]) == 2


def test_a_control_leaves_the_tile_encoder_as_it_was(drawn: Drawn, at_places: FinetuneResult, tmp_path: Path) -> None:
    kept = KeptTiles(1 << 30)
    result = tune_places(drawn, tmp_path / "control", QUICK.model_copy(update={"tile_lr": 0.0}), kept=kept)
    before, after = (load_tile_encoder(spec, dtype="float32").describe()["weights"] for spec in (CNN, result.spec))
    assert before == after
    assert result.before == at_places.before
    # What a run has prepared serves the next one in the same process, which then gives what it would alone.
    tuned = tune_places(drawn, tmp_path / "tuned", kept=kept)
    assert (tuned.out / "metrics.csv").read_bytes() == (at_places.out / "metrics.csv").read_bytes()


def test_a_step_takes_some_tiles_of_each_magnification(drawn: Drawn, tmp_path: Path) -> None:
    xy_um = np.array([(0, 0), (-16, -16), (16, -16), (0, 0), (16, 16)], np.float32)
    region = PreparedRegion(torch.arange(5), xy_um, np.array([2, 1, 1, 1, 1], np.float32))
    drawn_tiles = [region.some(3, np.random.default_rng(seed), at_place=True) for seed in range(40)]
    assert all({0, 3} < set(one.tiles.tolist()) for one in drawn_tiles)
    assert {one for part in drawn_tiles for one in part.tiles.tolist()} == {0, 1, 2, 3, 4}
    assert all(np.array_equal(one.xy_um, xy_um[one.tiles.numpy()]) for one in drawn_tiles)
    elsewhere = [region.some(2, np.random.default_rng(seed), at_place=False) for seed in range(40)]
    assert {one.tiles.tolist()[0] for one in elsewhere} == {0}
    assert {one.tiles.tolist()[1] for one in elsewhere} == {1, 2, 3, 4}
    assert region.some(5, np.random.default_rng(0), at_place=True) is region

    few = tune_slides(drawn, tmp_path / "few", QUICK.model_copy(update={"tiles_per_region": 2, "steps": 1}))
    assert [row.get("held_out") for row in read_metrics(few.out / "metrics.csv")][-1] is not None
    with pytest.raises(ConfigError, match="fewer than the 2 magnifications"):
        tune_places(drawn, tmp_path / "none", QUICK.model_copy(update={"tiles_per_region": 1}))


def test_several_processes_train_one_model(drawn: Drawn, tmp_path: Path) -> None:
    words = [
        "finetune", drawn.slides, "-o", tmp_path / "out", "--encoder", CNN, "--labels", drawn.labels, "--target",
        "striped", "--tile-px", TILE_PX, "--region-um", 64, "--mpps", 2, 1, "--steps", 2, "--head-steps", 2,
        "--device", "cpu", "--precision", "float32", "--log-every", 1, "--slides-per-step", 1,
    ]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "parfocal"]
    done = fresh.run([sys.executable, *torchrun, *map(str, words)], check=True, capture_output=True, text=True)
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert done.stdout.count("represent with") == 2  # each process answers, and the first has written
    assert RegionEncoder.from_pretrained(tmp_path / "out" / "region-encoder").config.mpps == (2.0, 1.0)
