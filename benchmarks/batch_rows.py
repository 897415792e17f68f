"""Whether a tile's row depends on how many others stand in its batch: what it would cost if slides shared batches.

    python benchmarks/batch_rows.py
    python benchmarks/batch_rows.py --models vit_large_patch16_224 --device cuda

Networks of timm with random weights encode the same random tiles in a batch of 64 and in smaller ones, such as the last
of a slide. Prints how many of the rows differ, and the largest difference as a share of the rows' standard deviation.
"""

import argparse

import timm
import torch

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch16_224", "efficientnet_lite0", "resnet18"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[63, 32, 13, 5, 1], help="tiles in the other batch")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tiles = torch.rand(BATCH, 3, 224, 224, device=arguments.device)
    print(f"| network | tiles in the batch | rows that differ from those of {BATCH} | by at most |\n|---|---|---|---|")
    for name in arguments.models:
        network = timm.create_model(name, num_classes=0).eval().to(arguments.device)
        with torch.inference_mode():
            whole = network(tiles)
            for size in arguments.sizes:
                off = (network(tiles[:size]) - whole[:size]).abs()
                differ = int((off.amax(dim=1) > 0).sum())
                print(f"| {name} | {size} | {differ} of {size} | {float(off.max() / whole.std()):.1e} |")


if __name__ == "__main__":
    main()
