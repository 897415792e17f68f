"""From a policy's name, a head or a model to what is read of slides."""

import csv
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import RepresentSettings, glance_at, read_bags, represent_regions
from parfocal.cli import main
from parfocal.cohort import LabelColumns
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.errors import ConfigError, MismatchError, ParfocalWarning
from parfocal.evaluate.sources import common_slides
from parfocal.geometry import format_mpp
from parfocal.heads.contrast.fit import FittedContrast
from parfocal.heads.contrast.partly import score_partly_read
from parfocal.predict import fit_head, load_head, predict_slides, zoom_by
from parfocal.predict.head import write_head
from parfocal.store import EmbeddingSet, Reading, SlideTokens, open_set

from .scans import GRID, LEAN, Native, Scanned

FINEST = min(GRID.mpps)


def pairing(tokens: SlideTokens) -> float:
    """How far the regions of a slide vary together in their first number, seen at both magnifications."""
    means = [
        np.bincount(tokens.region[mpp], tokens.features[mpp][:, 0]) / np.bincount(tokens.region[mpp])
        for mpp in tokens.mpps
    ]
    return float(np.cov(*means)[0, 1])


@pytest.fixture(scope="module")
def heads(native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a contrast head and one that kept no pair, an attention head, a linear one and a model."""
    folder = tmp_path_factory.mktemp("heads")
    tiles = open_set(native.store)
    (folder / "store").symlink_to(native.store)
    (folder / "model").symlink_to(native.model)
    pairs = {slide: pairing(tiles.read(slide)) for slide in tiles.slides}
    usual = np.median(list(pairs.values()))
    rows = [f"{slide},{slide},{int(value > usual)}" for slide, value in pairs.items()]
    (folder / "labels.csv").write_text("\n".join(["slide,patient,red", *rows]) + "\n")
    columns = LabelColumns(group="patient")
    for name, arm in (("contrast", "contrast"), ("attention", "union"), ("linear", "concat")):
        fit_head([tiles], folder / "labels.csv", "red", arm, folder / name, LEAN, columns=columns)
    head = load_head(folder / "contrast")
    (probe,) = head.probes
    assert isinstance(probe, FittedContrast)
    unpaired, (branch,) = replace(probe, terms=()), head.facts.branches  # what a fit that keeps no pair leaves
    branches = (branch.model_copy(update={"facts": dict(unpaired.state().facts)}),)
    facts = head.facts.model_copy(update={"branches": branches})
    write_head(replace(head, facts=facts, probes=(unpaired,)), folder / "unpaired")
    return folder


def embed(scanned: Scanned, out: Path, text: str, budget: float, *, n: int = 4, **changes: int) -> EmbeddingSet:
    """The new slides, or the first of them, read in part."""
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", **changes)  # type: ignore[arg-type]
    slides = [scanned.new_slides / f"n{number}.tif" for number in range(n)]
    summary = embed_slides(slides, out, settings, zoom=zoom_by(text, budget, seed=3))
    assert not summary.failed, summary.failed
    return open_set(summary.set_path)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("stride", "stride"),
        ("random", "random"),
        ("contrast", "contrast"),
        ("contrast=contrast", "contrast"),
        ("attention", "attention"),
        ("model", "entropy"),
        ("entropy=model", "entropy"),
        ("entropy-rounds=model", "entropy-rounds"),
        ("value=linear,model", "value"),
        ("value=contrast,model", "value"),
    ],
)
def test_every_kind_of_policy_reads_new_slides_in_part(
    scanned: Scanned, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, policy: str
) -> None:
    monkeypatch.chdir(heads)
    text = f"{heads}/{text}" if text in ("contrast", "attention", "model") else text

    found = embed(scanned, tmp_path / "store", text, 0.25, n=3)

    stored = found.attributes("n0")
    bound = {"contrast": load_head(heads / "contrast").digest, "attention": load_head(heads / "attention").digest}
    kind = policy.removesuffix("-rounds")
    assert stored["zoom_policy"] == policy
    assert stored["zoom_budget"] == 0.25
    assert stored.get("zoom_seed") == (3 if policy in ("random", "value") else None)
    if policy == "value":
        model = zoom_by("entropy=model", 0.25).bound
        bound["value"] = f"{load_head(Path(text.partition('=')[2].partition(',')[0])).digest}+{model}"
    assert stored["zoom_bound"] == bound.get(kind, stored["zoom_bound"] if kind == "entropy" else "")
    assert bool(stored["zoom_bound"]) == (kind in ("contrast", "attention", "entropy", "value"))
    for slide in found.slides:
        n_read, n_unread = found.n_tiles(slide)[FINEST], found.n_unread(slide)[FINEST]
        assert n_read == np.floor(0.25 * (n_read + n_unread) + 0.5)


def test_a_worker_process_chooses_what_this_one_chooses(scanned: Scanned, heads: Path, tmp_path: Path) -> None:
    text = str(heads / "contrast")
    assert pickle.loads(pickle.dumps(zoom_by(text, 0.25))).bound == load_head(heads / "contrast").digest

    here = embed(scanned, tmp_path / "here", text, 0.25, n=3)
    there = embed(scanned, tmp_path / "there", text, 0.25, n=3, workers=1)

    for slide in here.slides:
        ours, theirs = here.read(slide), there.read(slide)
        assert np.array_equal(ours.region[FINEST], theirs.region[FINEST])
        assert np.array_equal(ours.features[FINEST], theirs.features[FINEST])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "no policy 'nowhere' for --zoom, only attention=HEAD, change, .* and no folder of that name"),
        ("contrast", "ask for contrast=HEAD, with the folder of a head"),
        ("entropy", "ask for entropy=MODEL, with the folder of a model"),
        ("value=linear", "ask for value=HEAD,MODEL, with the folder of a head and of a model"),
        ("value={heads}/linear,", "ask for value=HEAD,MODEL"),
        ("contrast={heads}/unpaired", "pairs the magnification that is to be read with no other one"),
        ("stride=contrast", "ask for stride alone"),
        ("stride=", "ask for stride alone"),
        ("", "no policy ''"),
        ("{heads}/store", "no folder of a head or of a pretrained model"),
        ("attention={heads}/contrast", "needs an attention head"),
        ("{heads}/linear", "does not say where to look"),
    ],
)
def test_what_cannot_say_where_to_look_is_refused(heads: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoom_by(text.format(heads=heads), 0.1)


def test_the_command_reads_a_share_and_later_the_rest(
    scanned: Scanned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--mpps", *map(format_mpp, GRID.mpps), "--tile-px", str(GRID.tile_px), "--region-um", f"{GRID.region_um:g}"]
    command = ["embed", str(scanned.new_slides), "-o", str(tmp_path / "store"), "--encoder", scanned.encoder, *grid]
    command += ["--workers", "0"]

    assert main([*command, "--zoom", "diversity", "--dry-run"]) == 0
    assert "about" in capsys.readouterr().out
    assert main([*command, "--zoom", "diversity"]) == 0
    tenth = open_set(tmp_path / "store")
    assert main([*command, "--zoom", "diversity", "--budget", "0.5"]) == 0
    half = open_set(tmp_path / "store")

    assert tenth.n_unread("n0")[FINEST] > 0
    n_fine = half.n_tiles("n0")[FINEST] + half.n_unread("n0")[FINEST]
    assert half.n_tiles("n0")[FINEST] == np.floor(n_fine / 2 + 0.5)
    assert main([*command, "--budget", "0.5"]) == 2
    assert "Name a policy, such as --zoom stride" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "contrast={heads}/contrast",
        "contrast-tiles={heads}/contrast",
        "entropy={heads}/model",
        "value={heads}/linear,{heads}/model",
    ],
)
def test_a_budget_of_all_slides_goes_where_a_head_or_a_model_says(
    scanned: Scanned, native: Native, heads: Path, tmp_path: Path, text: str
) -> None:
    settings = EmbedSettings(encoder=scanned.encoder, grid=GRID, dtype="float32", coarse="native")
    zoom = zoom_by(text.format(heads=heads), 0.25, seed=3, over_slides=True)

    summary = embed_slides([scanned.new_slides], tmp_path / "store", settings, zoom=zoom)

    assert not summary.failed, summary.failed
    found = open_set(summary.set_path)
    n_read = np.array([found.n_tiles(slide)[FINEST] for slide in found.slides])
    n_fine = n_read + [found.n_unread(slide)[FINEST] for slide in found.slides]
    assert n_read.sum() == np.floor(0.25 * n_fine.sum() + 0.5)
    # By worth as it is found on the slides by themselves, that of their tiles that are not read is nowhere larger.
    whole = open_set(native.new)
    worth = [zoom.ordered(glance_at(whole.read(slide), 3)).worth for slide in found.slides]
    read = np.concatenate([own[:n] for own, n in zip(worth, n_read, strict=True)])  # type: ignore[index]
    unread = np.concatenate([own[n:] for own, n in zip(worth, n_read, strict=True)])  # type: ignore[index]
    assert read.min() >= unread.max() * (1 - 1e-5) if unread.max() > 0 else read.min() >= unread.max() - 1e-4
    assert len({*(n_read / n_fine).tolist()}) > 1


@pytest.mark.parametrize(
    "text",
    [
        *("stride", "random", "tissue", "change", "diversity", "attention={heads}/attention"),
        "entropy-rounds={heads}/model",
    ],
)
def test_policies_that_do_not_compare_slides_cannot_spend_a_budget_over_them(heads: Path, text: str) -> None:
    name = text.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{name} cannot spend .* contrast=HEAD, .*value=HEAD,MODEL, or a budget of"):
        zoom_by(text.format(heads=heads), 0.1, over_slides=True)


def test_the_command_spends_a_budget_over_slides(
    scanned: Scanned, heads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--mpps", *map(format_mpp, GRID.mpps), "--tile-px", str(GRID.tile_px), "--region-um", f"{GRID.region_um:g}"]
    command = ["embed", str(scanned.new_slides), "-o", str(tmp_path / "store"), "--encoder", scanned.encoder, *grid]
    command += ["--workers", "0", "--zoom", str(heads / "contrast")]

    assert main([*command, "--budget-total", "0.3"]) == 0
    found = open_set(tmp_path / "store")
    assert {found.attributes(slide)["zoom_total"] for slide in found.slides} == {0.3}
    assert main([*command, "--budget-total", "0.2"]) == 1
    assert "Ask for at least as much" in capsys.readouterr().err
    assert main([*command, "--budget-total", "0.3", "--budget", "0.3"]) == 2
    assert "Leave one out" in capsys.readouterr().err
    assert main([*command[:-2], "--budget-total", "0.3"]) == 2
    assert "Name a policy" in capsys.readouterr().err


def test_a_contrast_head_knows_what_was_not_read_and_others_are_said_not_to(
    scanned: Scanned, native: Native, heads: Path, tmp_path: Path
) -> None:
    part = embed(scanned, tmp_path / "part", str(heads / "contrast"), 0.25)
    everything = embed(scanned, tmp_path / "everything", str(heads / "contrast"), 1.0)
    whole = open_set(native.new)

    def predict(store: EmbeddingSet, head: str) -> list[float]:
        found = predict_slides([store], heads / head, tmp_path / "out.csv")
        assert not found.failed, found.failed
        return [float(one.probability[1]) for one in found.predicted]

    assert predict(everything, "contrast") == predict(whole, "contrast")
    head = load_head(heads / "contrast")
    names = [name for _, name in head.bags]
    bags = read_bags(part, part.slides, names=names)
    number = names.index(format_mpp(FINEST))
    expected = [
        score_partly_read(
            head.probes[0], [bag.of_slides([at]) for bag in bags], np.array([0]), [number],
            share={number: part.share_read(slide)},
        )
        for at, slide in enumerate(part.slides)
    ]  # fmt: skip
    said = [float(head.calibration.probability(score)[0][1]) for score in expected]
    with pytest.warns(ParfocalWarning, match="was calibrated on slides that were read whole"):
        assert predict(part, "contrast") == pytest.approx(said)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["read_by"] for row in rows} == {"contrast 0.25"}
    assert all("do not take its probabilities as they are" in row["doubt"] for row in rows)
    assert said != pytest.approx(predict(whole, "contrast"))
    with (tmp_path / "out.csv").open(newline="") as file:
        assert {(row["read_by"], row["doubt"]) for row in csv.DictReader(file)} == {("", "")}
    with pytest.warns(ParfocalWarning, match="was read in part .* takes that for all there is"):
        predict(part, "attention")


def test_the_share_of_each_region_that_was_read(scanned: Scanned, tmp_path: Path) -> None:
    found = embed(scanned, tmp_path / "store", "stride", 0.3, n=3)
    for slide in found.slides:
        n_read = np.bincount(found.read(slide).region[FINEST], minlength=found.n_regions(slide))
        n_fine = found.n_tiles(slide)[FINEST] + found.n_unread(slide)[FINEST]
        share = found.share_read(slide)
        assert share.shape == n_read.shape
        assert (share * 16 == n_read).all()  # every region of these slides has all of its tiles
        assert n_read.sum() == np.floor(0.3 * n_fine + 0.5)


def test_slides_that_were_read_in_part_are_told_of_where_they_are_compared(scanned: Scanned, tmp_path: Path) -> None:
    found = embed(scanned, tmp_path / "store", "stride", 0.3)
    with pytest.warns(ParfocalWarning, match=r"4 slides of .* were read in part at 0\.5 mpp \(stride 0\.3\)"):
        _, notes = common_slides([found])
    assert len(notes) == 1


def test_predict_looks_where_its_head_would(
    scanned: Scanned, heads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(scanned.new_slides), "--head", str(heads / "contrast"), "--encoder", scanned.encoder]
    command += ["--workers", "0"]
    words = ["--budget", "0.25", "--store", str(tmp_path / "part"), "-o", str(tmp_path / "part.csv")]

    assert main([*command, *words]) == 0, capsys.readouterr().err
    found = open_set(tmp_path / "part")

    assert found.reading("n0") == Reading("contrast", 0.25)
    with pytest.warns(ParfocalWarning, match="do not take its probabilities as they are"):
        again = predict_slides([found], heads / "contrast", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "part.csv").read_text()
    assert not again.failed
    for words, text in (
        (["--zoom", "stride"], "Add --budget, such as 0.1"),
        (["--budget", "0.1", "--zoom", "nowhere"], "no policy 'nowhere'"),
    ):
        assert main([*command, *words, "-o", str(tmp_path / "no.csv")]) != 0
        assert text in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(ConfigError, match="is a store and has been read"):
        predict_slides([found], heads / "contrast", tmp_path / "no.csv", zoom=zoom_by("stride", 0.1))


def test_a_head_of_derived_coarse_tiles_reads_no_slide_in_part(scanned: Scanned, tmp_path: Path) -> None:
    columns = LabelColumns(group="patient")
    fit_head([scanned.store], scanned.labels, "red", "2/mean", tmp_path / "head", LEAN, columns=columns)
    with pytest.raises(ConfigError, match="averaged from fine ones, so slides cannot be read in part"):
        predict_slides([scanned.new_slides], tmp_path / "head", tmp_path / "no.csv", zoom=zoom_by("stride", 0.1))


def test_a_region_set_knows_how_its_tiles_were_read_and_follows_them(
    scanned: Scanned, heads: Path, tmp_path: Path
) -> None:
    how = RepresentSettings(readouts=("cls",))
    for budget in (0.25, 0.5):
        tiles = embed(scanned, tmp_path / "store", "stride", budget, n=3)
        regions = represent_regions(tiles, heads / "model", tmp_path / "regions", how).sets[0]
        fresh = represent_regions(tiles, heads / "model", tmp_path / f"fresh-{budget}", how).sets[0]

        for slide in tiles.slides:
            assert regions.reading(slide) == Reading("stride", budget)
            found, expected = regions.read_regions(slide).features, fresh.read_regions(slide).features
            assert np.array_equal(found, expected)


def test_a_head_is_a_folder_whatever_it_is_called(
    scanned: Scanned, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stride").symlink_to(heads / "contrast")

    assert zoom_by("stride", 0.1).policy == "stride"
    assert zoom_by(Path("stride"), 0.1).bound == load_head(heads / "contrast").digest
    with pytest.raises(ConfigError, match="--seed -1 is below 0"):
        zoom_by("random", 0.1, seed=-1)


def test_a_head_and_a_model_of_other_embeddings_do_not_go_together(heads: Path, tmp_path: Path) -> None:
    head = load_head(heads / "linear")
    others = dict.fromkeys(head.facts.tiles.encoder_digests, "c0ffee00")
    tiles = head.facts.tiles.model_copy(update={"encoder_digests": others})
    write_head(replace(head, facts=head.facts.model_copy(update={"tiles": tiles})), tmp_path / "other")

    with pytest.raises(MismatchError, match=r"takes embeddings of .* \(c0ffee00\), and the model predicts those of"):
        zoom_by(f"value={tmp_path / 'other'},{heads / 'model'}", 0.1)
