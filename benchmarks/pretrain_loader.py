"""How fast a training step is, how near to its floating-point floor, and what the loader costs beside it.

    python benchmarks/pretrain_loader.py            # size T, batch 128, 21 tokens of 1,280 numbers, one core

Prints regions per second of the step alone (a batch that is there already), of the loader alone (from files, and from
memory), and of both together as `pretrain` runs them, beside the machine's own float32 matrix rate.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from parfocal.pretrain import PretrainSettings, pretrain_encoder, read_metrics
from parfocal.pretrain.data import RegionStream, SlideCache
from parfocal.pretrain.holdout import split_set
from parfocal.pretrain.masks import draw_masks
from parfocal.pretrain.optimiser import new_optimizer
from parfocal.pretrain.setup import new_model, new_order, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.store import EmbeddingSet, SlideTokens, create_set, open_set, write_tokens

MPPS = (2.0, 1.0, 0.5)


def make_set(folder: Path, *, slides: int, regions: int, dim: int) -> EmbeddingSet:
    rng = np.random.default_rng(0)
    path = create_set(
        folder,
        "random-00000000",
        "tiles",
        region_um=448.0,
        dims=dict.fromkeys(MPPS, dim),
        settings={"encoder": "random"},
        encoder_digests=dict.fromkeys(MPPS, "aa"),
        tile_px=224,
    )
    for slide in range(slides):
        features, region, center = {}, {}, {}
        for mpp in MPPS:
            n = round(2 / mpp)
            places = np.array([(c, r) for r in range(n) for c in range(n)]) * 224.0 * mpp + 112.0 * mpp - 224.0
            features[mpp] = rng.standard_normal((regions * n * n, dim), dtype=np.float32).astype(np.float16)
            region[mpp] = np.repeat(np.arange(regions), n * n).astype(np.int32)
            center[mpp] = np.tile(places, (regions, 1)).astype(np.float32)
        xy_um = np.stack([np.arange(regions) * 448.0, np.zeros(regions)], axis=1)
        write_tokens(path, SlideTokens(f"s{slide}", 448.0, 0.5, xy_um, features, region, center))
    return open_set(path)


def matrix_rate() -> float:
    """Floating-point operations per second of a float32 product of 1,536 x 1,536 matrices; the best of five."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 2 * 1536**3 / min(seconds(lambda: a @ b) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    """Processor time, so that other work on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="T")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--regions", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = PretrainSettings(
        size=arguments.size, batch=arguments.batch, steps=arguments.steps, precision="float32", monitor_regions=2
    )
    with tempfile.TemporaryDirectory() as folder:
        tiles = make_set(Path(folder), slides=arguments.slides, regions=arguments.regions, dim=arguments.dim)
        split = split_set(tiles, share=settings.holdout, seed=0)
        order = new_order(tiles, split, settings, stream=0, world=1)
        print(f"window: {order.window_size} regions; a region has 21 tokens of {arguments.dim} float16 numbers")
        for name, memory in (("files", 0), ("memory", 1 << 34)):
            cache = SlideCache(tiles, max_bytes=memory)
            with RegionStream(order, cache, workers=0) as stream:
                list(stream.batches(0, 1))
                taken = seconds(lambda stream=stream: list(stream.batches(1, arguments.steps)))
            print(f"loader alone, from {name}: {(arguments.steps - 1) * settings.batch / taken:,.0f} regions/s")

        with RegionStream(order, cache, workers=0) as stream:
            batches = list(stream.batches(0, arguments.steps))
        trainee = Trainee(new_model(tiles, settings, seed=0), settings)
        take_statistics(trainee, split, cache)
        optimizer = new_optimizer(trainee, settings, device=torch.device("cpu"))

        def run_steps(first: int, last: int) -> None:
            for step in range(first, last):
                regions = batches[step]
                generator = torch.Generator().manual_seed(step)
                masks = draw_masks(
                    regions.xy_um, regions.mpp, regions.present, settings, tile_px=224, generator=generator
                )
                parts = trainee(
                    regions.tokens,
                    regions.xy_um,
                    regions.mpp,
                    regions.present,
                    regions.slide,
                    regions.region,
                    masks.hidden[None],
                    masks.visible(regions.present)[None],
                    int((step + 1) * settings.bottleneck) > int(step * settings.bottleneck),
                    step >= arguments.steps // 2,
                )
                torch.autograd.backward(parts[0])
                torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

        run_steps(0, 2)
        rate = matrix_rate()
        taken = seconds(lambda: run_steps(2, arguments.steps))
        rate = max(rate, matrix_rate())
        steps = arguments.steps - 2
        with FlopCounterMode(display=False) as counter:
            run_steps(2, arguments.steps)
        floor = counter.get_total_flops() / rate
        print(f"float32 matrix products: {rate / 1e9:.1f} GFLOP/s")
        print(
            f"step alone: {steps * settings.batch / taken:,.0f} regions/s "
            f"({counter.get_total_flops() / steps / settings.batch / 1e9:.4f} GFLOP a region, "
            f"{floor / taken:.0%} of the floor's speed)"
        )
        for name, memory in (("files", 0), ("memory", 1 << 12)):
            whole = settings.model_copy(
                update={"cache_mib": memory, "log_every": arguments.steps - 2, "read_threads": 1}
            )
            out = Path(folder) / f"model-{name}"
            taken = seconds(lambda whole=whole, out=out: pretrain_encoder(tiles, out, whole))
            row = read_metrics(out / "metrics.csv")[0]
            print(
                f"pretrain, from {name}, with one reading thread: {row['regions_per_s']:,.0f} regions/s of wall-clock "
                f"time, {arguments.steps * settings.batch / taken:,.0f} of processor time with start and end"
            )


if __name__ == "__main__":
    main()
