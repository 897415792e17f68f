import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.cli import main
from parfocal.errors import ConfigError, MismatchError
from parfocal.lab.prove.controls import show
from parfocal.lab.prove.data import held_out_regions
from parfocal.lab.prove.layout import Layout, draw_hidden, patterns_of
from parfocal.lab.prove.run import ProveSettings, prove_encoder
from parfocal.lab.prove.subject import Predictor, open_subject
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.run.cache import StepCache
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

from ...region_encoder.toy import tiny_models

MPPS = (2.0, 1.0, 0.5)
DIM = 8
QUICK = ProveSettings(
    eval_regions=60,
    random_regions=20,
    train_regions=200,
    network_steps=5,
    control_steps=2,
    readout_regions=32,
    draws=100,
    queries=20,
)


def toy_slide(name: str, n_regions: int, seed: int, gap: bool = False) -> SlideTokens:
    """Fine tiles are a turned copy of the coarse one, and some of them are absent."""
    rng, world = np.random.default_rng([seed, 7]), np.random.default_rng(5)
    coarse = rng.normal(size=(n_regions, DIM)) + rng.normal(size=DIM)
    features, region, center = {}, {}, {}
    for mpp in MPPS:
        n = round(2.0 / mpp)
        mixing = np.linalg.qr(world.normal(size=(DIM, DIM)))[0]
        side = 224 * mpp
        places = np.array([(c * side, r * side) for r in range(n) for c in range(n)]) + side / 2 - 224
        rows = np.repeat(coarse @ mixing, n * n, axis=0)
        kept = np.ones(len(rows), bool) if mpp == 2.0 else rng.random(len(rows)) > 0.1
        features[mpp] = (rows + 0.3 * rng.normal(size=rows.shape))[kept].astype(np.float32)
        region[mpp] = np.repeat(np.arange(n_regions), n * n)[kept].astype(np.int32)
        center[mpp] = np.tile(places, (n_regions, 1))[kept].astype(np.float32)
    x = 448.0 * (np.arange(n_regions) + 3 * (np.arange(n_regions) // 4 if gap else 0))
    xy_um = np.stack([x, np.zeros(n_regions)], axis=1)
    return SlideTokens(name, 448.0, 0.25, xy_um, features, region, center)


def write_store(folder: Path, slides: list[SlideTokens]) -> EmbeddingSet:
    path = create_set(
        folder,
        "toy-00000000",
        "tiles",
        region_um=448.0,
        dims=dict.fromkeys(MPPS, DIM),
        settings={"encoder": "toy"},
        encoder_digests=dict.fromkeys(MPPS, "aa"),
        tile_px=224,
    )
    for slide in slides:
        write_tokens(path, slide)
    return open_set(path)


def slides(n: int) -> list[SlideTokens]:
    return [toy_slide(f"s{number}", 5, number) for number in range(n)]


def train(folder: Path, slides: list[SlideTokens], **settings: object) -> tuple[Path, Path]:
    """A checkpoint trained on a store, and the store."""
    tiles = write_store(folder / "store", slides)
    defaults = {"size": "T", "batch": 16, "steps": 6, "log_every": 6, "monitor_every": 6, "monitor_regions": 8}
    quick = PretrainSettings(**{**defaults, "device": "cpu", "read_threads": 0, "precision": "float32", **settings})
    return pretrain_encoder(tiles, folder / "model", quick).model, folder / "store"


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with tiny_models(depth=1):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, _tiny: None) -> tuple[Path, Path]:
    """A checkpoint of four slides, two of them held out, and their store."""
    return train(tmp_path_factory.mktemp("trained"), slides(4), holdout=0.5)


@dataclass(frozen=True)
class Proven:
    """A proof by the command, with the settings `QUICK`, and what it printed."""

    out: Path
    status: int
    printed: str

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads((self.out / "prove.json").read_text()))


