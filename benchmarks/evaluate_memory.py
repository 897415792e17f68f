"""Peak memory and seconds of evaluating a cohort whose vectors are more than memory holds.

Run: python benchmarks/evaluate_memory.py [--slides 1000] [--regions 1500] [--dim 1024] [--folder DIR] [--arms WORD...]
    [--folds 5] [--repeats 1] [--steps N] [--hold GIB...] [--at-a-time 2] [--one-by-one]
A store of random embeddings is generated in DIR, where it stays and is used again for as many slides or fewer, or in a
folder that is removed afterwards: one row for each region and
each of three magnifications, float16. Half of the slides carry a small signal in all magnifications. `evaluate` runs in
a process of its own for each number of GIB, whose peak resident memory the operating system reports. With --arms
nothing but these are fitted; with --one-by-one each in a process of its own. --steps ends the training of networks
early, which changes seconds and not memory.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MPPS = (2.0, 1.0, 0.5)
REGION_UM = 448.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=1500)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--arms", nargs="+", default=[])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--hold", type=float, nargs="+", default=[2.0])
    parser.add_argument("--at-a-time", type=int, default=2)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate_here(arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "labels.csv").is_file():
            started = time.monotonic()
            write_cohort(folder, arguments.slides, arguments.regions, arguments.dim)
            size = sum(file.stat().st_size for file in folder.rglob("*.h5")) / 2**30
            print(f"{size:.2f} GiB written in {time.monotonic() - started:.0f} s", flush=True)
        print(f"{'arms':<24}{'slides':>8}{'regions':>9}{'hold GiB':>10}{'seconds':>9}{'peak MiB':>10}", flush=True)
        for hold in arguments.hold:
            for words in [[word] for word in arguments.arms] if arguments.one_by_one else [arguments.arms]:
                command = [sys.executable, __file__, "--evaluate", "--folder", str(folder), "--hold", str(hold)]
                for name in ("slides", "folds", "repeats", "at_a_time"):
                    command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
                command += ["--steps", str(arguments.steps)] if arguments.steps else []
                command += ["--arms", *words] if words else []
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
                seconds, peak = map(float, answer[-2:])
                name = " ".join(words) or "all but those by request"
                size = f"{arguments.slides:>8}{arguments.regions:>9}"
                print(f"{name:<24}{size}{hold:>10.2f}{seconds:>9.0f}{peak:>10.0f}", flush=True)


def evaluate_here(arguments: argparse.Namespace) -> None:
    """Evaluate in this process; print the seconds of each arm, then those of all and the peak in MiB."""
    from parfocal.cohort import CohortColumns
    from parfocal.evaluate import EvaluateSettings, evaluate_arms
    from parfocal.heads import ProbeSettings

    kinds = ("attention_steps", "mlp_steps", "bilinear_steps")
    fewer = {**dict.fromkeys(kinds, arguments.steps), "growth": 1} if arguments.steps else {}
    settings = EvaluateSettings(
        probes=ProbeSettings(**fewer),
        arms=tuple(arguments.arms),
        folds=arguments.folds,
        repeats=arguments.repeats,
        hold_gib=arguments.hold[0],
        arms_at_a_time=arguments.at_a_time,
    )
    store = arguments.folder / "store"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as out:
        labels = Path(out) / "labels.csv"
        rows = (arguments.folder / "labels.csv").read_text().splitlines()
        labels.write_text("\n".join(rows[: arguments.slides + 1]) + "\n")
        found = evaluate_arms([store], labels, ["label"], Path(out), settings, columns=CohortColumns(group="slide"))
    for result in found.targets.values():
        for run in result.runs:
            print(f"{run.seconds:8.1f} s  {float(np.nanmean(run.fold_value)):.4f}  {run.arm.label}", file=sys.stderr)
        for failed in result.failed:
            print(f"failed: {failed.arm.label}: {failed.reason}", file=sys.stderr)
    print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def write_cohort(folder: Path, n_slides: int, n_regions: int, dim: int) -> None:
    """A store of tile embeddings of which a region has one at each magnification, and a table of labels."""
    from parfocal.store import SlideTokens, create_set, write_tokens

    path = create_set(
        folder / "store",
        "random-00000000",
        "tiles",
        region_um=REGION_UM,
        dims=dict.fromkeys(MPPS, dim),
        settings={"encoder": "random"},
        encoder_digests=dict.fromkeys(MPPS, "random"),
        tile_px=224,
        dtype="float16",
    )
    rng = np.random.default_rng(0)
    own = np.arange(n_regions, dtype=np.int32)
    xy_um = np.stack([own % 50, own // 50], axis=1).astype(np.float64) * REGION_UM
    labels = []
    for number in range(n_slides):
        slide, positive = f"slide-{number:05d}", number % 2 == 0
        # Magnifications of a region have a part in common, as those of one tissue have, and each its own.
        common = rng.standard_normal((n_regions, dim), dtype=np.float32)
        common[:, 0] += 0.1 * positive
        features = {
            mpp: (common + rng.standard_normal((n_regions, dim), dtype=np.float32)).astype(np.float16) for mpp in MPPS
        }
        write_tokens(
            path,
            SlideTokens(
                slide=slide,
                region_um=REGION_UM,
                slide_mpp=0.25,
                region_xy_um=xy_um,
                features=features,
                region=dict.fromkeys(MPPS, own),
                center_um=dict.fromkeys(MPPS, np.zeros((n_regions, 2), np.float32)),
            ),
        )
        labels.append((slide, "tumour" if positive else "normal"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "label"), *labels])


if __name__ == "__main__":
    main()
