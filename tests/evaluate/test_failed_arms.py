"""An arm that fails is a row with its reason, whatever it was; nothing else is lost, and the next run tries again."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from parfocal.bags import Bag
from parfocal.cli import main
from parfocal.cohort import Fold, Outcome, make_splits
from parfocal.errors import ConfigError, ParfocalError, ParfocalWarning
from parfocal.evaluate import TargetResult, write_evaluation
from parfocal.evaluate.arm import Arm, ArmKind
from parfocal.evaluate.fitting import ExternalBags, FitPlan, cross_validate
from parfocal.evaluate.run import EvaluateSettings, evaluate_arms
from parfocal.heads import FittedProbe, ProbeSettings, ProbeState
from parfocal.heads.registry import HEADS
from parfocal.lab.synthetic import FeatureModel, StratSettings, draw_cohort, write_cohort

from .drawn import cohort_of

N = 40
PROBES = ProbeSettings(components=(4,), inner_folds=3, attention_steps=4, growth=1)
Spoil = Callable[[int, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Known(FittedProbe):
    """A probe that scores by the slide's number, as `spoil` leaves it in the fold of that number."""

    number: int
    spoil: Spoil

    @property
    def chosen(self) -> str:
        return "known"

    def score(self, bags: Sequence[Bag], slides: np.ndarray) -> np.ndarray:
        return self.spoil(self.number, bags[0].mean[slides, :1].astype(np.float64))

    def state(self) -> ProbeState:
        return ProbeState("known")


def plain(number: int, score: np.ndarray) -> np.ndarray:
    return score


def arm(name: str, kind: ArmKind, spoil: Spoil | BaseException = plain, average_of: tuple[int, ...] = ()) -> Arm:
    def pool(
        bags: Sequence[Bag], outcome: Outcome, folds: Sequence[Fold], settings: ProbeSettings
    ) -> list[FittedProbe]:
        if isinstance(spoil, BaseException):
            raise spoil
        return [Known(4 * fold.repeat + fold.number, spoil) for fold in folds]

    source, _, method = name.rpartition("/")
    fit = None if average_of else pool
    return Arm(source, method, kind, name, f"family {kind}", "known", ((0, "x"),), fit, average_of)


def bag_of(n: int) -> Bag:
    rows = np.linspace(-1, 1, n, dtype=np.float32)[:, None]
    bounds = np.arange(n + 1)
    slides = tuple(f"s{number:03d}" for number in range(n))
    return Bag("x", slides, rows, bounds, np.ones(n, np.int64), rows, rows, bounds, np.ones(n, dtype=bool))


def compared(arms: Sequence[Arm], keep: Path | None = None, *, external: bool = False, **other: str) -> TargetResult:
    cohort = cohort_of("binary", n=N)
    splits = make_splits(cohort, folds=4, repeats=2)
    tested = ExternalBags(cohort_of("binary", n=N, seed=3), {(0, "x"): bag_of(N)}) if external else None
    bags = {(0, "x"): bag_of(N)}
    return cross_validate(arms, bags, cohort, splits, PROBES, FitPlan(keep=keep), external=tested, **other)  # type: ignore[arg-type]


def some_nan(number: int, score: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(score))[:, None] == 2, np.nan, score) if number == 5 else score