@pytest.fixture(scope="module")
def proven(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Proven:
    out, printed = tmp_path_factory.mktemp("proven"), io.StringIO()
    flags = [
        text
        for name, value in QUICK.model_dump(exclude_defaults=True).items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    with redirect_stdout(printed):
        status = main(["prove", *map(str, trained), "-o", str(out), *flags])
    return Proven(out, status, printed.getvalue())


def test_every_baseline_and_control_is_in_page_and_json(proven: Proven) -> None:
    out, found = proven.printed, proven.content
    page = (proven.out / "report.html").read_text()

    assert proven.status == 0
    rows = {
        "model",
        "B0",
        "B1",
        "B2",
        "B3",
        "B4",
        "B5",
        "B6",
        "B7, k=1",
        "B7, k=8",
        "B8",
        "B9",
        "B10",
        "C1",
        "C1x",
        "C2",
        "C3",
        "C3s",
        "E1",
        "E0",
        "E0s",
    }
    assert set(found["patterns"]) == {"random", "whole 2", "whole 1", "whole 0.5", "subtree", "coarse only"}
    assert all(set(pattern["r2"]) == rows for pattern in found["patterns"].values())
    assert found["patterns"]["random"]["r2"]["B0"]["all"] == 0
    assert all(row in page for row in rows)
    assert found["verdict"][0] in page.replace("&#39;", "'")
    assert found["verdict"][0] in out
    # Two steps for C3, six for the model.
    assert found["verdict"][0].startswith("No verdict")
    assert set(found["patterns"]["random"]["trained_minus_random_weights"]) == {
        "model minus C3",
        "model minus C3s",
        "model minus E0",
        "model minus E0s",
        "E1 minus E0",
        "E1 minus E0s",
    }
    # The fine tiles are a rotation of the coarse one: a linear map finds it, six steps of training do not.
    assert found["patterns"]["whole 0.5"]["r2"]["B5"]["all"] > 0.5
    assert not found["patterns"]["whole 0.5"]["holds"]
    assert found["retrieval_top1"]["whole 0.5, 0.5"]["B1"] < 0.1
    assert set(found["calibration"]["whole 0.5, 0.5"]) == {"model", "B9"}


def test_one_slide_is_proven_on_fragments_and_says_so(tmp_path: Path) -> None:
    model, store = train(tmp_path, [toy_slide("only", 60, 0, gap=True)], holdout=0.3, targets="whitened")
    result = prove_encoder(model, store, tmp_path / "out", QUICK.model_copy(update={"control_steps": 0}))

    assert result.one_slide
    assert result.clusters == "tissue fragments of the only slide"
    assert "C2" not in result.scores.methods()
    assert "What one slide can show" in result.report.read_text()
    assert any("one slide" in sentence.lower() for sentence in result.sentences)
    # No step for the controls: those that learn a decoder are not there, and the reader is told.
    assert not {"B10", "C3", "C3s"} & set(result.scores.methods())
    assert "C3s are left out, as asked" in result.report.read_text()


def test_hidden_tiles_never_reach_the_model_and_rows_keep_their_place(trained: tuple[Path, Path]) -> None:
    model, store = trained
    subject = open_subject(model, open_set(store))
    layout = Layout.of_set(subject.tiles)
    predictor = Predictor(subject.trainee, layout, torch.device("cpu"), batch=5)
    held_out = held_out_regions(
        subject.cache, subject.split.held_out, layout, predictor.standardise, most=12, rng=np.random.default_rng(0)
    )
    pattern = next(one for one in patterns_of(layout) if one.name == "random")
    hidden = draw_hidden(pattern, layout, held_out.present, rate=(0.3, 0.75), seed=0)
    visible = held_out.present & ~hidden
    mean, variance = predictor.predict(show(held_out.raw, hidden), hidden)
    tokens = held_out.raw.tokens.masked_fill(torch.from_numpy(hidden)[..., None], torch.nan)
    again, _ = predictor.predict(show(replace(held_out.raw, tokens=tokens), hidden), hidden)

    assert np.array_equal(mean, again)
    assert (variance[hidden] > 0).all()
    assert not mean[~hidden].any()
    # One region and one tile at a time gives the same numbers at the same places.
    network = subject.trainee.model
    row, slot = (int(one) for one in np.argwhere(hidden)[7])
    with torch.inference_mode():
        encoded = network.encoder(
            *(values[row : row + 1] for values in (held_out.raw.tokens, held_out.raw.xy_um)),
            torch.from_numpy(layout.mpp[None]),
            torch.from_numpy(visible[row : row + 1]),
        )
        at = held_out.raw.xy_um[row, slot][None, None]
        alone = network.decode(
            encoded, torch.from_numpy(visible[row : row + 1]), at, torch.tensor([[layout.mpp[slot]]])
        )
    np.testing.assert_allclose(mean[row, slot], alone.mean[0, 0].numpy(), atol=1e-5)


def r2_of_b5(proven: Proven) -> float:
    return float(proven.content["patterns"]["whole 0.5"]["r2"]["B5"]["all"])


def test_held_out_slides_have_no_say_in_the_baselines(
    trained: tuple[Path, Path], proven: Proven, tmp_path: Path
) -> None:
    model, store = trained
    held = {part.slide for part in open_subject(model, open_set(store)).split.held_out}
    other = tmp_path / "other"
    write_store(other, [toy_slide(f"s{n}", 5, 100 + n if f"s{n}" in held else n) for n in range(4)])
    second = prove_encoder(model, other, tmp_path / "b", QUICK)

    assert second.choices == proven.content["chosen"]
    assert second.scores.r2("B5", "whole 0.5") != r2_of_b5(proven)


def test_what_cannot_be_proven_is_refused_with_a_remedy(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model, store = trained
    other = tmp_path / "other"
    write_store(other, slides(3))
    with pytest.raises(MismatchError, match="1 of the 4 slides"):
        prove_encoder(model, other, tmp_path / "out", QUICK)
    untrained = tmp_path / "untrained"
    RegionModel(RegionEncoderConfig(width=16, depth=1, heads=2, dims=(DIM,) * 3)).save_pretrained(untrained)
    with pytest.raises(ConfigError, match="finished `parfocal pretrain`"):
        prove_encoder(untrained, store, tmp_path / "out", QUICK)
    latent = tmp_path / "latent"
    shutil.copytree(model, latent)
    config = json.loads((latent / "config.json").read_text())
    config["pretraining"]["settings"]["targets"] = "latent"
    (latent / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="targets=standardised"):
        prove_encoder(latent, store, tmp_path / "out", QUICK)


def files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("report.html", "prove.json")]


def test_a_proof_that_is_killed_goes_on_where_it_was_and_says_the_same(
    trained: tuple[Path, Path], proven: Proven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, store = trained
    done: list[str] = []
    killed_at: set[str] = {"decoder on random weights", "B5 B6 B9 whole 2", "scores subtree"}
    of_cache = StepCache.step

    def step(self: StepCache, name: str, inputs: Any, work: Callable[[], Any]) -> Any:
        def counted() -> Any:
            # The second of the two decoders is the one that is killed.
            if name in killed_at and (name != "decoder on random weights" or name in done):
                killed_at.remove(name)
                raise KeyboardInterrupt
            done.append(name)
            return work()

        return of_cache(self, name, inputs, counted)

    monkeypatch.setattr(StepCache, "step", step)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            prove_encoder(model, store, tmp_path, QUICK)
    prove_encoder(model, store, tmp_path, QUICK)
    again, count = files(tmp_path), Counter(done)
    prove_encoder(model, store, tmp_path, QUICK.model_copy(update={"draws": 120}))

    several = {"decoder on random weights": 2, "ridges on tokens": 3}
    assert count == {name: several.get(name, 1) for name in count}
    assert {"second moments", "B4", "B8", "B10", "scores random"} <= set(count)
    assert Counter(done) == count
    assert again == files(proven.out)


def test_finished_steps_are_not_used_for_other_tiles(
    trained: tuple[Path, Path], proven: Proven, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(proven.out, out)
    write_store(other, [toy_slide(f"s{n}", 5, 50 + n) for n in range(4)])
    second = prove_encoder(trained[0], other, out, QUICK)

    assert second.scores.r2("B5", "whole 0.5") != r2_of_b5(proven)
