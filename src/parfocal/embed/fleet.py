"""What a run over many slides would cost on many machines, worked out from a few slides that are measured here.

A slide passes three stages that overlap: its bytes come over the network, cores read its tiles, a device encodes them.
The slowest one says how long a slide takes; finding its tissue comes before and overlaps with nothing. Where the cores
that read encode as well, slides that are under way together share them. A node that fails loses what its devices are
at, and the slides under way begin anew.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from parfocal.config import Settings
from parfocal.embed.estimate import RunEstimate
from parfocal.errors import ConfigError, SlideError
from parfocal.run.processes import count_cores

_HOUR, _DAY = 3600.0, 86400.0


class FleetSettings(Settings):
    """The machines that a run is planned for, and how many slides there are."""

    slides: int = Field(0, ge=0, description="How many slides; those that are given when 0.")
    nodes: int = Field(1, ge=1, description="Machines.")
    devices: int = Field(1, ge=1, description="Devices of each machine that encode, such as GPUs.")
    readers: int = Field(1, ge=1, description="Cores that read tiles for one device.")
    rate: float | None = Field(
        None, gt=0, description="Tiles that a device encodes in a second; as measured where None."
    )
    network: float | None = Field(
        None,
        gt=0,
        description="Megabytes a second of each machine from where slides lie; their own disk where None.",
    )
    price: float | None = Field(None, ge=0, description="What a machine costs in an hour, in any currency.")
    failures: float = Field(0.0, ge=0, description="How often a machine fails, in a day.")
    restart: float = Field(5.0, ge=0, description="Minutes until a machine that failed works again.")

    @classmethod
    def parse(cls, words: Sequence[str]) -> "FleetSettings":
        """Settings from `name=value` words.

        Raises:
            ConfigError: a word is none, or a value cannot be.
        """
        pairs = [word.partition("=") for word in words]
        names = ", ".join(cls.model_fields)
        for name, equals, _ in pairs:
            if not equals or name not in cls.model_fields:
                raise ConfigError(f"--plan does not know {name!r}. Write NAME=VALUE with one of {names}.")
        try:
            return cls(**{name: value for name, _, value in pairs})
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"--plan {first['loc'][0]}: {first['msg']}.") from error


@dataclass(frozen=True)
class FleetPlan:
    """What a run would take.

    Attributes:
        fleet: the machines.
        n_slides: how many slides.
        n_measured: of how many the rest is expected to be like.
        tiles: of a slide, all magnifications together.
        stages: seconds that a slide takes in each stage, where the other stages do not hold it up.
        alone: seconds of a slide in which no tile is encoded: it is opened and its tissue is found.
        read_bytes: of a slide.
        written_bytes: of a slide.
        spread: standard deviation of the seconds of a slide, as a share of their mean.
    """

    fleet: FleetSettings
    n_slides: int
    n_measured: int
    tiles: float
    stages: Mapping[str, float]
    alone: float
    read_bytes: float
    written_bytes: float
    spread: float

    @property
    def limit(self) -> str:
        """The stage that the others wait for."""
        return max(self.stages, key=self.stages.__getitem__)

    @cached_property
    def slide_seconds(self) -> float:
        """How long a device has a slide, when nothing fails."""
        return self.alone + self.stages[self.limit]

    @cached_property
    def hours(self) -> float:
        """From the first slide to the last, failures included.

        The expected time of a task that begins anew whenever its machine fails, at times without a memory, is
        (exp(r t) - 1) (1 / r + d), for a rate r, a task of t and a restart of d. The last slides end one after the
        other, half a slide of each device later than if they could be shared out.
        """
        rate, down = self.fleet.failures / _DAY, self.fleet.restart * 60
        seconds = self.slide_seconds
        if rate:
            seconds = math.expm1(rate * seconds) * (1 / rate + down)
        n_devices = self.fleet.nodes * self.fleet.devices
        rounds = max(1.0, self.n_slides / n_devices + 0.5 * (self.n_slides > n_devices))
        return seconds * rounds / _HOUR

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.hours * self.fleet.nodes * self.fleet.devices

    @property
    def idle(self) -> float:
        """Share of the time in which a device encodes nothing, when nothing fails."""
        return 1 - self.stages["encoding"] / self.slide_seconds

    @property
    def cost_per_slide(self) -> float | None:
        """In the currency of the price; None without a price."""
        price = self.fleet.price
        return None if price is None else self.hours * self.fleet.nodes * price / max(1, self.n_slides)

    def describe(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "fleet": self.fleet.model_dump(),
            "slides": self.n_slides,
            "measured_on": self.n_measured,
            "tiles_per_slide": self.tiles,
            "seconds_per_slide": {**self.stages, "before the first tile": self.alone},
            "limited_by": self.limit,
            "device_idle": self.idle,
            "hours": self.hours,
            "device_hours": self.device_hours,
            "bytes_read": self.read_bytes * self.n_slides,
            "bytes_written": self.written_bytes * self.n_slides,
            "cost_per_slide": self.cost_per_slide,
        }


def plan_fleet(estimate: RunEstimate, fleet: FleetSettings) -> FleetPlan:
    """What a run over many slides like those of an estimate would take.

    Args:
        estimate: of a few typical slides, none of which is in the store.
        fleet: the machines.

    Raises:
        SlideError: no slide could be measured.
    """
    measured = [one for one in estimate.slides if not one.done and one.n_regions]
    if estimate.read_seconds is None or not measured:
        raise SlideError(
            "nothing can be planned: none of the slides that are given has tissue and is still to do. Give a few "
            "typical ones, and a store that does not have them."
        )
    tiles = np.array([sum(one.n_tiles.values()) for one in measured], dtype=np.float64)
    if fleet.rate is None:
        encoding = [sum(estimate.encode_seconds[mpp] * n for mpp, n in one.n_tiles.items()) for one in measured]
    else:
        encoding = (tiles / fleet.rate).tolist()
    reading = [estimate.read_seconds * one.n_regions / fleet.readers for one in measured]
    sizes = [one.file_bytes for one in measured]
    stages = {"encoding": float(np.mean(encoding)), "reading": float(np.mean(reading))}
    if estimate.core_seconds and fleet.rate is None:
        working = [
            estimate.read_seconds * one.n_regions
            + sum(estimate.core_seconds[mpp] * n for mpp, n in one.n_tiles.items())
            for one in measured
        ]
        stages["cores"] = float(np.mean(working)) * fleet.devices / count_cores()
    if fleet.network is not None:
        stages["network"] = float(np.mean(sizes)) / (fleet.network * 1e6 / fleet.devices)
    return FleetPlan(
        fleet,
        fleet.slides or len(measured),
        len(measured),
        float(tiles.mean()),
        stages,
        float(np.mean([one.plan_seconds for one in measured])),
        float(np.mean(sizes)),
        float(np.mean([one.n_bytes for one in measured])),
        float(tiles.std() / tiles.mean()),
    )


@dataclass(frozen=True)
class FleetRun:
    """A run that was played through.

    Attributes:
        hours: until the last slide was done.
        n_failures: how often a machine failed.
        n_lost: slides that were under way then, and began anew.
        lost_hours: hours of devices that were spent on those, or on waiting for a machine to come back.
        most_starts: how often the unluckiest slide was begun.
    """

    hours: float
    n_failures: int
    n_lost: int
    lost_hours: float
    most_starts: int


def play_fleet(plan: FleetPlan, *, seed: int = 0) -> FleetRun:
    """Play a run through slide by slide: machines take slides from one list, fail at random, and come back.

    The seconds of a slide are drawn log-normal with the mean and spread of the plan, and failures of a machine come
    at times without a memory. A slide that was under way goes to the end of the list. About 10 s for a million slides.

    Args:
        plan: the machines and the slides.
        seed: of what is drawn.
    """
    rng, fleet = np.random.default_rng(seed), plan.fleet
    variance = math.log1p(plan.spread**2)
    drawn = rng.lognormal(math.log(plan.slide_seconds) - variance / 2, math.sqrt(variance), plan.n_slides)
    waiting, starts = list(range(plan.n_slides))[::-1], np.zeros(plan.n_slides, np.int64)
    again: list[int] = []
    gaps = _FailureTimes(rng, fleet.failures / _DAY, fleet.nodes)
    # Each device by when it is free; devices of a node fail together.
    free = [(0.0, node) for node in range(fleet.nodes) for _ in range(fleet.devices)]
    n_lost, lost, end = 0, 0.0, 0.0
    while waiting or again:
        start, node = heapq.heappop(free)
        slide = waiting.pop() if waiting else again.pop()
        starts[slide] += 1
        done = start + float(drawn[slide])
        failure = gaps.next_after(node, start)
        if failure < done:
            back = failure + fleet.restart * 60
            n_lost, lost = n_lost + 1, lost + back - start
            again.append(slide)
            heapq.heappush(free, (back, node))
        else:
            end = max(end, done)
            heapq.heappush(free, (done, node))
    return FleetRun(end / _HOUR, gaps.n_until(end), n_lost, lost / _HOUR, int(starts.max(initial=0)))


class _FailureTimes:
    """When each machine fails, drawn as far as anybody asks."""

    def __init__(self, rng: np.random.Generator, rate: float, n_nodes: int) -> None:
        self._rng, self._rate = rng, rate
        self._times: list[list[float]] = [[] for _ in range(n_nodes)]
        self._at = [0] * n_nodes

    def next_after(self, node: int, start: float) -> float:
        """The first failure of a machine from a time on; times are asked in rising order."""
        if not self._rate:
            return math.inf
        times, at = self._times[node], self._at[node]
        while not times or times[-1] < start:
            times.append((times[-1] if times else 0.0) + float(self._rng.exponential(1 / self._rate)))
        while times[at] < start:
            at += 1
        self._at[node] = at
        return times[at]

    def n_until(self, end: float) -> int:
        return sum(sum(time <= end for time in times) for times in self._times)


def fleet_table(plan: FleetPlan) -> Table:
    """The stages of a slide and what all of them come to."""
    fleet = plan.fleet
    title = f"{plan.n_slides:,} slides on {fleet.nodes:,} x {fleet.devices} devices, as {plan.n_measured} that are here"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", justify="right")
    for stage, seconds in plan.stages.items():
        mark = "  (what the others wait for)" if stage == plan.limit else ""
        table.add_row(f"{stage}{mark}", f"{seconds:,.2f} s a slide")
    table.add_row("before the first tile", f"{plan.alone:,.2f} s a slide")
    table.add_row("a device encodes nothing", f"{plan.idle:.0%} of the time")
    table.add_section()
    table.add_row("from start to end", f"{plan.hours:,.2f} h")
    table.add_row("devices", f"{plan.device_hours:,.1f} h")
    table.add_row("read", f"{plan.read_bytes * plan.n_slides / 1e9:,.1f} GB")
    table.add_row("written", f"{plan.written_bytes * plan.n_slides / 1e9:,.2f} GB")
    if plan.cost_per_slide is not None:
        table.add_row("a slide costs", f"{plan.cost_per_slide:,.4f}")
    return table
