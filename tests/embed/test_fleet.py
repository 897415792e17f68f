"""What a run on many machines would take: by hand, against runs that are played through, and against a real one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.cli import main
from parfocal.embed import (
    EmbedSettings,
    FleetPlan,
    FleetSettings,
    RunEstimate,
    SlideEstimate,
    embed_slides,
    estimate_run,
    plan_fleet,
    play_fleet,
)
from parfocal.errors import ConfigError, SlideError


def plan_of(n_slides: int, seconds: float, *, spread: float = 0.0, **fleet: float) -> FleetPlan:
    stages = {"encoding": seconds, "reading": seconds / 2}
    return FleetPlan(FleetSettings(**fleet), n_slides, 1, 100.0, stages, 0.0, 1e9, 1e6, spread)


def estimate_of(*slides: SlideEstimate, core_seconds: dict[float, float] | None = None) -> RunEstimate:
    return RunEstimate(Path("set"), slides, 0.5, {2.0: 0.01, 0.5: 0.02}, core_seconds or {}, 1.0)


def test_stages_by_hand() -> None:
    one = SlideEstimate("a", Path("a"), False, 10, {2.0: 10, 0.5: 150}, {}, 4000, None, 2_000_000_000, 3.0)
    other = SlideEstimate("b", Path("b"), False, 30, {2.0: 30, 0.5: 450}, {}, 12_000, None, 1_000_000_000, 1.0)
    done = SlideEstimate("c", Path("c"), True, 99, {2.0: 999}, {}, 9, None)
    fails = SlideEstimate("d", Path("d"), False, 0, {}, {}, 0, "it is empty")
    fleet = FleetSettings(slides=1000, nodes=5, devices=2, readers=4, rate=80.0, network=300.0, price=10.0)

    plan = plan_fleet(estimate_of(one, other, done, fails), fleet)

    # 320 tiles at 80 a second; 20 regions of half a second on 4 cores; 1.5 GB at half of 300 MB a second.
    assert plan.stages == {"encoding": 4.0, "reading": 2.5, "network": 10.0}
    assert (plan.limit, plan.alone, plan.n_measured) == ("network", 2.0, 2)
    assert plan.slide_seconds == 12.0
    assert plan.idle == pytest.approx(1 - 4 / 12)
    assert plan.hours == pytest.approx(12 * 100.5 / 3600)  # 100 for each device, and half a one at the end
    assert plan.device_hours == pytest.approx(10 * plan.hours)
    assert plan.cost_per_slide == pytest.approx(plan.hours * 5 * 10 / 1000)
    assert plan.describe()["bytes_read"] == 1.5e12
    measured = plan_fleet(estimate_of(one), FleetSettings())
    assert measured.stages == {"encoding": 10 * 0.01 + 150 * 0.02, "reading": 5.0}
    assert measured.cost_per_slide is None
    with pytest.raises(SlideError, match="nothing can be planned"):
        plan_fleet(estimate_of(done, fails), fleet)


def test_slides_under_way_together_share_the_cores_that_read_and_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.embed.fleet.count_cores", lambda: 4)
    one = SlideEstimate("a", Path("a"), False, 10, {2.0: 10, 0.5: 150}, {}, 4000, None, 2_000_000_000, 3.0)
    estimate = estimate_of(one, core_seconds={2.0: 0.03, 0.5: 0.04})

    alone, several = (plan_fleet(estimate, FleetSettings(devices=devices)) for devices in (1, 8))

    # 10 regions of half a second, 0.3 s and 6 s of cores.
    assert alone.stages["cores"] == pytest.approx(11.3 / 4)
    assert alone.limit == "reading"
    assert several.slide_seconds == pytest.approx(3 + 11.3 * 2)
    assert "cores" not in plan_fleet(estimate, FleetSettings(rate=100.0)).stages


@settings(max_examples=25)
@given(
    n_slides=st.integers(200, 2000),
    nodes=st.integers(1, 20),
    devices=st.integers(1, 4),
    spread=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_run_without_failures_takes_as_long_as_its_work(
    n_slides: int, nodes: int, devices: int, spread: float, seed: int
) -> None:
    plan = plan_of(n_slides, 100.0, spread=spread, nodes=nodes, devices=devices)

    run = play_fleet(plan, seed=seed)

    assert (run.n_failures, run.n_lost, run.most_starts) == (0, 0, 1)
    n_devices = nodes * devices
    rng = np.random.default_rng(seed)
    variance = math.log1p(spread**2)
    drawn = rng.lognormal(math.log(100) - variance / 2, math.sqrt(variance), n_slides)
    # No order of one list ends earlier than the work shared out, or later than that and one slide more (Graham 1969).
    assert drawn.sum() / n_devices <= run.hours * 3600 * (1 + 1e-9)
    assert run.hours * 3600 <= drawn.sum() / n_devices + drawn.max()


@pytest.mark.parametrize("failures", [2.0, 24.0])
def test_what_failures_cost_is_what_they_do_when_a_run_is_played_through(failures: float) -> None:
    """The mean of ten runs against the formula, at half an hour a slide: up to one slide in two is lost."""
    plan = plan_of(4000, 1800.0, nodes=40, devices=1, failures=failures, restart=20.0)
    runs = [play_fleet(plan, seed=seed) for seed in range(10)]

    assert np.mean([run.hours for run in runs]) == pytest.approx(plan.hours, rel=0.03)
    assert plan.hours > plan_of(4000, 1800.0, nodes=40, devices=1).hours * (1 + failures / 100)
    expected = failures / 24 * 40 * plan.hours
    assert np.mean([run.n_failures for run in runs]) == pytest.approx(expected, rel=0.1)
    assert all(run.n_lost <= run.n_failures for run in runs)  # one device a node, and none while it is away
    assert np.mean([run.lost_hours for run in runs]) > 0


def test_devices_of_one_node_fail_together() -> None:
    plan = plan_of(2000, 900.0, nodes=10, devices=8, failures=4.0)
    run = play_fleet(plan, seed=1)

    assert run.n_failures * 6 <= run.n_lost <= run.n_failures * 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slides"], "does not know 'slides'"),
        (["gpus=3"], "does not know 'gpus'"),
        (["nodes=0"], "nodes: .*greater than or equal to 1"),
        (["rate=fast"], "rate: .*valid number"),
    ],
)
def test_a_word_that_says_nothing_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FleetSettings.parse(words)


def test_the_command_plans_and_writes_nothing(
    make_slide, tmp_path: Path, small_settings: EmbedSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = make_slide("s.tif")
    small = small_settings.model_copy(update={"workers": 0})
    estimate = estimate_run([slide], tmp_path / "store", small)
    (one,) = estimate.slides
    assert one.file_bytes == slide.stat().st_size
    assert one.plan_seconds > 0
    asked = ["embed", str(slide), "-o", str(tmp_path / "store"), "--encoder", small.encoder, "--workers", "0", "--json"]
    asked += ["--dtype", "float32"]
    asked += ["--region-um", f"{small.grid.region_um:g}", "--tile-px", str(small.grid.tile_px)]
    asked += ["--mpps", *(f"{mpp:g}" for mpp in small.grid.mpps)]

    assert main([*asked, "--dry-run", "--plan", "slides=1000000", "nodes=1000", "failures=0.1"]) == 0

    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["slides"], plan["measured_on"]) == (1_000_000, 1)
    assert plan["bytes_read"] == one.file_bytes * 1_000_000
    assert plan["bytes_written"] == one.n_bytes * 1_000_000
    assert plan["tiles_per_slide"] == sum(one.n_tiles.values())
    assert not (tmp_path / "store").exists()
    assert main([*asked, "--plan"]) == 2
    written = embed_slides([slide], tmp_path / "store", small).set_path
    size = sum(file.stat().st_size for file in written.rglob("*.h5"))
    assert one.n_bytes == pytest.approx(size, rel=0.5)
