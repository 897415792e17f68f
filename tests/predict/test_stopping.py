"""When a slide has been read far enough: the limit, what it promises, and slides that are read until then."""

import csv
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from parfocal.bags import glance_at
from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.embed import reading as reading_module
from parfocal.embed.glance import n_chosen
from parfocal.errors import ConfigError, MismatchError
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.predict import (
    FitSettings,
    Head,
    PredictSettings,
    fit_head,
    load_head,
    predict_slides,
    zoom_by,
    zoom_until_settled,
)
from parfocal.predict.stopping import Stopping, calls_of, fit_stopping
from parfocal.store import EmbeddingSet, open_set
from parfocal.zoom import POLICIES, HeadOfBags, scores_by_share

from .scans import GRID, LEAN, Native, Scanned
from .test_zoom import pairing

FINEST = min(GRID.mpps)
RUNGS = (0.0, 0.25, 0.5)


def walk(rng: np.random.Generator, n: int, repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two classes that settle while slides are read: with each rung, and with everything."""
    steps = rng.normal(0, [2.0, 1.0, 0.7, 0.5], (repeats, n, 4)).cumsum(axis=2)
    above = special.expit(steps)
    says = np.stack([1 - above, above], axis=3)
    return says[:, :, :3], says[:, :, 3]


def is_lost(rule: Stopping, limit: float, part: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a slide that is read until a limit settles it is called otherwise than when it is read whole."""
    settled = whole
    for rung, usual in enumerate(rule.usual):
        if abs(special.logit(part[rung, 1]) - special.logit(rule.call_at)) >= limit * usual:
            settled = part[rung]
            break
    return bool((settled[1] >= rule.call_at) != (whole[1] >= rule.call_at))


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5]), st.sampled_from([0.5, 0.3]))
def test_the_limit_is_the_least_from_which_on_all_are_good_enough(seed: int, rate: float, call_at: float) -> None:
    n = 12
    part, whole = walk(np.random.default_rng(seed), n)
    rule = fit_stopping(
        [(part, whole)], [str(one) for one in range(n)], policy="p", rungs=RUNGS, rate=rate, call_at=call_at
    )
    _, margin = calls_of(part, call_at)
    every = np.unique(margin / rule.usual)

    def bound(limit: float) -> float:
        """The upper bound of the losses of every limit from this one on, by going through all of them."""
        limits = [limit, *every[every > limit]]
        worst = sum(any(is_lost(rule, one, *slide) for one in limits) for slide in zip(part[0], whole[0], strict=True))
        return float(stats.binomtest(worst, n).proportion_ci(0.9, "exact").high) if worst < n else 1.0

    assert bound(rule.limit) <= rate
    assert rule.limit == 0 or bound(rule.limit * (1 - 1e-6)) > rate


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    """Of many cohorts, in no more than one of twenty are more new patients called otherwise than may be."""
    rng, broken, shares = np.random.default_rng(0), 0, []
    new_part, new_whole = walk(rng, 4000)
    for _ in range(100):
        part, whole = walk(rng, 150)
        rule = fit_stopping([(part, whole)], [str(n) for n in range(150)], policy="p", rungs=RUNGS, rate=0.1)
        share, other = rule.on(new_part, new_whole, [str(n) for n in range(4000)])
        broken += other > 0.1
        shares.append(share)
    assert broken <= stats.binom.ppf(0.999, 100, 0.05)
    assert np.mean(shares) < 0.8  # and it is no promise to read everything


def test_a_patients_slides_and_repeats_count_once() -> None:
    part, whole = walk(np.random.default_rng(1), 100)
    patients = [str(number) for number in range(100)]
    alone = fit_stopping([(part, whole)], patients, policy="p", rungs=RUNGS, rate=0.1)

    again = fit_stopping(
        [(np.concatenate([part, part], axis=1), np.concatenate([whole, whole], axis=1))], patients * 2,
        policy="p", rungs=RUNGS, rate=0.1,
    )  # fmt: skip
    repeated = fit_stopping(
        [(np.tile(part, (3, 1, 1, 1)), np.tile(whole, (3, 1, 1)))], patients, policy="p", rungs=RUNGS, rate=0.1
    )

    for other in (again, repeated):
        assert other.limit == pytest.approx(alone.limit)
        assert other.usual == pytest.approx(alone.usual)
        assert other.n == 100


