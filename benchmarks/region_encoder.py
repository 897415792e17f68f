"""Speed of the region encoder beside its floor: its floating-point operations over the machine's own product rate.

    python benchmarks/region_encoder.py [--size S] [--dim 1280] [--batch 256] [--repeats 7] [--json FILE]

One thread; everything of one precision is measured in turn, several rounds, and the best of each counts. Times are the
processor time of the thread, so that other processes on the machine change little. Two rates are given as floors: that
of torch's own `a @ b` and `linear`, and the best product that was found at all, the same by oneDNN included. A
training step is measured with its loader: regions come through `pretrain`'s own shuffled stream, from memory.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pretrain_loader import make_set
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from parfocal.pretrain import PretrainSettings
from parfocal.pretrain.data import RegionStream, SlideCache
from parfocal.pretrain.holdout import split_set
from parfocal.pretrain.masks import Masks, draw_masks
from parfocal.pretrain.optimiser import new_optimizer
from parfocal.pretrain.setup import new_order, take_statistics
from parfocal.pretrain.trainee import Trainee
from parfocal.region_encoder import RegionEncoderConfig, RegionModel
from parfocal.region_encoder.attention import linear
from parfocal.region_encoder.batch import RegionBatch

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
ABSENT = (0.0, 0.3, 0.75)
_TRAINING_STEPS = 4


def region_batch(regions: int, dim: int, *, absent: float, mpps: tuple[float, ...] = (2.0, 1.0, 0.5)) -> Batch:
    """Random embeddings on the raster of a 448 um region; CLS's coarsest tile always stays."""
    xy, mpp = [], []
    for one in mpps:
        side, n = 224 * one, round(448 / (224 * one))
        xy += [[(c + 0.5) * side - 224, (r + 0.5) * side - 224] for r in range(n) for c in range(n)]
        mpp += [one] * n * n
    present = torch.rand(regions, len(mpp)) >= absent
    present[:, 0] = True
    tokens = torch.randn(regions, len(mpp), dim)
    return tokens, torch.tensor(xy).expand(regions, -1, -1), torch.tensor(mpp).expand(regions, -1), present


def encoder_flops(config: RegionEncoderConfig, tiles: Tensor) -> float:
    """Operations (two for each multiply-add) of projector and trunk; `tiles` has the present tiles of each region."""
    tiles = tiles.double()
    tokens, width = tiles + config.specials, config.width
    trunk = config.depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
    return float((trunk + tiles * (2 * config.dim * width + 2 * width**2)).sum())


def decoder_flops(config: RegionEncoderConfig, slots: Tensor, queries: Tensor) -> float:
    """Operations of the decoder for regions with so many memory slots and queries."""
    slots, queries, width = slots.double(), queries.double(), config.width
    block = queries * 4 * width**2 + slots * 4 * width**2 + 4 * slots * queries * width + queries * 16 * width**2
    place = queries * 2 * (32 * width + width**2)
    return float((config.decoder_depth * block + place + queries * 2 * width * 2 * config.dim).sum())


def counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def best_of(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each work: the best of interleaved rounds, after one that is not counted."""
    best = dict.fromkeys(works, float("inf"))
    for attempt in range(repeats + 1):
        for name, work in works.items():
            start = time.thread_time()
            work()
            if attempt:
                best[name] = min(best[name], time.thread_time() - start)
    return best


def product_works(width: int, dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], float]]:
    """Matrix products with their operations: a large square one, and those of a block on 832 rows."""
    a, b = torch.randn(1536, 1536, dtype=dtype), torch.randn(1536, 1536, dtype=dtype)
    works: dict[str, tuple[Callable[[], object], float]] = {"square a @ b": (lambda: a @ b, 2.0 * 1536**3)}
    x, wide = torch.randn(832, width, dtype=dtype), torch.randn(832, 4 * width, dtype=dtype)
    layers = [nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(width, 4 * width)]
    layers, down = [layer.to(dtype) for layer in layers], nn.Linear(4 * width, width).to(dtype)
    operations = 24.0 * 832 * width**2
    works["torch linear"] = (lambda: [*(layer(x) for layer in layers), down(wide)], operations)
    works["our linear"] = (lambda: [*(linear(layer, x) for layer in layers), linear(down, wide)], operations)
    return works


@torch.inference_mode()
def inference(config: RegionEncoderConfig, dtype: torch.dtype, *, batch: int, repeats: int) -> dict[str, float]:
    encoder = RegionModel(config).encoder.to(dtype).eval()
    products = product_works(config.width, dtype)
    batches = {absent: region_batch(batch, config.dim, absent=absent) for absent in ABSENT}
    single = region_batch(1, config.dim, absent=0.0)
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, 4 * config.width, activation="gelu", batch_first=True, norm_first=True
    )
    torchs = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False).to(dtype).eval()
    plain = torch.randn(batch, 21 + config.specials, config.width, dtype=dtype)
    works: dict[str, Callable[[], object]] = {name: work for name, (work, _) in products.items()}
    works |= {f"absent {absent:g}": lambda b=b: encoder.encode(*b) for absent, b in batches.items()}
    works |= {"one region": lambda: encoder.encode(*single), "nn.TransformerEncoder": lambda: torchs(plain)}
    seconds = best_of(works, repeats)
    rates = {name: operations / seconds[name] for name, (_, operations) in products.items()}
    torch_rate = max(rates["square a @ b"], rates["torch linear"])
    best_rate = max(rates.values())
    found = {f"GFLOP/s {name}": rate / 1e9 for name, rate in rates.items()}
    for absent, (*_, present) in batches.items():
        operations = encoder_flops(config, present.sum(dim=1))
        taken = seconds[f"absent {absent:g}"]
        name = f"absent {absent:g}:"
        found[f"{name} regions/s"] = batch / taken
        found[f"{name} GFLOP/s"] = operations / taken / 1e9
        found[f"{name} share of torch's rate"] = operations / taken / torch_rate
        found[f"{name} share of the best rate"] = operations / taken / best_rate
        found[f"{name} speed beside all present"] = seconds["absent 0"] / taken
    dense = batches[0.0]
    found["formula / counted operations"] = encoder_flops(config, dense[3].sum(dim=1)) / counted(
        lambda: encoder.encode(*dense)
    )
    found["one region: ms"] = seconds["one region"] * 1e3
    trunk = config.depth * batch * (24 * plain.shape[1] * config.width**2 + 4 * plain.shape[1] ** 2 * config.width)
    found["nn.TransformerEncoder: regions/s"] = batch / seconds["nn.TransformerEncoder"]
    found["nn.TransformerEncoder: share of torch's rate"] = trunk / seconds["nn.TransformerEncoder"] / torch_rate
    return found


def training(config: RegionEncoderConfig, dtype: torch.dtype, *, batch: int, repeats: int) -> dict[str, float]:
    """Steps as `pretrain` does them: regions are read and shuffled, masks drawn, forward and backward; optimiser apart.

    The floor counts encoder, decoder and projectors, whatever the masks leave of them. Everything runs in one thread,
    the loader too, whose thread time is therefore in the step's.
    """
    settings = PretrainSettings(batch=batch, steps=_TRAINING_STEPS, targets="standardised")
    with tempfile.TemporaryDirectory() as folder:
        tiles = make_set(Path(folder), slides=4, regions=max(64, batch), dim=config.dim)
        split = split_set(tiles, share=settings.holdout, seed=0)
        cache = SlideCache(tiles, max_bytes=1 << 34)
        trainee = Trainee(RegionModel(config), settings)
        take_statistics(trainee, split, cache)
        trainee.train()
        optimizer = new_optimizer(trainee, settings, device=torch.device("cpu"))
        stream = RegionStream(new_order(tiles, split, settings, stream=0, world=1), cache, workers=0)
        operations = 0.0

        def read() -> Iterator[tuple[RegionBatch, Masks, bool]]:
            for number, regions in enumerate(stream.batches(0, _TRAINING_STEPS)):
                generator = torch.Generator().manual_seed(number)
                masks = draw_masks(
                    regions.xy_um, regions.mpp, regions.present, settings, tile_px=config.tile_px, generator=generator
                )
                yield regions, masks, number % 2 == 0

        def loader() -> None:
            for _ in read():
                pass

        def steps() -> None:
            nonlocal operations
            operations = 0.0
            for regions, masks, bottleneck in read():
                optimizer.zero_grad(set_to_none=True)
                visible = masks.visible(regions.present)
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    parts = trainee(
                        regions.tokens,
                        regions.xy_um,
                        regions.mpp,
                        regions.present,
                        regions.slide,
                        regions.region,
                        masks.hidden[None],
                        visible[None],
                        bottleneck,
                        False,
                    )
                parts[0].backward()
                n_visible, n_hidden = visible.sum(dim=1), masks.hidden.sum(dim=1)
                slots = n_visible * (not bottleneck) + config.specials
                forward = encoder_flops(config, n_visible) + decoder_flops(config, slots, n_hidden)
                # Backward is twice the forward, but nobody needs the gradient of the embeddings that come in.
                operations += 3 * forward - float(n_visible.sum()) * 2 * config.dim * config.width

        def optimise() -> None:
            for _ in range(_TRAINING_STEPS):
                torch.nn.utils.clip_grad_norm_(trainee.parameters(), settings.clip)
                optimizer.step()

        products = product_works(config.width, dtype)
        works = {"loader": loader, "steps": steps, "optimise": optimise}
        seconds = best_of({**{name: work for name, (work, _) in products.items()}, **works}, repeats)
        rates = {name: work[1] / seconds[name] for name, work in products.items()}
        share_counted = operations / counted(steps)
    torch_rate, best_rate = max(rates["square a @ b"], rates["torch linear"]), max(rates.values())
    taken, whole = seconds["steps"], seconds["steps"] + seconds["optimise"]
    return {
        "training: regions/s": batch * _TRAINING_STEPS / taken,
        "training: GFLOP/s": operations / taken / 1e9,
        "training: share of torch's rate": operations / taken / torch_rate,
        "training: share of the best rate": operations / taken / best_rate,
        "training: loader's share of the time": seconds["loader"] / taken,
        "training: with clipping and optimiser, share of the best rate": operations / whole / best_rate,
        "training: formula / counted operations": share_counted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("T", "S", "B"), default="S")
    parser.add_argument("--dim", type=int, default=1280, help="width of a tile embedding")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = RegionEncoderConfig.of_size(args.size, dims=(args.dim,) * 3)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        found[name] = inference(config, dtype, batch=args.batch, repeats=args.repeats)
        found[name] |= training(config, dtype, batch=args.batch // 2, repeats=max(2, args.repeats // 2))
        print(f"{name}, size {args.size}, tile embeddings of {args.dim}, batch {args.batch}, one thread")
        for key, value in found[name].items():
            print(f"  {key:62s} {value:10.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
