"""A run learns what is there to learn, can be killed at any time, and is the same on any number of threads."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from parfocal.errors import ConfigError, MismatchError, ParfocalWarning
from parfocal.pretrain import PretrainSettings, pretrain_encoder, read_metrics
from parfocal.region_encoder import RegionEncoder, collate_regions
from parfocal.run.events import Event, Notice, Progress
from parfocal.store import EmbeddingSet
from parfocal.store.layout import features_path

from ..region_encoder.toy import TINY, tiny_models
from ..run.two_ranks import run_two_ranks
from .conftest import MakeSet, write_set

SMALL = PretrainSettings(
    size="T", steps=6, batch=8, log_every=1, monitor_every=3, checkpoint_every=2, precision="float32", warmup=0.9
)
CURVE = ("loss", "loss_tokens", "loss_variance", "loss_contrast", "lr", "r2", "r2_whole_0.5", "rank_me_cls")
IMPORTS = f"""
import os, signal, sys, torch
from pathlib import Path
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder import SIZES
from parfocal.store import open_set

SIZES["T"] = {TINY}

def run(settings, out, on_event=lambda event: None):
    settings = PretrainSettings.model_validate_json(settings)
    pretrain_encoder(open_set(Path(sys.argv[1])), Path(out), settings, on_event=on_event)

def die(event):
    if getattr(event, "result", None) and event.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)

alone = os.fork()
if not alone:
    for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    run(*sys.argv[4:], die)