def test_a_probe_that_says_the_same_of_every_slide_settles_none() -> None:
    """The probe of all patients may have another form than those of the folds: with nothing read sure, and wrong."""
    part, whole = walk(np.random.default_rng(2), 100)
    patients = [str(number) for number in range(100)]
    alone = fit_stopping([(part, whole)], patients, policy="p", rungs=RUNGS, rate=0.1)
    constant, seen = part.copy(), whole.copy()
    constant[:, :, 0] = [0.9, 0.1]
    seen[:, :, 1] = np.where(np.arange(100) % 2, 0.95, 0.05)
    seen[:, :, 0] = 1 - seen[:, :, 1]

    both = fit_stopping([(part, whole), (constant, seen)], patients, policy="p", rungs=RUNGS, rate=0.1)

    assert alone.is_settled(np.array([0.9, 0.1]), 0)
    assert not both.is_settled(np.array([0.9, 0.1]), 0)
    assert (both.usual >= alone.usual).all()
    _, other = both.on(constant, seen, patients)
    assert other <= 0.1


def test_few_patients_bear_out_no_small_rate() -> None:
    part, whole = walk(np.random.default_rng(1), 20)
    with pytest.raises(ConfigError, match=r"20 patients bear out no rate below 0\.139 with a confidence of 0\.95"):
        fit_stopping([(part, whole)], [str(n) for n in range(20)], policy="p", rungs=RUNGS, rate=0.05)


def test_the_class_of_several_is_the_likeliest() -> None:
    called, margin = calls_of(np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]), 0.5)
    assert called.tolist() == [1, 0]
    assert margin == pytest.approx([np.log(0.5 / 0.3), np.log(2)])


