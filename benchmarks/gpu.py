"""What a GPU reaches, in one script of a few minutes: a large tile encoder on real tiles, the region encoder, training.

    python benchmarks/gpu.py SLIDE... [--device cuda] [--encoder timm:vit_large_patch16_224,random=0] [--batch 256]
        [--workers 4] [--regions 16384] [--size S] [--dim 1280] [--steps 40] [--json FILE]

Three parts. (1) `embed` of the slides, each worker a process that reads tiles and encodes them on the device: tiles a
second, and the share of the time in which the encoder was at work. (2) The region encoder alone, in bfloat16, on
regions that are on the device already: regions a second, and which share of the device's best matrix product that is.
(3) Steps of pretraining on the device, forward and backward, optimiser included. The card is named in what is printed.
With --device cpu and small numbers the script runs anywhere, which tells that it works and nothing of speed.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from parfocal.embed import EmbedSettings, embed_slides
from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.masks import draw_masks
from parfocal.pretrain.optimiser import new_optimizer
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.region_encoder.batch import RegionBatch
from region_encoder import encoder_flops, region_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", default="timm:vit_large_patch16_224,random=0")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--regions", type=int, default=16_384)
    parser.add_argument("--size", default="S")
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    found: dict[str, object] = {"device": card(device), "torch": torch.__version__}
    if arguments.slides:
        found |= embedding(arguments)
    config = RegionEncoderConfig.of_size(arguments.size, mpps=(2.0, 1.0, 0.5), dims=(arguments.dim,) * 3, tile_px=224)
    found |= encoding(config, device, arguments.regions)
    found |= training(config, device, min(arguments.regions, 4096), arguments.steps)
    for name, value in found.items():
        print(f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1))


def card(device: torch.device) -> str:
    """The name of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def embedding(arguments: argparse.Namespace) -> dict[str, object]:
    """`embed` of the slides into a store that is thrown away."""
    settings = EmbedSettings(
        encoder=arguments.encoder, batch=arguments.batch, workers=arguments.workers, device=(arguments.device,)
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        summary = embed_slides(arguments.slides, Path(folder) / "store", settings)
        seconds = time.monotonic() - started
    n_tiles = sum(sum(one.n_tiles.values()) for one in summary.done)
    busy = sum(one.encode_seconds for one in summary.done)
    return {
        "embed: slides": len(summary.done),
        "embed: tiles/s with the start of the workers": n_tiles / seconds,
        "embed: share of the wall clock with an encoder at work": min(1.0, busy / seconds),
        "embed: what a worker waited for": summary.pace,
    }


def timed(work: Callable[[], object], device: torch.device, *, seconds: float = 3.0) -> float:
    """Seconds of one call: the best of several, after two that are not counted."""
    best, began, calls = float("inf"), time.monotonic(), 0
    while calls < 4 or time.monotonic() - began < seconds:
        wait(device)
        started = time.monotonic()
        work()
        wait(device)
        if calls > 1:
            best = min(best, time.monotonic() - started)
        calls += 1
    return best


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def encoding(config: RegionEncoderConfig, device: torch.device, n_regions: int) -> dict[str, object]:
    """The region encoder in bfloat16, and the best square product of the device."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = 2.0 * side**3 / timed(lambda: a @ b, device)
    encoder = RegionModel(config).encoder.to(device, torch.bfloat16).eval()
    batch = [one.to(device) for one in region_batch(n_regions, config.dim, absent=0.0)]
    batch[0] = batch[0].to(torch.bfloat16)
    found: dict[str, object] = {"square product: TFLOP/s in bfloat16": product / 1e12}
    for name, work in (("", encoder.encode), (" compiled", torch.compile(encoder.encode, dynamic=False))):
        if name and device.type != "cuda":
            continue
        seconds = timed(lambda work=work: work(*batch), device)
        operations = encoder_flops(config, batch[3].sum(dim=1).cpu())
        found[f"region encoder{name}: regions/s"] = n_regions / seconds
        found[f"region encoder{name}: share of the square product"] = operations / seconds / product
    return found


def training(config: RegionEncoderConfig, device: torch.device, n_regions: int, steps: int) -> dict[str, object]:
    """Steps of pretraining on one batch that stays on the device."""
    settings = PretrainSettings(targets="standardised", batch=max(2, n_regions))
    trainee = Trainee(RegionModel(config), settings).to(device)
    optimizer = new_optimizer(trainee, settings, device=device)
    tokens, xy_um, mpp, present = region_batch(n_regions, config.dim, absent=0.0)
    numbers = torch.arange(n_regions)
    regions = RegionBatch(tokens, xy_um, mpp, present, numbers // 64, numbers % 64)
    masks = [
        draw_masks(xy_um, mpp, present, settings, tile_px=config.tile_px, generator=torch.Generator().manual_seed(seed))
        for seed in range(trainee.n_views)
    ]
    hidden = torch.stack([one.hidden for one in masks]).to(device)
    visible = torch.stack([one.visible(present) for one in masks]).to(device)
    regions = regions.to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            parts = trainee(*vars(regions).values(), hidden, visible, False, True)
        parts[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    wait(device)
    started = time.monotonic()
    for _ in range(steps):
        step()
    wait(device)
    return {"training: regions/s": n_regions * steps / (time.monotonic() - started)}


if __name__ == "__main__":
    main()
