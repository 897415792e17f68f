"""The table of arms: what each can know, what it is called, and what words ask for it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import RepresentSettings, represent_regions
from parfocal.cohort import Cohort, Outcome, make_splits
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning, PluginError
from parfocal.evaluate.arm import ARM_METHODS, Arm
from parfocal.evaluate.arms import read_arm_bags, table_of_arms
from parfocal.heads import ProbeSettings, predict
from parfocal.heads.abmil import fit_abmil
from parfocal.heads.registry import HEADS, RegisteredHead
from parfocal.pretrain import PretrainSettings, pretrain_encoder
from parfocal.region_encoder import RegionEncoder, RegionEncoderConfig
from parfocal.stats import auc
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

MPPS, DIM, N_SLIDES, N_REGIONS = (2.0, 1.0, 0.5), 10, 40, 16
TILES = [
    *(f"{mpp}/{method}" for mpp in ("2", "1", "0.5") for method in ("mean", "mlp", "gated-attention")),
    *(f"{mpp}/second-moment" for mpp in ("2", "1", "0.5")),
    *("pseudo-coarse", "pseudo-contrast", "concat", "concat-mlp", "late", "union"),
    *("parents", "contrast", "region-mlp", "bilinear"),
    *("split/finest", "split/context", "split/everything", "split/elsewhere"),
]


def write_set(root: Path, name: str = "toy", mpps: tuple[float, ...] = MPPS, n_slides: int = N_SLIDES) -> EmbeddingSet:
    """The pairing of A (2 mpp) with C (0.5 mpp), each in half of the regions; of 16 finest tiles four are there."""
    path = create_set(
        root, name, "tiles", region_um=448.0, dims=dict.fromkeys(mpps, DIM), settings={"encoder": name},
        encoder_digests=dict.fromkeys(mpps, name), tile_px=224, dtype="float32",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    offset = {
        2.0: np.zeros((1, 2)),
        1.0: np.array([[-112.0, -112.0], [112.0, -112.0], [-112.0, 112.0], [112.0, 112.0]]),
        0.5: np.array([[-168.0, -56.0], [56.0, -168.0], [-56.0, 56.0], [168.0, 168.0]]),
    }
    for slide in range(n_slides):
        a = rng.permutation(np.arange(N_REGIONS) % 2 == 0)
        c = a if slide % 2 else ~a
        features, region, center = {}, {}, {}
        for mpp in mpps:
            per = len(offset[mpp])
            z = rng.standard_normal((N_REGIONS, per, DIM))
            factor = a if mpp == 2.0 else c if mpp == 0.5 else np.zeros(N_REGIONS)
            z[..., 2] += 4.0 * factor[:, None]
            features[mpp] = z.reshape(-1, DIM).astype(np.float32)
            region[mpp] = np.repeat(np.arange(N_REGIONS), per).astype(np.int32)
            center[mpp] = np.tile(offset[mpp], (N_REGIONS, 1)).astype(np.float32)
        xy = np.stack([np.arange(N_REGIONS) * 448.0 + 31, np.full(N_REGIONS, 77.0)], axis=1)
        write_tokens(path, SlideTokens(f"s{slide:02d}", 448.0, 0.25, xy, features, region, center))
    return open_set(path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSet:
    return write_set(tmp_path_factory.mktemp("store"))


def ids(arms: Sequence[Arm]) -> list[str]:
    return [arm.id for arm in arms]


def test_ids_are_stable_and_every_arm_says_what_it_can_know(tiles: EmbeddingSet) -> None:
    arms = table_of_arms([tiles])

    assert ids(arms) == TILES
    assert {arm.method for arm in arms} | {"finetune", "abmil"} == set(ARM_METHODS)
    assert len({arm.label for arm in arms}) == len(arms)
    knows = {arm.id: arm.knows for arm in arms}
    assert {knows[name] for name in ("2/mean", "1/mlp", "0.5/gated-attention", "split/finest")} == {"single"}
    with_regions = {"2/second-moment", "1/second-moment", "0.5/second-moment", "pseudo-coarse", "pseudo-contrast"}
    assert {name for name, one in knows.items() if one == "single, with regions"} == {*with_regions, "split/context"}
    late, mixed = {"concat", "concat-mlp", "late", "union"}, {"parents", "contrast", "region-mlp", "bilinear"}
    assert {name for name, one in knows.items() if one == "late"} == {*late, "split/elsewhere"}
    assert {name for name, one in knows.items() if one == "mixed"} == {*mixed, "split/everything"}
    # Whatever stands in for coarse tiles, it is made of the finest ones.
    pseudo = next(arm for arm in arms if arm.id == "pseudo-coarse")
    assert [name for _, name in pseudo.bags] == ["pseudo 2", "pseudo 1", "0.5"]


def test_arms_are_asked_for_by_words(tiles: EmbeddingSet) -> None:
    assert ids(table_of_arms([tiles], only=["gated-attention", "parents"])) == [
        "2/gated-attention",
        "1/gated-attention",
        "0.5/gated-attention",
        "parents",
    ]
    assert ids(table_of_arms([tiles], only=["0.5"])) == [
        "0.5/mean",
        "0.5/mlp",
        "0.5/gated-attention",
        "0.5/second-moment",
    ]
    assert ids(table_of_arms([tiles], only=["1/mean", "union"])) == ["1/mean", "union"]


def test_abmil_is_there_where_it_is_named_and_only_there(tiles: EmbeddingSet) -> None:
    assert not any(arm.method == "abmil" for arm in table_of_arms([tiles]))
    assert not any(arm.method == "abmil" for arm in table_of_arms([tiles], only=["0.5", "late"]))
    assert ids(table_of_arms([tiles], only=["abmil"])) == ["2/abmil", "1/abmil", "0.5/abmil"]
    (named,) = table_of_arms([tiles], only=["0.5/abmil"])
    assert (named.label, named.pool, named.is_random) == ("20x (0.5 mpp): ABMIL", fit_abmil, True)


def test_an_arm_that_averages_others_brings_them(tiles: EmbeddingSet) -> None:
    arms = table_of_arms([tiles], only=["contrast", "late"])

    assert ids(arms) == ["2/gated-attention", "1/gated-attention", "0.5/gated-attention", "late", "contrast"]
    assert arms[3].average_of == (0, 1, 2)


def test_an_unknown_word_is_one_line_with_those_that_are_known(tiles: EmbeddingSet) -> None:
    with pytest.raises(
        ConfigError, match=r"no arm 'attention'; these sets allow 2, mean, mlp, gated-attention"
    ) as caught:
        table_of_arms([tiles], only=["gated-attention", "attention"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="needs a model"):
        table_of_arms([tiles], only=["finetune"])


def test_one_magnification_has_nothing_to_pair(tmp_path: Path) -> None:
    arms = table_of_arms([write_set(tmp_path, mpps=(0.5,), n_slides=1)])

    assert ids(arms) == ["0.5/mean", "0.5/mlp", "0.5/gated-attention", "0.5/second-moment"]


def test_two_sets_of_tiles_are_told_apart(tiles: EmbeddingSet, tmp_path: Path) -> None:
    sets = [tiles, write_set(tmp_path, "other", n_slides=1)]
    arms = table_of_arms(sets)

    assert ids(arms)[:2] == ["toy/2/mean", "toy/2/mlp"]
    assert len(set(ids(arms))) == len(arms) == 2 * len(TILES)
    assert len({arm.label for arm in arms}) == len(arms)
    assert ids(table_of_arms(sets, only=["other/union", "0.5/mean"])) == [
        "toy/0.5/mean",
        "other/0.5/mean",
        "other/union",
    ]


def test_only_the_bags_of_the_asked_arms_are_read(tiles: EmbeddingSet) -> None:
    arms = table_of_arms([tiles], only=["2/mean", "parents"])

    bags = read_arm_bags(arms, [tiles], tiles.slides[:2], most_instances=100, seed=0)

    assert set(bags) == {(0, "2"), (0, "parents")}


def test_controls_are_called_what_they_are(tmp_path: Path) -> None:
    """The model without a step, and the model of one magnification, by the whole chain."""
    tiles, made = write_set(tmp_path, n_slides=3), []
    small = PretrainSettings(size="T", batch=8, precision="float32", monitor_every=100, read_threads=0)
    for name, changes in (("random", {"steps": 0}), ("fine", {"steps": 1, "mpps": (0.5,)})):
        pretrain_encoder(tiles, tmp_path / name, small.model_copy(update=changes))
        made += represent_regions(
            tiles, tmp_path / name, tmp_path / "r", RepresentSettings(readouts=("cls", "tokens"))
        ).sets

    arms = table_of_arms([tiles, *made], models=[tmp_path / "fine", tmp_path / "random"])

    own = arms[len(TILES) :]
    assert len({arm.id for arm in arms}) == len(arms)
    assert [arm.id for arm in own] == [
        "random/cls/mean", "random/cls/gated-attention", "random/cls/second-moment",
        "random/tokens/mean", "random/tokens/gated-attention", "random/tokens/contrast", "random/finetune",
        "fine/cls/mean", "fine/cls/gated-attention", "fine/cls/second-moment",
        "fine/tokens/mean", "fine/tokens/gated-attention", "fine/tokens/second-moment",
        "fine/finetune",
    ]  # fmt: skip
    assert {arm.family for arm in own if arm.id.startswith("random")} == {"Region encoder random, random weights"}
    assert [arm.name for arm in own if arm.method == "finetune"] == [
        "CLS of regions, trained from random weights", "CLS of regions, fine-tuned",
    ]  # fmt: skip
    assert {arm.family for arm in own if arm.id.startswith("fine")} == {"Region encoder fine, 20x only"}
    assert {arm.knows for arm in own if arm.id.startswith("random")} == {"mixed"}
    assert {arm.knows for arm in own if arm.id.startswith("fine")} == {"single, with regions"}
    assert all(arm.is_random and arm.reads for arm in own if arm.method == "finetune")
    # A random encoder's arms run as any other's, on finite vectors that differ.
    bags = read_arm_bags(own[:3], [tiles, *made], tiles.slides, most_instances=100, seed=0)
    assert np.isfinite(bags[1, "region"].rows).all()
    assert (bags[1, "region"].rows.std(axis=0) > 0.01).mean() > 0.9


def test_a_model_that_fits_no_set_cannot_be_trained_on(tiles: EmbeddingSet, tmp_path: Path) -> None:
    config = RegionEncoderConfig(width=8, depth=1, heads=2, mpps=MPPS, dims=(DIM + 1,) * 3)
    RegionEncoder(config).save_pretrained(tmp_path / "alien")

    with pytest.raises(MismatchError, match=r"alien cannot be fine-tuned: .* vectors of width 11"):
        table_of_arms([tiles], models=[tmp_path / "alien"])


def test_parents_know_the_pairing_and_stand_ins_for_coarse_tiles_do_not(tiles: EmbeddingSet) -> None:
    arms = table_of_arms([tiles], only=["parents", "pseudo-contrast", "contrast", "pseudo-coarse"])
    bags = read_arm_bags(arms, [tiles], tiles.slides, most_instances=100, seed=0)
    label = np.arange(N_SLIDES) % 2 == 1
    outcome = Outcome.binary(label)
    cohort = Cohort(tiles.slides, tiles.slides, outcome)
    folds = make_splits(cohort, folds=2, repeats=2).folds(cohort, inner=3, seed=0)
    settings = ProbeSettings(
        components=(4,), lifted=(), sharpen=False, attention_steps=80, attention_rate=0.01, growth=1, inner_folds=3
    )

    def mean_auc(arm: Arm) -> float:
        assert arm.pool is not None
        own = [bags[key] for key in arm.bags]
        scores = predict(arm.pool(own, outcome, folds, settings), own, folds)
        return float(np.mean([auc(label[fold.test], one.score[:, 0]) for fold, one in zip(folds, scores, strict=True)]))

    found = {arm.id: mean_auc(arm) for arm in arms}

    assert found["parents"] > 0.85
    assert found["contrast"] > 0.95
    # Exactly 0.5 is what they can know; four folds of 20 slides scatter by .07 (Hanley and McNeil) around it.
    assert abs(found["pseudo-coarse"] - 0.5) < 0.25
    assert abs(found["pseudo-contrast"] - 0.5) < 0.25


def test_a_head_that_is_registered_makes_arms_of_its_own(tiles: EmbeddingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each magnification where it pools tiles, and one of all where it pools regions of several."""
    attention, contrast = HEADS.get("attention"), HEADS.get("contrast")
    monkeypatch.setitem(HEADS.ours, "median", replace(attention, name="median", label="median of tiles"))
    monkeypatch.setitem(HEADS.ours, "pairs", replace(contrast, name="pairs", label="pairs of regions"))
    arms = table_of_arms([tiles])

    more = [arm for arm in arms if arm.id not in TILES]
    assert ids(more) == ["2/median", "1/median", "0.5/median", "pairs"]
    assert [arm.knows for arm in more] == ["single", "single", "single", "mixed"]
    assert {arm.pooling for arm in more} == {"median of tiles", "pairs of regions"}
    assert more[0].pool is attention.fit
    assert more[0].is_random
    assert ids(table_of_arms([tiles], only=["median"])) == ["2/median", "1/median", "0.5/median"]


def test_a_head_that_cannot_be_used_does_not_take_the_other_arms_away(
    tiles: EmbeddingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = HEADS.get

    def broken(name: str) -> RegisteredHead:
        if name == "median":
            raise PluginError("cannot use the head 'median' of the package other 1.0.")
        return get(name)

    monkeypatch.setitem(HEADS.ours, "median", get("mean"))
    monkeypatch.setattr(HEADS, "get", broken)
    with pytest.warns(ParfocalWarning, match="package other 1.0. Its arms are left out"):
        assert ids(table_of_arms([tiles])) == TILES
