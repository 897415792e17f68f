"""Encoders that learnt nothing, their readout, and a network of all visible tiles: what the model is held against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.lab.prove.controls import random_control, train_decoder
from parfocal.lab.prove.data import read_regions, sample_parts
from parfocal.lab.prove.gaussian import Conditional, JointMoments, principal_bases
from parfocal.lab.prove.layout import Layout, draw_hidden, patterns_of, query_of
from parfocal.lab.prove.networks import fit_region_network
from parfocal.lab.prove.readout import fit_readout
from parfocal.lab.prove.scores import mean_r2
from parfocal.lab.prove.subject import Predictor, Subject, open_subject
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder.batch import RegionBatch
from parfocal.store import SlideTokens, create_set, open_set, write_tokens

MPPS, DIM, SLIDES, REGIONS = (2.0, 1.0), 4, 6, 80
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A checkpoint of one step; fine tiles are the product of two signs of the coarse one, and noise."""
    folder = tmp_path_factory.mktemp("proof")
    path = create_set(
        folder / "store", "toy-00000000", "tiles", region_um=448.0, dims=dict.fromkeys(MPPS, DIM),
        settings={"encoder": "toy"}, encoder_digests=dict.fromkeys(MPPS, "aa"), tile_px=224,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    places = np.array([(-112.0, -112.0), (112.0, -112.0), (-112.0, 112.0), (112.0, 112.0)])
    for number in range(SLIDES):
        coarse = rng.choice([-1.0, 1.0], (REGIONS, DIM)) + 0.1 * rng.standard_normal((REGIONS, DIM))
        product = np.sign(coarse[:, 0] * coarse[:, 1])
        fine = 0.3 * rng.standard_normal((4 * REGIONS, DIM))
        fine[:, 0] += np.repeat(product, 4)
        features = {2.0: coarse.astype(np.float32), 1.0: fine.astype(np.float32)}
        region = {2.0: np.arange(REGIONS, dtype=np.int32), 1.0: np.repeat(np.arange(REGIONS), 4).astype(np.int32)}
        centre = {2.0: np.zeros((REGIONS, 2), np.float32), 1.0: np.tile(places, (REGIONS, 1)).astype(np.float32)}
        xy_um = 448.0 * np.stack([np.arange(REGIONS), np.zeros(REGIONS)], axis=1)
        write_tokens(path, SlideTokens(f"s{number}", 448.0, 0.5, xy_um, features, region, centre))
    settings = PretrainSettings(
        size="T", batch=32, steps=1, lr=3e-3, warmup=0.0, holdout=0.3, log_every=1, monitor_every=1, monitor_regions=8,
        device="cpu", read_threads=0, precision="float32",
    )  # fmt: skip
    return open_subject(
        pretrain_encoder(open_set(folder / "store"), folder / "model", settings).model, open_set(Path(path))
    )


@pytest.fixture(scope="module")
def layout(subject: Subject) -> Layout:
    return Layout.of_set(subject.tiles)


def regions_of(subject: Subject, layout: Layout, *, held_out: bool) -> RegionBatch:
    parts = subject.split.held_out if held_out else subject.split.training
    sample = sample_parts(parts, 10_000, np.random.default_rng(0))
    return RegionBatch.join(list(read_regions(subject.cache, parts, sample, layout)))


def test_a_random_control_mixes_fully_or_hardly_and_only_its_decoder_is_trained(subject: Subject) -> None:
    scales = {}
    for mixes in (True, False):
        trainee = random_control(subject, mixes=mixes, seed=0)
        before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
        train_decoder(subject, trainee, steps=2, seed=0, device=CPU)
        changed = {name for name, value in trainee.model.state_dict().items() if not torch.equal(value, before[name])}
        scales[mixes] = {
            round(float(v.max()), 6) for k, v in before.items() if k.endswith(("attention_scale", "mlp_scale"))
        }
        assert changed
        assert not any(name.startswith("encoder.") for name in changed)

    assert scales == {True: {1.0}, False: {0.0001}}


def test_a_network_of_all_visible_tiles_finds_what_no_linear_map_can(subject: Subject, layout: Layout) -> None:
    predictor = Predictor(subject.trainee, layout, CPU, 64)
    training, new = (regions_of(subject, layout, held_out=held_out) for held_out in (False, True))
    tokens = predictor.standardise(training)
    bases = principal_bases(tokens, training.present.numpy(), layout, n_predictors=DIM, n_targets=DIM)
    target = predictor.standardise(new)
    pattern = next(one for one in patterns_of(layout) if one.name == "whole 1")
    hidden = draw_hidden(pattern, layout, new.present.numpy(), rate=(0.3, 0.7), seed=0)
    query = query_of(target, new.present.numpy(), hidden, np.zeros((len(new), 2, DIM), np.float32))
    moments = JointMoments(layout, bases)
    moments.add(tokens, training.present.numpy())

    network = fit_region_network(subject, layout, bases, predictor.standardise, steps=150, seed=0, device=CPU)
    found = mean_r2(network.predict(query, layout), target, hidden, layout)
    linear = mean_r2(Conditional(bases, moments.covariance(), 1.0).predict(query, layout), target, hidden, layout)

    # One dim of four is 1 / 1.09 product; the best possible is a quarter of that.
    assert linear < 0.03
    assert found > 0.15
    # What is hidden has no say, whatever stands there.
    again = query_of(np.where(hidden[..., None], np.float32(9), target), new.present.numpy(), hidden, query.slide_mean)
    np.testing.assert_array_equal(network.predict(again, layout), network.predict(query, layout))


def test_a_ridge_on_tokens_of_random_weights_reads_what_they_mix_and_nothing_hidden(
    subject: Subject, layout: Layout
) -> None:
    trainee = random_control(subject, mixes=True, seed=0)
    predictor = Predictor(trainee, layout, CPU, 64)
    training, new = (regions_of(subject, layout, held_out=held_out) for held_out in (False, True))
    pattern = next(one for one in patterns_of(layout) if one.name == "whole 1")
    hidden = draw_hidden(pattern, layout, new.present.numpy(), rate=(0.3, 0.7), seed=0)
    target = predictor.standardise(new)

    readout = fit_readout(predictor, training, [pattern], rate=(0.3, 0.7), seed=0)
    predicted = readout.predict("whole 1", new, hidden)
    poisoned = replace(new, tokens=new.tokens.masked_fill(torch.from_numpy(hidden)[..., None], torch.nan))

    # Random features of the coarse tile know a little of a product of two of its signs.
    assert 0.01 < mean_r2(predicted, target, hidden, layout) < 0.25
    assert not predicted[~hidden].any()
    np.testing.assert_array_equal(readout.predict("whole 1", poisoned, hidden), predicted)