def raises_later(number: int, score: np.ndarray) -> np.ndarray:
    if number == 3:
        raise FloatingPointError("training diverged;\n lower its learning rate.")
    return score


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (some_nan, "its scores are not finite in 1 of 4 fits; the first is fold 2 of repeat 2"),
        (raises_later, "FloatingPointError: training diverged; lower its learning rate"),
        (np.linalg.LinAlgError("SVD did not converge"), "LinAlgError: SVD did not converge"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("place"), "KeyError: 'place'"),
    ],
)
def test_an_arm_that_fails_in_some_fold_has_a_reason_and_the_others_have_their_numbers(
    spoil: Spoil | Exception, reason: str, tmp_path: Path
) -> None:
    good = [arm("2/gated-attention", "single"), arm("mem/gated-attention", "mixed")]
    without = compared(good)
    with pytest.warns(ParfocalWarning, match=r"1 of 3 arms failed.*0\.5/gated-attention: known"):
        found = compared([good[0], arm("0.5/gated-attention", "single", spoil), good[1]])

    assert [run.arm.id for run in found.runs] == ["2/gated-attention", "mem/gated-attention"]
    assert [run.interval for run in found.runs] == [run.interval for run in without.runs]
    assert [(one.arm.id, one.reason) for one in found.failed] == [("0.5/gated-attention", reason)]
    assert found.best_single == 0
    assert any("best of those that did not fail" in note for note in found.notes)
    assert found.primary is not None

    result = write_evaluation({"t": found}, tmp_path, settings={}, seed=0, inputs={})
    assert result.exit_status == 3
    rows = {row["id"]: row for row in rows_of(tmp_path / "results.csv")}
    assert rows["0.5/gated-attention"]["failed"] == reason
    assert rows["0.5/gated-attention"]["value"] == ""
    assert not rows["2/gated-attention"]["failed"]
    assert float(rows["2/gated-attention"]["value"]) == without.runs[0].interval.estimate
    told = json.loads((tmp_path / "results.json").read_text())["targets"]["t"]["failed"]
    assert [(one["id"], one["reason"]) for one in told] == [("0.5/gated-attention", reason)]
    assert "arms that failed" in (tmp_path / "report.html").read_text()


def test_an_arm_that_averages_a_failed_one_has_failed_too() -> None:
    arms = [
        arm("2/gated-attention", "single"),
        arm("0.5/gated-attention", "single", some_nan),
        arm("late", "late", average_of=(0, 1)),
        arm("both", "late", average_of=(0,)),
    ]
    with pytest.warns(ParfocalWarning, match="2 of 4 arms failed"):
        found = compared(arms)

    assert [one.reason for one in found.failed][1] == "it averages 0.5/gated-attention: known, which failed"
    assert [(run.arm.id, run.arm.average_of) for run in found.runs] == [("2/gated-attention", ()), ("both", (0,))]


def test_a_primary_comparison_whose_arm_failed_is_told_and_nothing_takes_its_place(tmp_path: Path) -> None:
    arms = [arm("2/gated-attention", "single"), arm("mem/gated-attention", "mixed", some_nan), arm("other", "mixed")]
    with pytest.warns(ParfocalWarning, match="no other arm takes its place"):
        found = compared(arms, primary="mem/gated-attention")

    assert found.primary is None
    assert "mem/gated-attention: known\u201d, which failed (its scores are not finite" in found.missing_primary
    result = write_evaluation({"t": found}, tmp_path, settings={}, seed=0, inputs={})
    (row,) = [row for row in rows_of(tmp_path / "summary.csv") if row["comparison"] == "primary"]
    assert row["failed"] == found.missing_primary
    assert row["difference"] == ""
    assert "no other arm takes its place" in result.report.read_text()


def test_a_primary_comparison_without_anything_to_beat_is_told() -> None:
    arms = [
        arm("2/gated-attention", "single", some_nan),
        arm("0.5/gated-attention", "single", raises_later),
        arm("mem", "mixed"),
    ]
    with pytest.warns(ParfocalWarning, match="every single magnification that it should beat failed"):
        found = compared(arms)

    assert found.primary is None
    assert found.best_single is None


def test_a_fit_for_the_test_cohort_that_fails_is_the_arms_failure() -> None:
    def spoil(number: int, score: np.ndarray) -> np.ndarray:
        return score * np.nan if len(score) == N else score  # only the test cohort is scored whole

    with pytest.warns(ParfocalWarning, match="fitted on all slides for the test cohort: its scores are not finite"):
        found = compared(
            [arm("2/gated-attention", "single"), arm("0.5/gated-attention", "single", spoil)], external=True
        )

    assert [run.arm.id for run in found.runs] == ["2/gated-attention"]
    assert found.runs[0].external is not None