@pytest.fixture(scope="module")
def stops(native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, labels, and a contrast head that says when it has seen enough."""
    folder = tmp_path_factory.mktemp("stops")
    tiles = open_set(native.store)
    (folder / "store").symlink_to(native.store)
    pairs = {slide: pairing(tiles.read(slide)) for slide in tiles.slides}
    usual = np.median(list(pairs.values()))
    rows = [f"{slide},{slide},{int(value > usual)}" for slide, value in pairs.items()]
    (folder / "labels.csv").write_text("\n".join(["slide,patient,red", *rows]) + "\n")
    fit(folder, "head", stop_rate=0.25)
    return folder


def fit(folder: Path, name: str, *, arm: str = "contrast", store: str = "store", **changes: object) -> Head:
    how = LEAN.model_copy(update=changes)
    columns = LabelColumns(group="patient")
    return fit_head([folder / store], folder / "labels.csv", "red", arm, folder / name, how, columns=columns)


def read_until_settled(scanned: Scanned, stops: Path, store: Path, *, at_most: float = 1.0) -> EmbeddingSet:
    """By a policy that was pickled, as for a worker process."""
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32")
    zoom = pickle.loads(pickle.dumps(zoom_until_settled(stops / "head", at_most=at_most)))
    summary = embed_slides([scanned.new_slides], store, settings, zoom=zoom)
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


def test_every_slide_ends_at_the_first_rung_that_settles_it(
    scanned: Scanned, native: Native, stops: Path, tmp_path: Path
) -> None:
    head = load_head(stops / "head")
    rule = head.stopping
    assert rule is not None
    found = read_until_settled(scanned, stops, tmp_path / "store")
    predicted = predict_slides([found], stops / "head", tmp_path / "found.csv").predicted
    whole = open_set(native.new)
    own = HeadOfBags(head.probes[0], tuple(name for _, name in head.bags))
    order = POLICIES.get("contrast-tiles").bound(own)
    shares = (*rule.rungs, 1.0)

    ends = []
    for one in predicted:
        tokens = whole.read(one.slide)
        said = head.calibration.probability(scores_by_share(own, order, tokens, shares, seed=0))
        settled = [rule.is_settled(probability, rung) for rung, probability in enumerate(said[:-1])]
        end = settled.index(True) if any(settled) else len(rule.rungs)
        assert (one.share_read, one.is_settled) == (shares[end], end < len(rule.rungs))
        assert one.probability == pytest.approx(said[end])
        kept = found.read(one.slide)
        read = np.sort(order(glance_at(tokens, 0))[: n_chosen(len(tokens.region[FINEST]), shares[end])])
        assert np.array_equal(kept.features[FINEST], tokens.features[FINEST][read])
        assert np.array_equal(kept.region[FINEST], tokens.region[FINEST][read])
        assert found.n_unread(one.slide)[FINEST] == len(tokens.region[FINEST]) - len(read)
        ends.append(end)
    assert len(set(ends)) > 1  # some are easy


def test_what_is_read_further_later_is_what_is_read_at_once(
    scanned: Scanned, stops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = read_until_settled(scanned, stops, tmp_path / "at-once")
    read_until_settled(scanned, stops, tmp_path / "store", at_most=0.05)
    grown = read_until_settled(scanned, stops, tmp_path / "store")

    for slide in at_once.slides:
        assert np.array_equal(at_once.read(slide).features[FINEST], grown.read(slide).features[FINEST])
        assert at_once.attributes(slide)["zoom_settled"] == grown.attributes(slide)["zoom_settled"]
        assert at_once.attributes(slide)["zoom_budget"] == grown.attributes(slide)["zoom_budget"]
    monkeypatch.setattr(reading_module, "iter_tiles", None)  # what is settled is not read again
    read_until_settled(scanned, stops, tmp_path / "store")
    shutil.copy(scanned.new_slides / "n0.tif", tmp_path / "other.tif")
    whole = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", coarse="native")
    with pytest.raises(MismatchError, match="holds slides that the policy contrast-tiles has read in part"):
        embed_slides([tmp_path / "other.tif"], tmp_path / "store", whole)
    other = zoom_by(f"contrast-tiles={stops / 'head'}", 1.0)
    how = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32")
    failed = embed_slides([scanned.new_slides], tmp_path / "store", how, zoom=other).failed
    assert len(failed) == len(at_once.slides)
    assert "until settled by the head" in failed[0].message


def test_predict_reads_until_settled_by_itself(
    scanned: Scanned, stops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(scanned.new_slides), "--head", str(stops / "head"), "--encoder", scanned.encoder]
    command += ["--workers", "0"]

    assert main([*command, "-o", str(tmp_path / "out.csv")]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    rows = rows_of(tmp_path / "out.csv")
    settled = [row for row in rows if row["settled"] == "1"]

    assert settled
    assert all(float(row["share_read"]) < 1 for row in settled)
    assert all(row["share_read"] == "1" for row in rows if row not in settled)
    assert f"{len(settled)} of 4 slides were settled" in said.err + said.out
    command[1] = str(scanned.new_slides / "n0.tif")
    assert main([*command, "-o", str(tmp_path / "all.csv"), "--whole"]) == 0
    assert {row["share_read"] for row in rows_of(tmp_path / "all.csv")} == {"1"}
    assert main([*command, "-o", str(tmp_path / "some.csv"), "--budget", "0.05"]) == 0
    assert {float(row["share_read"]) for row in rows_of(tmp_path / "some.csv")} <= {0.0, 1 / 64, 1 / 32, 0.05}
    for words, text in (
        ([*command, "--whole", "--budget", "0.1"], "leave out --zoom and --budget"),
        (
            ["predict", str(tmp_path / "out-store"), "--head", str(stops / "head"), "--whole"],
            "is a store and has been read",
        ),
    ):
        assert main([*words, "-o", str(tmp_path / "no.csv")]) == 2
        assert text in capsys.readouterr().err.replace("\n", " ")


def test_a_head_says_what_stopping_did_to_slides_it_had_not_seen(stops: Path) -> None:
    head = load_head(stops / "head")
    facts = head.facts.stopping
    assert facts is not None
    assert (facts.n, facts.rate, facts.policy) == (16, 0.25, "contrast-tiles")
    assert 0 <= facts.share < 1
    assert stats.beta.ppf(0.95, 16 * facts.other + 1, 16 - 16 * facts.other) <= 0.25
    page = (stops / "head" / "head.html").read_text()
    assert "until their class is settled" in page
    assert "Margin that settles a class" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_rate": 0.05}, "16 patients bear out no rate below 0.171"),
        ({"stop_rate": 0.4, "arm": "concat"}, "use --arm contrast"),
        ({"stop_rate": 0.4, "stop_policy": "entropy"}, "--stop-policy entropy cannot be used"),
        ({"stop_rate": 0.4, "stop_policy": "nonsense"}, "--stop-policy nonsense cannot be used"),
    ],
)
def test_what_cannot_say_when_is_refused(stops: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(stops, "refused", **changes)  # type: ignore[arg-type]
    assert not (stops / "refused").exists()


def test_by_tissue_slides_are_stopped_where_their_set_keeps_it(stops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(stops, "by-tissue", stop_rate=0.4, stop_policy="tissue")
    assert zoom_until_settled(stops / "by-tissue").policy == "tissue"
    with pytest.raises(ConfigError, match="until a slide is settled is of the finest magnification alone"):
        zoom_until_settled(stops / "by-tissue", at_most=(0.3, 0.1))
    monkeypatch.setattr(EmbeddingSet, "has_tissue", lambda tiles, slide: False)  # as an older version wrote it
    with pytest.raises(ConfigError, match="does not keep how much of each tile is tissue"):
        fit(stops, "refused", stop_rate=0.4, stop_policy="tissue")


def test_what_cannot_be_is_said_before_anything_is_read(stops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.predict.fit.read_arm_bags", None)
    with pytest.raises(ConfigError, match="16 patients bear out no rate"):
        fit(stops, "refused", stop_rate=0.05)


def test_words_about_stopping_need_a_rate() -> None:
    with pytest.raises(ValueError, match="stop_policy and call_at say how slides are read"):
        FitSettings(stop_policy="stride", call_at=0.2)


def test_coarse_tiles_that_are_made_of_fine_ones_say_nothing_of_stopping(scanned: Scanned, tmp_path: Path) -> None:
    how, columns = LEAN.model_copy(update={"stop_rate": 0.4}), LabelColumns(group="patient")
    with pytest.raises(ConfigError, match="Embed with --coarse native"):
        fit_head([scanned.store], scanned.labels, "red", "contrast", tmp_path / "head", how, columns=columns)


def test_a_head_that_does_not_say_when_is_not_asked(scanned: Scanned, stops: Path) -> None:
    fit(stops, "plain")
    with pytest.raises(ConfigError, match="does not say when a slide has been read far enough"):
        zoom_until_settled(stops / "plain")


def test_a_slide_without_tissue_has_its_line(scanned: Scanned, stops: Path, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "glass.tif", np.full((448, 448, 3), 245, np.uint8), mpp=0.5, n_levels=3)

    zoom = zoom_until_settled(stops / "head")
    how = PredictSettings(encoder=scanned.encoder)
    found = predict_slides([tmp_path / "glass.tif"], stops / "head", tmp_path / "out.csv", how, zoom=zoom)

    assert [one.slide for one in found.failed] == ["glass"]
    assert "no tissue was found" in found.failed[0].message
