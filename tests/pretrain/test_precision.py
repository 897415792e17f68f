"""The precision is the processor's and nobody's clock's."""

import time
from typing import Literal

import pytest
import torch

from parfocal.pretrain.optimiser import choose_autocast


@pytest.mark.parametrize(("avx", "amx", "half"), [(False, False, False), (True, False, True), (False, True, True)])
def test_a_cpu_decides_by_its_instructions_however_long_anything_takes(
    avx: bool, amx: bool, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_clock() -> float:
        raise AssertionError("nothing is measured")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(time, clock, no_clock)

    chosen, why = choose_autocast("auto", torch.device("cpu"))

    assert chosen == half
    assert why.startswith("bfloat16" if half else "float32")


@pytest.mark.parametrize(("capability", "half"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_decides_by_its_capability(
    capability: tuple[int, int], half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    assert choose_autocast("auto", torch.device("cuda", 0))[0] == half


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(wanted: Literal["float32", "bfloat16"]) -> None:
    assert choose_autocast(wanted, torch.device("cpu")) == (wanted == "bfloat16", f"{wanted}, as asked")
    assert choose_autocast("auto", torch.device("mps"))[0] is False