def test_no_failed_fit_is_kept_and_a_kept_nan_is_no_result(tmp_path: Path) -> None:
    good = arm("2/gated-attention", "single")
    with pytest.warns(ParfocalWarning, match="1 of 2 arms failed"):
        compared([good, arm("x/abmix", "single", some_nan)], tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 3  # two arms, two repeats, and one fit that failed
    again = compared([good, arm("x/abmix", "single")], tmp_path)
    assert not again.failed
    file, *others = tmp_path.glob("*.npz")
    assert len(others) == 3

    with np.load(file) as kept:
        content = dict(kept)
    np.savez(file, **{**content, "arr_2": content["arr_2"] * np.nan})
    with pytest.warns(ParfocalWarning, match="is damaged"):
        assert not compared([good], tmp_path).failed
    with np.load(file) as kept:
        assert np.isfinite(kept["arr_2"]).all()


def test_a_stop_is_no_failure_of_an_arm() -> None:
    with pytest.raises(KeyboardInterrupt):
        compared([arm("2/gated-attention", "single"), arm("0.5/gated-attention", "single", KeyboardInterrupt())])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("xscale")
    write_cohort(draw_cohort(StratSettings(n_slides=16, n_types=1, product=False, model=FeatureModel(dim=32))), root)
    return root


def diverging(*_: object) -> list[FittedProbe]:
    raise np.linalg.LinAlgError("Singular matrix")


SHORT = ["--folds", "2", "--repeats", "1", "--components", "4", "--inner-folds", "2"]


def test_on_the_command_line_some_failed_arms_are_status_3_and_all_are_1(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["evaluate", str(store), "--labels", str(store / "labels.csv"), "--target", "pairing", *SHORT]
    call += ["-o", str(tmp_path), "--group", "patient"]
    assert main([*call, "--arms", "mean"]) == 0
    monkeypatch.setitem(HEADS.ours, "contrast", replace(HEADS.get("contrast"), fit=diverging))
    assert main([*call, "--arms", "mean", "contrast"]) == 3
    told = capsys.readouterr()
    assert "failed" in told.out
    assert "LinAlgError: Singular matrix" in told.out
    assert main([*call, "--arms", "contrast"]) == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("parfocal evaluate: ParfocalE")]
    assert "every arm failed on every target" in line


def test_a_device_that_is_not_there_is_refused_where_no_network_is_fitted(store: Path, tmp_path: Path) -> None:
    probes = PROBES.model_copy(update={"device": "cuda:93"})
    settings = EvaluateSettings(folds=2, repeats=1, arms=("mean",), probes=probes)

    with pytest.raises(ConfigError, match="no device 'cuda:93'"):
        evaluate_arms([store], store / "labels.csv", ["pairing"], tmp_path, settings)


def test_all_arms_of_one_target_may_fail_while_another_has_results(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EvaluateSettings(folds=2, repeats=1, arms=("2/mean",), probes=PROBES)
    lines = (store / "labels.csv").read_text().splitlines()
    labels = tmp_path / "labels.csv"
    header = lines[0].split(",")
    place = header.index("pairing")
    twice = [f"{line},{line.split(',')[place]}" for line in lines[1:]]
    labels.write_text("\n".join([f"{lines[0]},again", *twice]) + "\n")

    def fails_on(target: str) -> None:
        fit = HEADS.get("mean").fit

        def one(bags: object, outcome: Outcome, folds: object, settings: object) -> list[FittedProbe]:
            if outcome.target == target or target == "all":
                raise np.linalg.LinAlgError("Singular matrix")
            return fit(bags, outcome, folds, settings)  # type: ignore[arg-type]

        monkeypatch.setitem(HEADS.ours, "mean", replace(HEADS.get("mean"), fit=one))

    fails_on("again")
    with pytest.warns(ParfocalWarning, match="again: 1 of 1 arms failed"):
        result = evaluate_arms([store], labels, ["pairing", "again"], tmp_path / "out", settings)
    assert result.exit_status == 3
    assert [len(one.runs) for one in result.targets.values()] == [1, 0]
    assert "arms that failed" in result.report.read_text()
    fails_on("all")
    with pytest.warns(ParfocalWarning), pytest.raises(ParfocalError, match="every arm failed on every target"):
        evaluate_arms([store], labels, ["pairing", "again"], tmp_path / "all", settings)
