"""What training from pixels brings at sequenced spots: `python benchmarks/finetune_her2st.py FOLDER -o OUT`.

FOLDER is that of `benchmarks/her2st.py`. Each named section is held out once. On the others a new region encoder of
size T and a linear head are trained, for the same steps on the same places, once with the last stages of
efficientnet-lite0 (`tuned`) and once with the tile encoder as it is (`frozen`); `head alone` is what the head knows
before either. The number is that of `benchmarks/her2st.py`: the mean Pearson r over the 50 genes that vary most at the
training spots, about the mean of the section. What both arms compute of tiles alike is computed once.
"""

import argparse
import time
from pathlib import Path

import torch
from her2st import MPPS, REGION_UM, find_sections, write_places

from parfocal import FinetuneSettings, GridConfig, finetune_encoder
from parfocal.finetune import KeptTiles

ARMS = {"frozen": 0.0, "tuned": 3e-4}


def main() -> None:
    """Train both arms for every held-out section, and print a table and the processor's time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--hold-out", nargs="+", help="sections; all by default")
    parser.add_argument("--steps", type=int, default=48, help="of 32 places with three tiles each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    sections, places = find_sections(options.folder), options.output / "spots.h5ad"
    if not places.exists():
        write_places(options.folder, sections, places)
    grid = GridConfig(mpps=tuple(map(float, MPPS)), region_um=round(REGION_UM, 2), min_tissue=0)
    kept = KeptTiles(4 << 30)
    found: dict[str, list[float]] = {"head alone": [], **{arm: [] for arm in ARMS}}
    held_out = options.hold_out or sections
    for section in held_out:
        for arm, rate in ARMS.items():
            settings = FinetuneSettings(
                encoder="efficientnet-lite0",
                tune="last-stages:2",
                grid=grid,
                slide_mpp=0.69,
                most_variable=50,
                slides_per_step=2,
                regions_per_slide=16,
                tiles_per_region=3,
                steps=options.steps,
                tile_lr=rate,
                region_lr=3e-4,
                chunk=128,
                holdout_slides=(section,),
                device=("cpu",),
            )
            result = finetune_encoder(
                [options.folder / f"{name}.jpg" for name in sections],
                options.output / f"{section}-{arm}",
                settings,
                places=places,
                targets=["all"],
                kept=kept,
                on_event=lambda event: None,
            )
            assert result.before is not None
            assert result.after is not None
            found[arm].append(result.after)
            print(f"{section} {arm}: {result.before:.3f} to {result.after:.3f}", flush=True)
        found["head alone"].append(result.before)
    print(f"arm, mean r, r of {', '.join(held_out)}")
    for arm, values in found.items():
        print(f"{arm:12s} {sum(values) / len(values):.3f}  {' '.join(f'{value:.3f}' for value in values)}")
    print(f"{time.process_time() / 60:.1f} CPU minutes")


if __name__ == "__main__":
    main()