assert os.waitstatus_to_exitcode(os.waitpid(alone, 0)[1]) == -signal.SIGKILL
"""
KILLED = SMALL.model_copy(update={"steps": 9, "log_every": 2, "checkpoint_every": 3, "objective": "cmem"})
# With contrast and dropped paths, whose draws and negatives are those of a part too.
OF_TWO = SMALL.model_copy(update={"steps": 4, "batch": 4, "objective": "cmem"})


@dataclass(frozen=True)
class Elsewhere:
    """Runs that were made in other processes.

    Attributes:
        tiles: what all of them learn from.
        killed: a run that was killed at its fourth step.
        two: a run of two processes.
    """

    tiles: EmbeddingSet
    killed: Path
    two: Path


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    root = tmp_path_factory.mktemp("elsewhere")
    made = Elsewhere(write_set(root, (6, 9, 5, 7), absent=0.3), root / "killed", root / "two")
    arguments = (made.two, OF_TWO.model_dump_json(), KILLED.model_dump_json(), made.killed)
    run_two_ranks(IMPORTS, "run(sys.argv[3], sys.argv[2])", made.tiles.path, *arguments)
    return made


def curve(folder: Path) -> list[dict[str, float]]:
    return [{key: row[key] for key in ("step", *CURVE) if key in row} for row in read_metrics(folder / "metrics.csv")]


def test_what_the_coarse_tile_knows_of_the_fine_ones_is_learnt(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((30,) * 8, dim=24, noise=0.1, mpps=(2.0, 1.0))
    settings = PretrainSettings(
        size="T", steps=60, batch=24, lr=7e-3, precision="float32", monitor_every=200, log_every=200, seed=1
    )
    with tiny_models(width=64):
        result = pretrain_encoder(tiles, tmp_path / "model", settings)

    # Noise of .1 in every tile leaves 1 / 1.01 of the variance to explain; the training mean scores 0.
    assert result.metrics["r2_whole_1"] > 0.5
    assert result.metrics["r2_whole"] > 0.5
    assert result.metrics["r2_bottleneck_1"] > 0.5
    assert result.holdout == "held out: 1 of 8 slides"


def test_a_killed_run_goes_on_to_the_curve_of_one_that_was_not(elsewhere: Elsewhere, tmp_path: Path) -> None:
    pretrain_encoder(elsewhere.tiles, tmp_path / "whole", KILLED)
    assert (elsewhere.killed / "resume.pt").is_file()
    pretrain_encoder(elsewhere.tiles, elsewhere.killed, KILLED)

    assert curve(elsewhere.killed) == curve(tmp_path / "whole")
    ours, theirs = (
        RegionEncoder.from_pretrained(folder).state_dict() for folder in (elsewhere.killed, tmp_path / "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_threads_and_memory_do_not_change_the_curve(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((6, 9, 5, 7), absent=0.3)
    settings = SMALL.model_copy(update={"steps": 4})  # one more than an epoch
    pretrain_encoder(tiles, tmp_path / "plain", settings)
    pretrain_encoder(tiles, tmp_path / "none", settings.model_copy(update={"read_threads": 0}))
    pretrain_encoder(tiles, tmp_path / "read", settings.model_copy(update={"read_threads": 3, "cache_mib": 0}))

    assert curve(tmp_path / "none") == curve(tmp_path / "read") == curve(tmp_path / "plain")


def test_a_finished_run_is_not_repeated_and_another_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((6, 9, 5, 7))
    events: list[Event] = []
    first = pretrain_encoder(tiles, tmp_path / "m", SMALL, on_event=events.append)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    again = pretrain_encoder(tiles, tmp_path / "m", SMALL.model_copy(update={"read_threads": 0}))

    assert (first.was_finished, again.was_finished) == (False, True)
    assert again.metrics == first.metrics
    assert again.steps == 6
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == files
    assert files.keys() == {"model.safetensors", "config.json", "metrics.csv", "run.json"}
    with pytest.raises(MismatchError, match=r"settings lr=0\.0003, now it is 0\.01"):
        pretrain_encoder(tiles, tmp_path / "m", SMALL.model_copy(update={"lr": 0.01}))

    assert isinstance(events[0], Notice)
    told = [event for event in events if isinstance(event, Progress)]
    assert told[0] == Progress("steps", 0, 6)
    rows = [event.result for event in told[1:]]
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert [row["step"] for row in rows if "r2_whole_0.5" in row] == [3, 6]
    kept = json.loads((tmp_path / "m" / "config.json").read_text())["pretraining"]
    assert kept["settings"]["lr"] == 3e-4
    assert kept["set"]["encoder_digests"] == ["aa"] * 3
    assert kept["holdout"] == "held out: 1 of 4 slides"


@pytest.mark.parametrize(
    ("changes", "filled", "empty"),
    [
        ({"objective": "cmem"}, ("loss_tokens", "loss_contrast", "r2", "contrast_top1_same_slide"), ("x",)),
        ({"objective": "contrastive"}, ("loss_contrast", "contrast_top1"), ("r2", "r2_whole_2")),
        ({"targets": "whitened"}, ("loss_tokens", "loss_variance", "r2"), ("contrast_top1",)),
        ({"targets": "latent"}, ("loss_tokens", "loss_guard", "r2"), ("contrast_top1",)),
    ],
)
def test_every_objective_trains_what_it_says(
    make_set: MakeSet, tmp_path: Path, changes: dict[str, str], filled: tuple[str, ...], empty: tuple[str, ...]
) -> None:
    settings = SMALL.model_copy(update={"steps": 3, **changes})
    before = [parameter.clone() for parameter in torch.get_rng_state()[None]]
    metrics = pretrain_encoder(make_set((6, 9, 5, 7)), tmp_path / "m", settings).metrics

    assert all(metrics[name] != 0 for name in filled)
    assert all(name not in metrics for name in empty)
    assert torch.equal(torch.get_rng_state(), before[0])


def test_a_collapsed_representation_is_warned_of(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parfocal.pretrain.evaluation.rank_me", lambda rows: 0.1)
    events: list[Event] = []
    with pytest.warns(ParfocalWarning, match="may be collapsing"):
        pretrain_encoder(
            make_set((6, 9, 5, 7)),
            tmp_path / "m",
            SMALL.model_copy(update={"steps": 1}),
            on_event=events.append,
        )

    said = [event.text for event in events if isinstance(event, Notice) and event.is_warning]
    # CLS and the tokens of three magnifications, once each.
    assert len(said) == 4
    assert "may be collapsing" in said[0]


def test_regions_with_a_single_tile_are_skipped_and_counted(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((6, 9, 5, 7), absent=0.95)
    pretrain_encoder(tiles, tmp_path / "m", SMALL.model_copy(update={"steps": 3}))

    assert sum(row["skipped_regions"] for row in read_metrics(tmp_path / "m" / "metrics.csv")) > 0


def test_two_processes_have_the_curve_of_one_that_draws_from_two_streams(elsewhere: Elsewhere, tmp_path: Path) -> None:
    pretrain_encoder(elsewhere.tiles, tmp_path / "one", OF_TWO.model_copy(update={"batch": 8, "streams": 2}))
    pretrain_encoder(elsewhere.tiles, tmp_path / "plain", OF_TWO.model_copy(update={"batch": 8}))

    rows, reference, plain = curve(elsewhere.two), curve(tmp_path / "one"), curve(tmp_path / "plain")
    assert [row["step"] for row in rows] == list(range(1, 5))
    for own, other in zip(rows, reference, strict=True):
        assert own == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert rows[-1]["loss"] != pytest.approx(plain[-1]["loss"], rel=1e-4)  # of other batches, so the curves can differ
    assert json.loads((elsewhere.two / "config.json").read_text())["pretraining"]["processes"] == 2


@pytest.mark.parametrize(
    ("streams", "batch", "said"), [(3, 8, "8 regions cannot be drawn from 3 streams"), (8, 8, "2 or more")]
)
def test_streams_that_give_no_equal_parts_are_refused(
    streams: int, batch: int, said: str, make_set: MakeSet, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        pretrain_encoder(
            make_set((6, 7)), tmp_path / "m", SMALL.model_copy(update={"batch": batch, "streams": streams})
        )
    assert not (tmp_path / "m").exists()


def test_regions_of_one_tile_are_refused_because_nothing_can_be_hidden(make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one tile each"):
        pretrain_encoder(make_set((6, 6, 6), mpps=(2.0,)), tmp_path / "model", SMALL)

    assert not (tmp_path / "model").exists()


def test_a_model_of_one_magnification_never_opens_the_others(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((6, 7, 5))
    settings = SMALL.model_copy(update={"mpps": (0.5,), "steps": 1})
    pretrain_encoder(tiles, tmp_path / "fine", settings)
    for slide in tiles.slides:
        for mpp in (2.0, 1.0):
            features_path(tiles.path, slide, mpp).unlink()

    again = pretrain_encoder(tiles, tmp_path / "again", settings)

    encoder = RegionEncoder.from_pretrained(tmp_path / "again")
    assert encoder.config.mpps == (0.5,)
    assert encoder.digest == RegionEncoder.from_pretrained(tmp_path / "fine").digest
    assert "r2_0.5" in again.metrics
    assert "r2_2" not in again.metrics


def test_a_magnification_that_the_set_lacks_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"no tiles at 0.25 mpp"):
        pretrain_encoder(make_set((6, 7)), tmp_path / "model", SMALL.model_copy(update={"mpps": (0.25,)}))


def test_no_step_leaves_random_weights_with_fitted_statistics(make_set: MakeSet, tmp_path: Path) -> None:
    tiles = make_set((6, 7, 5))
    nothing = SMALL.model_copy(update={"steps": 0})

    result = pretrain_encoder(tiles, tmp_path / "random", nothing)
    pretrain_encoder(tiles, tmp_path / "trained", SMALL.model_copy(update={"steps": 1}))

    random, trained = (RegionEncoder.from_pretrained(tmp_path / name) for name in ("random", "trained"))
    said = json.loads((tmp_path / "random" / "config.json").read_text())["pretraining"]
    assert (result.steps, said["steps"], said["weights"]) == (0, 0, "random")
    assert random.digest != trained.digest
    torch.testing.assert_close(random.standardiser.mean, trained.standardiser.mean)
    assert bool((random.standardiser.mean.abs() > 0.1).all())
    # It mixes: what CLS says of regions differs by more than float16 rounds away.
    batch = collate_regions([(tiles.read("s0"), range(6))])
    cls = random.encode(batch.tokens, batch.xy_um, batch.mpp, batch.present).cls
    assert float(cls.std(dim=0).mean()) > 0.05
    # A second call finds the run finished.
    assert pretrain_encoder(tiles, tmp_path / "random", nothing).was_finished


def test_slides_of_a_patient_are_never_on_both_sides_and_the_model_says_who_was_where(
    make_set: MakeSet, tmp_path: Path
) -> None:
    tiles = make_set((6, 9, 5, 7, 4, 8))
    groups = {f"s{number}": f"p{number // 2}" for number in range(6)}
    settings = SMALL.model_copy(update={"steps": 2, "holdout": 0.3})
    result = pretrain_encoder(tiles, tmp_path / "m", settings, groups=groups)
    kept = json.loads((tmp_path / "m" / "config.json").read_text())["pretraining"]

    assert result.holdout == "held out: 2 of 6 slides, 1 of 3 groups"
    assert kept["groups"] == groups
    assert len({groups[slide] for slide in kept["held_out_slides"]}) == 1
    assert pretrain_encoder(tiles, tmp_path / "m", settings, groups=groups).was_finished
    with pytest.raises(MismatchError, match="groups"):
        pretrain_encoder(tiles, tmp_path / "m", settings)
    # Patients of one slide each are what slides are.
    alone = {f"s{number}": f"p{number}" for number in range(6)}
    pretrain_encoder(tiles, tmp_path / "alone", settings, groups=alone)
    assert pretrain_encoder(tiles, tmp_path / "alone", settings).was_finished
