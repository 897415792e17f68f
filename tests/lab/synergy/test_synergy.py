"""`synergy`: what the test finds, what it must not find, what it says about a cohort, and what it refuses."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parfocal.cli import main
from parfocal.cohort import LabelColumns, LabelledSlides, read_labels
from parfocal.errors import ConfigError, ParfocalWarning, StoreError
from parfocal.lab.synergy import analysis
from parfocal.lab.synergy.analysis import LabelResult, SynergySettings, Units, analyse_label
from parfocal.lab.synergy.crossfit import residual_basis
from parfocal.lab.synergy.directions import ends, score_directions
from parfocal.lab.synergy.labels import study_labels
from parfocal.lab.synergy.main_effects import main_effects
from parfocal.lab.synergy.permutation import PairMoments, candidate_statistics, debiased_effect, draw_permutations
from parfocal.lab.synergy.run import SynergyResult, measure_synergy
from parfocal.stats import auc
from parfocal.store import EmbeddingSet, SlideOrigin, SlideTokens, create_set, write_tokens

from .drawn import MPPS, REGION_UM, draw, draw_slide, each_alone, rows_of

TILE_PX = 28
FAST = SynergySettings(components=(4, 8), permutations=199, types=(4,), power_permutations=0, main_repeats=0)
NO_PICTURES = FAST.model_copy(update={"tiles": 0, "maps": 0, "permutations": 99})


def analyse(kind: str, seed: int = 0, settings: SynergySettings = FAST) -> LabelResult:
    slides, label, _ = draw(kind, seed=seed)
    return analyse_label(rows_of(slides), each_alone(len(slides)), {"y": label}, settings, is_class=True)[0]


def test_pairing_is_found_and_its_direction_reads_the_hidden_factor() -> None:
    slides, label, a = draw("pairing")
    rows = rows_of(slides)
    result = analyse_label(rows, each_alone(len(slides)), {"y": label}, FAST, is_class=True)[0]

    assert result.test.p_value == 1 / 200  # nothing among 199 permutations comes near
    assert result.effect > 0.3
    scores = score_directions(rows, result.test.best)
    reading = auc(a, scores.first)
    assert max(reading, 1 - reading) > 0.8
    high, low = ends(scores.first, scores.slide, 8)
    assert len({*a[high]}) == 1
    assert {*a[high]} != {*a[low]}
    assert len({*scores.slide[high]}) == 8  # one of each slide
    assert scores.of_slides()[label > 0].mean() > scores.of_slides()[label == 0].mean()


def test_composition_is_not_called_pairing() -> None:
    results = [analyse("composition", seed) for seed in range(4)]

    assert min(one.test.p_value for one in results) > 0.02
    assert results[0].label_left < 0.5 < analyse("none", 0).label_left
    # The main effect that it is, is seen where it belongs.
    shown = analyse("composition", 0, FAST.model_copy(update={"main_repeats": 1, "types": ()}))
    assert min(one.value.estimate for one in shown.main) > 0.65


def test_a_site_that_explains_it_is_taken_out() -> None:
    rng = np.random.default_rng(2)
    world = rng.standard_normal((8, 10))
    site = np.arange(80) % 2
    slides = [draw_slide(rng, world, f"s{n:03d}", pairing=0.8 * (2 * s - 1))[0] for n, s in enumerate(site)]
    label = (rng.random(80) < np.where(site == 1, 0.8, 0.2)).astype(float)
    rows, alone = rows_of(slides), each_alone(80)
    settings = FAST.model_copy(update={"types": ()})
    known = Units(alone.names, alone.of_slide, site)
    without, within = (
        analyse_label(rows, units, {"y": label}, settings, is_class=True)[0].test.p_value for units in (alone, known)
    )

    assert without == 1 / 200
    assert within > 0.05


def test_the_p_value_is_uniform_when_labels_mean_nothing() -> None:
    slides, label, _ = draw("pairing", n=48)
    rng = np.random.default_rng(5)
    labels = {str(number): rng.permutation(label) for number in range(40)}
    settings = FAST.model_copy(update={"permutations": 99, "types": ()})
    p = [one.test.p_value for one in analyse_label(rows_of(slides), each_alone(48), labels, settings, is_class=True)]

    assert 0.35 < np.mean(p) < 0.65  # a mean of 40 uniform values has a standard deviation of .046
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_residuals_know_nothing_of_the_covariates_and_belong_to_one_unit_each() -> None:
    rng = np.random.default_rng(0)
    covariates = np.column_stack([np.ones(30), rng.standard_normal((30, 3)), np.arange(30) == 7, np.ones(30)])
    basis = residual_basis(covariates)

    assert basis.n_covariates == 5  # one column is there twice
    assert basis.columns.shape == (30, 25)
    np.testing.assert_allclose(basis.columns.T @ basis.columns, np.eye(25), atol=1e-9)
    np.testing.assert_allclose(basis.columns.T @ covariates, 0, atol=1e-9)
    assert 7 not in basis.kept  # a site of one patient has no residual
    own = basis.columns[basis.kept, np.arange(25)]
    assert own.min() > 0.5


def test_permutations_stay_within_sites() -> None:
    site = np.array([0, 1, 0, 1, 2, 0, 1])
    orders = draw_permutations(50, site, 7, np.random.default_rng(0))

    assert (orders[0] == np.arange(7)).all()
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    assert (site[orders] == site).all()
    assert len({tuple(order) for order in orders}) > 10


def test_the_statistic_is_the_partial_covariance_along_the_leading_directions() -> None:
    rng = np.random.default_rng(3)
    cross, first, second = rng.standard_normal((3, 20, 5, 5))
    moments = PairMoments(MPPS, cross, first, second)
    label = rng.standard_normal(20)
    label /= np.linalg.norm(label)
    value = candidate_statistics([moments], label[None], [5])[0, 0]

    # Independently: a full SVD and an ordinary least-squares fit.
    u, _, vt = np.linalg.svd(np.einsum("i,ijk->jk", label, cross))
    score = np.einsum("j,ijk,k->i", u[:, 0], cross, vt[0])
    along = np.column_stack([np.einsum("j,ijk,k->i", w, m, w) for w, m in ((u[:, 0], first), (vt[0], second))])
    rest = label - along @ np.linalg.lstsq(along, label, rcond=None)[0]
    assert value == pytest.approx(score @ rest / np.linalg.norm(rest), rel=1e-9)


@pytest.mark.parametrize("strength", [2.0, 4.0])
def test_the_debiased_effect_takes_the_noise_off(strength: float) -> None:
    k, sigma = 100, 0.1  # the edge is at sigma sqrt(k) = 1
    rng = np.random.default_rng(0)
    u, v = (np.eye(k)[number] for number in (0, 1))
    found = [
        debiased_effect(np.linalg.norm(strength * np.outer(u, v) + sigma * rng.standard_normal((k, k)), 2), sigma**2, k)
        for _ in range(10)
    ]

    assert np.mean(found) == pytest.approx(strength, rel=0.05)  # the formula is of large k; its error is of order 1/k
    assert debiased_effect(1.9, sigma**2, k) == 0.0  # below 2 sigma sqrt(k) nothing is visible


def test_more_slides_show_smaller_effects() -> None:
    settings = FAST.model_copy(update={"types": (), "power_permutations": 100})
    detectable = []
    for n in (40, 120):
        slides, label, _ = draw("none", n=n)
        result = analyse_label(rows_of(slides), each_alone(n), {"y": label}, settings, is_class=True)[0]
        assert result.power is not None
        assert result.power.detectable is not None
        assert result.power.power[-1] > result.power.power[0]
        assert result.power.detectable > result.power.edge
        detectable.append(result.power.detectable)

    # It falls with the root of the residuals left (40 - 11 against 120 - 35): a factor of 1.7, and power has noise.
    assert 1.3 < detectable[0] / detectable[1] < 2.4


def test_main_effects_see_a_mean_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    label = (np.arange(80) % 2).astype(float)
    means = {
        "2": rng.standard_normal((80, 12)) + np.outer(label, np.eye(12)[0] * 2),
        "0.5": rng.standard_normal((80, 30)),
    }
    coarse, fine = main_effects(means, label, is_class=True)

    assert coarse.value.estimate > 0.85  # two standard deviations apart: .92
    assert coarse.value.low > 0.6
    assert 0.5 in fine.value
    number = main_effects({"2": means["2"]}, means["2"][:, 3] + 0.1 * rng.standard_normal(80), is_class=False)[0]
    assert number.measure == "rank correlation"
    assert number.value.low > 0.8


def labelled(values: list[str], *, groups: list[str] | None = None, sites: list[str] | None = None) -> LabelledSlides:
    slides = tuple(f"s{number:02d}" for number in range(len(values)))
    return LabelledSlides("t", slides, tuple(groups or slides), tuple(sites) if sites else None, tuple(values))


def test_labels_are_classes_or_a_number() -> None:
    two = study_labels(labelled(["low", "high"] * 5))
    assert list(two.labels) == ["low"]  # the later one by alphabet
    assert two.labels["low"].tolist() == [1.0, 0.0] * 5
    several = study_labels(labelled(["a", "b", "c"] * 4))
    assert list(several.labels) == ["a", "b", "c"]
    number = study_labels(labelled([f"{one / 10}" for one in range(12)]))
    assert not number.is_class
    assert list(number.labels) == ["t"]
    grades = study_labels(labelled(["1", "2", "3"] * 4))
    assert grades.is_class
    assert not study_labels(labelled(["1", "2", "3"] * 4), kind="continuous").is_class


def test_patients_are_the_units() -> None:
    groups = [f"p{number // 2}" for number in range(16)]
    study = study_labels(
        labelled(["0", "0", "1", "1"] * 4, groups=groups, sites=["x", "x", "x", "x", "y", "y", "y", "y"] * 2)
    )
    assert study.units.names == tuple(f"p{number}" for number in range(8))
    assert study.labels["1"].tolist() == [0.0, 1.0] * 4
    assert study.units.site is not None
    assert study.units.site.tolist() == [0, 0, 1, 1] * 2
    with pytest.warns(ParfocalWarning, match="1 of 8 patients have slides of several classes"):
        study_labels(labelled(["0", "1", "1", "1", *["0", "0", "1", "1"] * 3], groups=groups))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (labelled(["1"] * 8), "one class only"),
        (labelled(["0"] * 8 + ["1"]), "1 patients in one of its classes"),
        (labelled(["0", "1"] * 4, groups=["p", "p"] * 4), "class"),
        (
            labelled(["0", "1"] * 4, groups=["p", "q"] * 4, sites=["x", "x", "y", "x", "x", "x", "x", "x"]),
            "two sites: p",
        ),
    ],
)
def test_labels_that_cannot_be_tested_are_refused(given: LabelledSlides, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study_labels(given)


def test_a_label_file_is_read_with_care(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("slide,t,patient\na,1,p\nb,,q\nc,0,\n")
    with pytest.warns(ParfocalWarning, match="1 of 3 slides have no value in 't'"):
        assert read_labels(file, "t").slides == ("a", "c")
    with pytest.raises(ConfigError, match="no column 'u'; it has slide, t, patient"):
        read_labels(file, "u")
    with (
        pytest.warns(ParfocalWarning, match="no value"),
        pytest.raises(ConfigError, match=r"1 slides in .* have no value in 'patient': c"),
    ):
        read_labels(file, "t", LabelColumns(group="patient"))
    file.write_text("slide,t\na,1\na,0\n")
    with pytest.raises(ConfigError, match="names the slide a twice, in lines 2 and 3"):
        read_labels(file, "t")


def write_set(root: Path, slides: list[SlideTokens], origin: SlideOrigin | None = None) -> None:
    path = create_set(
        root / "store",
        "drawn-00000000",
        "tiles",
        region_um=REGION_UM,
        dims=dict.fromkeys(MPPS, 10),
        settings={"encoder": "drawn"},
        encoder_digests=dict.fromkeys(MPPS, "0" * 8),
        tile_px=TILE_PX,
        dtype="float32",
    )
    for tokens in slides:
        write_tokens(path, tokens, origin=origin)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty slides whose regions lie on one picture, with labels."""
    root = tmp_path_factory.mktemp("synergy")
    pixels = np.random.default_rng(0).integers(0, 255, (4 * 112 + 20, 6 * 112 + 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "picture.png")
    slides, label, _ = draw("pairing", n=40)
    write_set(root, slides, SlideOrigin(path=str(root / "picture.png")))
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide", "patient", "paired"])
        for number, tokens in enumerate(slides):
            table.writerow([tokens.slide, f"p{number}", int(label[number])])
    return root


def test_the_command_writes_the_page_and_the_numbers(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = store / "out"
    arguments = ["--labels", str(store / "labels.csv"), "--target", "paired", "--group", "patient", "-o", str(out)]
    fast = ["--components", "4", "8", "--permutations", "99", "--types", "2", "--power-permutations", "20"]
    status = main(["synergy", str(store / "store"), *arguments, *fast, "--tiles", "3", "--maps", "2"])

    assert status == 0
    printed = capsys.readouterr().out
    assert "paired = 1: the pairing of 2 and 0.5 um per pixel within regions is associated" in printed
    assert re.search(r"both tests agree \(permutation test p = 0?\.01\d*, cross-fitted test p", printed)
    assert "No warning: the classes are alike in regions per slide, slides per patient" in printed
    content = json.loads((out / "synergy.json").read_text())
    (label,) = content["labels"]
    assert label["p_value"] == pytest.approx(0.01)
    assert label["p_cross_fitted"] == sorted(label["p_cross_fitted_of_splits"])[2] < 0.05
    assert label["pairing"]
    assert label["units"] == 40
    assert [one["types"] for one in label["within_types"]] == [2]
    assert {one["name"] for one in label["main_effects"]} == {"2", "0.5", "all together"}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 4 + 2 * 4  # two ends of two directions, two slides with three maps
    assert "Second opinion" in page
    assert "40 slides of 40 patients." in page


def write_store(root: Path, slides: list[SlideTokens], columns: dict[str, list[str]]) -> list[str]:
    """A store and its labels, and the arguments of a fast `synergy` on them."""
    write_set(root, slides)
    return write_labels(root, root / "store", columns)


def write_labels(root: Path, store: Path, columns: dict[str, list[str]]) -> list[str]:
    """Labels of the slides of a store, and the arguments of a fast `synergy` on them."""
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide", *columns])
        n = len(next(iter(columns.values())))
        table.writerows(zip([f"s{number:03d}" for number in range(n)], *columns.values(), strict=True))
    fast = ["--components", "4", "--permutations", "99", "--power-permutations", "0", "--main-repeats", "1"]
    place = ["--labels", str(root / "labels.csv"), "--target", "t", "-o", str(root / "out")]
    return ["synergy", str(store), *place, *fast, "--types", "2", "--tiles", "0", "--maps", "0"]


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twenty slides, of which every other one is of class b, and nothing goes with the class."""
    root = tmp_path_factory.mktemp("unpaired")
    write_set(root, draw("none", n=20)[0])
    return root / "store"


def test_without_a_group_nothing_is_called_a_patient(
    unpaired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_labels(tmp_path, unpaired, {"t": ["a", "b"] * 10, "person": [f"p{n // 2}" for n in range(20)]})

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "20 slides, taken as independent" in text
        assert "call pairing too often" in text
        known = ("from one patient (--group COLUMN, --patient-of REGEX)", "patient_of", "decisions about a patient")
        for words in known:
            text = text.replace(words, "")
        assert "patient" not in text


def test_the_answer_names_what_the_classes_differ_in_and_slides_that_are_there_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, label, _ = draw("none", n=24)
    world = np.random.default_rng(1)
    for number in np.flatnonzero(label):
        noise = {m: 2 * world.standard_normal(x.shape).astype(np.float32) for m, x in slides[number].features.items()}
        slides[number] = replace(slides[number], features={m: x + noise[m] for m, x in slides[number].features.items()})
    slides[7] = replace(slides[2], slide="s007")
    patients = [f"p{number}" for number in range(24)]
    arguments = write_store(tmp_path, slides, {"t": ["ab"[int(y)] for y in label], "patient": patients})

    assert main([*arguments, "--group", "patient"]) == 0
    printed = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (printed, page):
        assert "Warning: The classes differ in variance within slides at 2 um per pixel" in text
        assert "1 pair of slides is nearly the same" in text
        assert "s002 (patient p2) and s007 (patient p7)" in text


def first_regions(one: SlideTokens, n: int) -> SlideTokens:
    kept = {m: own < n for m, own in one.region.items()}
    return SlideTokens(
        slide=one.slide,
        region_um=one.region_um,
        slide_mpp=one.slide_mpp,
        region_xy_um=one.region_xy_um[:n],
        features={m: one.features[m][own] for m, own in kept.items()},
        region={m: one.region[m][own] for m, own in kept.items()},
        center_um={m: one.center_um[m][own] for m, own in kept.items()},
    )


def test_slides_of_one_region_are_refused_and_can_be_centred_within_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, _, _ = draw("none", n=36)
    classes = ["ab"[(number // 2) % 2] for number in range(36)]
    patients = [f"p{number // 2}" for number in range(36)]
    arguments = write_store(tmp_path, [first_regions(one, 1) for one in slides], {"t": classes, "patient": patients})

    assert main([*arguments, "--group", "patient"]) == 2
    error = capsys.readouterr().err
    assert "each slide in drawn-00000000 has at most one region: regions are centred within the slide" in error
    assert "name --within patient" in error
    assert len([line for line in error.splitlines() if "Warning" in line or "Error" in line]) <= 1
    assert main([*arguments, "--group", "patient", "--within", "patient"]) == 0
    assert "36 slides of 18 patients" in (tmp_path / "out" / "report.html").read_text()
    assert main([*arguments, "--within", "tma"]) == 2
    assert "no column 'tma'" in capsys.readouterr().err


@pytest.mark.parametrize("flat", ["all", "some"])
def test_identical_rows_are_refused_or_left_out(flat: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slides, label, _ = draw("none", n=22)
    for number in range(22 if flat == "all" else 4):
        same = {m: np.tile(x[:1], (len(x), 1)) for m, x in slides[number].features.items()}
        slides[number] = replace(slides[number], features=same)
    arguments = write_store(tmp_path, slides, {"t": ["ab"[int(y)] for y in label]})

    if flat == "all":
        assert main(arguments) == 2
        assert "are the same at 2 and 0.5 um per pixel: nothing varies" in capsys.readouterr().err
    else:
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert "4 of 22 slides have regions that are all the same at 2 and 0.5 um per pixel" in printed.err
        assert "18 slides, taken as independent" in printed.out


def test_one_slide_under_every_patient_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slides, label, _ = draw("none", n=20)
    arguments = write_store(
        tmp_path, [replace(slides[0], slide=one.slide) for one in slides], {"t": ["ab"[int(y)] for y in label]}
    )

    assert main(arguments) == 2
    assert "the slides of 20 slides are nearly the same: 1 of them are different, and 17" in capsys.readouterr().err


def test_slides_left_out_and_misalignment_that_go_with_the_label_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slides, label, _ = draw("none", n=32)
    lost = np.flatnonzero(label)[:8]
    slides = [first_regions(one, 1) if number in lost else one for number, one in enumerate(slides)]
    arguments = write_store(tmp_path, slides, {"t": ["ab"[int(y)] for y in label]})
    apart = {one.slide: 0.1 * (1 + y) + 0.001 * n for n, (one, y) in enumerate(zip(slides, label, strict=True))}
    as_written = EmbeddingSet.attributes
    monkeypatch.setattr(
        EmbeddingSet, "attributes", lambda made, slide: as_written(made, slide) | {"misalignment_um": apart[slide]}
    )

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "share of slides left out (0.5 in this class, 0 in the rest)" in printed
    assert re.search(r"misalignment of magnifications in um \(0\.2\d* in this class, 0\.1\d* in the rest\)", printed)
    assert "allows for more noise and for smaller or fewer slides, but not for a selection" in printed


@pytest.fixture(scope="module")
def dosed(unpaired: Path, tmp_path_factory: pytest.TempPathFactory) -> SynergyResult:
    """The test of a number, without pictures; its labels lie beside its page."""
    out = tmp_path_factory.mktemp("dosed")
    write_labels(out, unpaired, {"dose": [str(number % 11 + number % 2 / 3) for number in range(20)]})
    return measure_synergy(unpaired, out / "labels.csv", "dose", out, NO_PICTURES)


def test_finished_labels_are_kept(dosed: SynergyResult, unpaired: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, out = dosed.report.read_bytes(), dosed.report.parent
    monkeypatch.setattr("parfocal.lab.synergy.analysis.pairing_test", None)
    again = measure_synergy(unpaired, out / "labels.csv", "dose", out, NO_PICTURES)

    assert again.describe() == dosed.describe()
    assert again.report.read_bytes() == first
    other = NO_PICTURES.model_copy(update={"seed": 1})
    with pytest.raises(TypeError):
        measure_synergy(unpaired, out / "labels.csv", "dose", out, other)


def test_a_test_that_is_stopped_between_two_labels_keeps_the_first_and_says_the_same(
    unpaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = write_labels(tmp_path, unpaired, {"t": ["abc"[number % 3] for number in range(20)]})
    out, whole = tmp_path / "out", tmp_path / "whole"
    tested: list[str] = []
    plain = analysis._analyse

    def analyse(name: str, *rest: Any, **how: Any) -> LabelResult:
        tested.append(name)
        if tested == ["a", "b"]:
            raise KeyboardInterrupt
        return plain(name, *rest, **how)

    monkeypatch.setattr(analysis, "_analyse", analyse)
    assert main(call) == 130
    assert not (out / "synergy.json").exists()
    kept = {path: path.read_bytes() for path in (out / "kept").glob("[!.]*.npz")}
    assert main(call) == 0
    assert main([*call, "-o", str(whole)]) == 0

    assert len(kept) == 1
    assert tested == ["a", "b", "b", "c", "a", "b", "c"]
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert (out / "synergy.json").read_bytes() == (whole / "synergy.json").read_bytes()
    assert (out / "report.html").read_bytes() == (whole / "report.html").read_bytes()


def test_sites_that_know_the_label_leave_nothing_to_test(
    unpaired: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_labels(tmp_path, unpaired, {"t": ["a", "b"] * 10, "site": ["of a", "of b"] * 10})

    assert main([*arguments, "--site", "site"]) == 2
    assert "a test within sites needs sites that have more than one value" in capsys.readouterr().err


def test_a_number_is_tested_without_pictures(dosed: SynergyResult) -> None:
    assert [one.is_class for one in dosed.results] == [False]
    assert "data:image/png" not in dosed.report.read_text()


def test_what_cannot_be_paired_is_refused(store: Path) -> None:
    labels = store / "labels.csv"
    with pytest.raises(ConfigError, match=r"pairing needs two magnifications, and only 0.5 mpp"):
        measure_synergy(store / "store", labels, "paired", store / "x", FAST, mpps=(0.5,))
    with pytest.raises(ConfigError, match=r"has no 1 mpp; it has 2, 0.5"):
        measure_synergy(store / "store", labels, "paired", store / "x", FAST, mpps=(1.0, 0.5))
    with pytest.raises(StoreError, match="holds no embeddings"):
        measure_synergy(store, labels, "paired", store / "x", FAST)
    few = store / "few.csv"
    few.write_text("slide,paired\n" + "".join(f"s{number:03d},{number % 2}\n" for number in range(8)))
    with (
        pytest.warns(ParfocalWarning, match="32 slides in drawn-00000000 have no label"),
        pytest.raises(ConfigError, match="8 slides are too few"),
    ):
        measure_synergy(store / "store", few, "paired", store / "x", FAST)
