"""What becomes of damaged slides and damaged stores: counts of right, absent, refused and wrong answers.

Run: python benchmarks/malformed.py [--seed 0] [--each 25] [--only WORD] [--side 1500 1132] [--slide FILE ...]
Small slides of many encodings (and the named ones) are damaged in one place each, put in folders of a hundred
and embedded by the command line, as a user would. The tile encoder averages blocks of 16 x 16 pixels, so that any
change of a pixel shows; every row is compared with the row that the whole slide has at the same place. A row that
differs is *wrong*. Damages whose data every decoder of the format accepts (asked directly, tile by tile, with the
strictest settings) are counted apart: no reader can notice these. A changed header may describe another slide that
makes sense; where the rows then differ, the slide is counted as *another*. The exit status is 1 where a bar is missed:
a traceback, a hang, a batch that ended, a peak above 1 GiB, or a wrong row that a decoder could have noticed.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import psutil
import simplejpeg
import tifffile

from parfocal.errors import ParfocalError
from parfocal.store import open_set

MPPS = (1.0, 0.5)
REGION_UM = 112.0
TILE_PX = 112
MOST_BYTES = 1 << 30
SILENCE_SECONDS = 120.0
READ_SECONDS = 60.0
OUTCOMES = ("right", "absent", "refused", "another", "accepted", "WRONG")
ENCODER_SPEC = f"python:blocks:encode,tile_px={TILE_PX}"
ENCODER = """
import numpy as np
def encode(tiles):
    blocks = tiles.reshape(len(tiles), 7, 16, 7, 16, 3).astype(np.float32).mean(axis=(2, 4))
    return blocks.reshape(len(tiles), -1)
"""


Rows = dict[tuple[float, int, int], bytes]
"""Each row by its magnification and the place of its tile."""


@dataclass(frozen=True)
class Base:
    """A whole slide, and what its rows are by place."""

    name: str
    data: bytes
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    compression: int
    header: tuple[int, ...]
    """Places of bytes that are no tile data."""


@dataclass(frozen=True)
class Damage:
    """A damaged slide: its bytes, and the tiles of level 0 that changed (None: the header)."""

    data: bytes
    tiles: tuple[int, ...] | None


@dataclass(frozen=True)
class Damaged:
    """A damaged slide, the kind of its damage and what it was before."""

    kind: str
    base: Base
    damage: Damage


@dataclass
class Run:
    """What went wrong beside the rows, and the memory of the largest process."""

    faults: list[str] = field(default_factory=list)
    peak: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=25, help="damages of each kind to each slide")
    parser.add_argument("--only", default="", help="kinds and slides whose names hold this")
    parser.add_argument("--side", type=int, nargs=2, default=(1500, 1132), help="width and height of slides, in pixels")
    parser.add_argument("--slide", type=Path, nargs="*", default=[], help="real slides, damaged as well")
    parser.add_argument("--keep", type=Path, help="a folder for slides whose outcome misses a bar")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    started = time.monotonic()
    run = Run()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "blocks.py").write_text(ENCODER)
        bases = [*made_slides(folder, rng, *arguments.side), *(base_of(path.name, path) for path in arguments.slide)]
        chosen = [
            (kind, base)
            for kind in KINDS
            for base in bases
            if arguments.only in f"{kind} / {base.name}"
            for _ in range(arguments.each)
        ]
        # One at a time, in the order of the draws: all of them would fill gigabytes.
        whole = rows_of_whole(folder, {base.name: base for _, base in chosen})
        made = (Damaged(kind, base, KINDS[kind](base, rng)) for kind, base in chosen)
        outcomes = damaged_slides(folder, made, len(chosen), whole, run, arguments.keep)
        kinds = [kind for kind in STORE_KINDS if arguments.only in kind]
        if kinds:
            outcomes += damaged_stores(folder, bases[0], kinds, arguments.each * 4, rng, run)
    total = Counter(outcome for *_, outcome in outcomes)
    print(table(outcomes, 0))
    print(table([one for one in outcomes if not one[0].startswith("store")], 1))
    print(f"{len(outcomes)} damages in {time.monotonic() - started:.0f} s, seed {arguments.seed}; ", end="")
    print(f"largest process {run.peak / 2**20:.0f} MiB; faults of a run: {len(run.faults)}")
    print("\n".join(run.faults))
    return int(bool(total["WRONG"] or run.faults))


def table(outcomes: list[tuple[str, str, str]], by: int) -> str:
    """Counts of outcomes by kind of damage (0) or by encoding (1), as Markdown."""
    lines = [f"| {('damage', 'encoding')[by]} | " + " | ".join(OUTCOMES) + " |", "|---" * (len(OUTCOMES) + 1) + "|"]
    for name in dict.fromkeys(one[by] for one in outcomes):
        counts = Counter(one[2] for one in outcomes if one[by] == name)
        lines.append(f"| {name} | " + " | ".join(str(counts[outcome]) for outcome in OUTCOMES) + " |")
    return "\n".join(lines) + "\n"


# Slides


def made_slides(folder: Path, rng: np.random.Generator, width: int, height: int) -> Iterator[Base]:
    """Drawn tissue in the encodings that slides have."""
    pixels = tissue(rng, width, height)
    ways: dict[str, dict[str, Any]] = {
        "JPEG": {"compression": "jpeg", "compressionargs": {"level": 85}, "photometric": "ycbcr"},
        "JPEG, RGB": {"compression": "jpeg", "compressionargs": {"level": 85, "outcolorspace": "rgb"}},
        "JPEG 2000": {"compression": "aperio_jp2000_rgb", "compressionargs": {"level": 60}},
        "deflate": {"compression": "zlib"},
        "LZW": {"compression": "lzw"},
        "plain": {},
    }
    for name, way in ways.items():
        path = folder / f"{name}.tif"
        with tifffile.TiffWriter(path) as tiff:
            for level in range(2):
                size = (width // 4**level, height // 4**level)
                shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
                per_cm = 20_000 / 4**level
                tiff.write(
                    shrunk,
                    tile=(256, 256),
                    subfiletype=level and 1,
                    metadata=None,
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    **({"photometric": "rgb"} | way),
                )
        yield base_of(name, path)
        path.unlink()


def tissue(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Stained blobs on glass, uint8 (y, x, 3), its level-0 tiles partly glass."""
    y, x = np.mgrid[:height, :width]
    inside = (x / width - 0.45) ** 2 + (y / height - 0.5) ** 2 < 0.15
    grain = rng.normal(0, 12, (height, width, 3)) + 25 * np.sin(x / 7.0)[..., None] * np.cos(y / 9.0)[..., None]
    stained = np.array([190.0, 120.0, 180.0]) + grain
    pixels = np.where(inside[..., None], stained, 243 + rng.normal(0, 1, (height, width, 3)))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def base_of(name: str, path: Path) -> Base:
    """A slide with the places of its tiles."""
    data = path.read_bytes()
    is_tile = np.zeros(len(data), bool)
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                is_tile[offset : offset + size] = True
        first = tiff.pages.first
        offsets, sizes, compression = first.dataoffsets, first.databytecounts, int(first.compression)
    return Base(name, data, tuple(offsets), tuple(sizes), compression, tuple(np.flatnonzero(~is_tile).tolist()))


# Damages


def overwritten(base: Base, place: int, new: bytes) -> Damage:
    """`new` over the bytes at `place`."""
    data = bytearray(base.data)
    data[place : place + len(new)] = new
    spans = zip(base.offsets, base.sizes, strict=True)
    hit = [n for n, (at, size) in enumerate(spans) if at < place + len(new) and place < at + size]
    return Damage(bytes(data), tuple(hit))


def in_a_tile(base: Base, rng: np.random.Generator, length: int = 1) -> int:
    """A place inside the data of some tile of level 0, with `length` bytes after it where there is room."""
    tile = int(rng.integers(len(base.offsets)))
    return base.offsets[tile] + int(rng.integers(max(base.sizes[tile] - length, 1)))


def zeroed_sector(base: Base, rng: np.random.Generator) -> Damage:
    return overwritten(base, in_a_tile(base, rng) // 4096 * 4096, bytes(4096))


def zeroed_64(base: Base, rng: np.random.Generator) -> Damage:
    return overwritten(base, in_a_tile(base, rng, 64), bytes(64))


def random_512(base: Base, rng: np.random.Generator) -> Damage:
    return overwritten(base, in_a_tile(base, rng, 512), rng.bytes(512))


def one_byte(base: Base, rng: np.random.Generator) -> Damage:
    return overwritten(base, in_a_tile(base, rng), rng.bytes(1))


def cut_off(base: Base, rng: np.random.Generator) -> Damage:
    end = int(rng.integers(200, len(base.data)))
    spans = zip(base.offsets, base.sizes, strict=True)
    return Damage(base.data[:end], tuple(n for n, (at, size) in enumerate(spans) if at + size > end))


def header_byte(base: Base, rng: np.random.Generator) -> Damage:
    data = bytearray(base.data)
    data[int(rng.choice(base.header))] = int(rng.integers(256))
    return Damage(bytes(data), None)


def header_64(base: Base, rng: np.random.Generator) -> Damage:
    data = bytearray(base.data)
    place = int(rng.choice(base.header))
    data[place : place + 64] = bytes(64)
    return Damage(bytes(data), None)


def changed_tag(base: Base, rng: np.random.Generator) -> Damage:
    """Another value in some tag of the first page: a size, an offset, a count, a code."""
    with tempfile.NamedTemporaryFile(suffix=".tif") as file:
        file.write(base.data)
        file.flush()
        with tifffile.TiffFile(file.name) as tiff:
            tags = list(tiff.pages.first.tags)
            tag = tags[int(rng.integers(len(tags)))]
            place, order = tag.offset, tiff.byteorder
    data = bytearray(base.data)
    field_at = place + int(rng.choice([0, 2, 4, 8]))  # code, type, count, value
    value = int(rng.choice([0, 1, 2, 3, 255, 256, 65535, int(rng.integers(65536))]))
    data[field_at : field_at + 2] = value.to_bytes(2, "little" if order == "<" else "big")
    return Damage(bytes(data), None)


def changed_size(base: Base, rng: np.random.Generator) -> Damage:
    """The byte count of one tile of level 0 is 0, halved, doubled or huge; or its offset lies beyond the end."""
    tile = int(rng.integers(len(base.offsets)))
    how = int(rng.integers(5))
    old = base.offsets[tile] if how == 4 else base.sizes[tile]
    new = {0: 0, 1: old // 2, 2: old * 2, 3: 0x7FFFFFF0, 4: len(base.data) + 1000}[how]
    for width in (4, 8, 2):
        if max(old, new) >= 256**width:
            continue
        place = next((at for at in base.header if base.data[at : at + width] == old.to_bytes(width, "little")), None)
        if place is not None:
            data = bytearray(base.data)
            data[place : place + width] = new.to_bytes(width, "little")
            return Damage(bytes(data), None)
    return header_byte(base, rng)


KINDS: dict[str, Callable[[Base, np.random.Generator], Damage]] = {
    "tile data: a 4-KiB sector of zeros": zeroed_sector,
    "tile data: 64 zeros": zeroed_64,
    "tile data: 512 random bytes": random_512,
    "tile data: one other byte": one_byte,
    "the file ends early": cut_off,
    "header: one other byte": header_byte,
    "header: 64 zeros": header_64,
    "header: another value in a tag": changed_tag,
    "header: the size or place of a tile": changed_size,
}


def can_be_noticed(base: Base, damage: Damage, tile: int) -> bool:
    """Whether the strictest decoder of the format refuses the damaged data of a tile."""
    place, size = base.offsets[tile], base.sizes[tile]
    data = damage.data[place : place + size]
    if len(data) < size:
        return True
    try:
        if base.compression == 7:
            simplejpeg.decode_jpeg(data, strict=True)
        elif base.compression in {33003, 33005, 33004, 34712}:
            imagecodecs.jpeg2k_decode(data)
        elif base.compression in {8, 32946}:
            imagecodecs.zlib_decode(data)
        elif base.compression == 5:
            imagecodecs.lzw_decode(data)
    except Exception:  # any word of a decoder is a refusal
        return True
    return False


# Runs


def damaged_slides(
    folder: Path, made: Iterator[Damaged], number: int, whole: dict[str, Rows], run: Run, keep: Path | None
) -> list[tuple[str, str, str]]:
    """Embed damaged slides in batches of a hundred, and compare every row: kind, encoding and outcome of each."""
    outcomes = []
    while batch := {f"{at:05d}": one for at, one in enumerate(islice(made, 100), len(outcomes))}:
        slides, store = folder / "slides", folder / "store"
        slides.mkdir()
        for name, one in batch.items():
            (slides / f"{name}.tif").write_bytes(one.damage.data)
        before = len(run.faults)
        said = embed(folder, slides, store, run)
        for name, one in batch.items():
            outcome = judge(store, name, one, said.get(name), whole[one.base.name])
            outcomes.append((one.kind, one.base.name, outcome))
            if keep is not None and (outcome == "WRONG" or len(run.faults) > before):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name} {one.kind} {one.base.name} {outcome}.tif").write_bytes(one.damage.data)
        for path in (slides, store):
            shutil.rmtree(path, ignore_errors=True)
        print(f"{len(outcomes)} of {number} slides", file=sys.stderr, flush=True)
    return outcomes


def embed(folder: Path, slides: Path, store: Path, run: Run, *more: str) -> dict[str, dict[str, Any]]:
    """What the command says of each slide."""
    # fmt: off
    command = [
        sys.executable, "-m", "parfocal", "embed", str(slides), "-o", str(store), "--encoder", ENCODER_SPEC,
        "--mpps", *map(str, MPPS), "--region-um", str(REGION_UM), "--tile-px", str(TILE_PX), "--dtype", "float32",
        "--max-absent", "1", "--json", *more,
    ]
    # fmt: on
    status, out, err = watched(command, folder, run)
    if "Traceback" in err or "Traceback" in out:
        run.faults.append("a traceback was shown")
    try:
        said = {one["slide"]: one for one in json.loads(out)["slides"]}
    except (ValueError, KeyError):
        run.faults.append(f"the batch ended without an answer (status {status}): {err.strip()[-300:]}")
        return {}
    expected = sum(1 for _ in slides.iterdir())
    if len(said) != expected or status not in {0, 1, 3}:
        run.faults.append(f"{len(said)} of {expected} slides were told of (status {status})")
    return said


def watched(command: list[str], folder: Path, run: Run) -> tuple[int, str, str]:
    """Run a command; look at the memory of it and its children, and end it where it says nothing for two minutes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        mine = psutil.Process(process.pid)
        heard, before = time.monotonic(), -1.0
        while process.poll() is None:
            busy = 0.0
            for one in [mine, *children_of(mine)]:
                try:
                    peak = one.memory_info().rss
                    busy += sum(one.cpu_times()[:2])
                except psutil.Error:
                    continue
                if peak > run.peak:
                    if run.peak <= MOST_BYTES < peak:
                        run.faults.append(f"a process took {peak / 2**20:.0f} MiB")
                    run.peak = peak
            written = (folder / "err").stat().st_size
            if written != before:
                heard, before = time.monotonic(), written
            if time.monotonic() - heard > SILENCE_SECONDS:
                run.faults.append(f"nothing was said for {SILENCE_SECONDS:.0f} s, after {busy:.0f} s of computing")
                for one in [*children_of(mine), mine]:
                    one.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        for file in (out, err):
            file.seek(0)
        return process.returncode, out.read(), err.read()


def children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def rows_of_whole(folder: Path, bases: dict[str, Base]) -> dict[str, Rows]:
    """The rows of the undamaged slides by name."""
    slides, store = folder / "whole", folder / "whole-store"
    slides.mkdir()
    files = {f"{number:03d}": name for number, name in enumerate(bases)}
    for file, name in files.items():
        (slides / f"{file}.tif").write_bytes(bases[name].data)
    said = embed(folder, slides, store, Run(), "--workers", "0") if files else {}
    for file, name in files.items():
        if said[file]["status"] != "done":
            raise SystemExit(f"the whole slide {name} is not embedded: {said[file]}")
    rows = {name: rows_of(store, file) for file, name in files.items()}
    for path in (slides, store):
        shutil.rmtree(path, ignore_errors=True)
    return rows


def rows_of(store: Path, slide: str) -> Rows:
    """Each row by its magnification and the place of its tile."""
    tokens = open_set(store).read(slide)
    rows: Rows = {}
    for mpp in tokens.mpps:
        places = tokens.region_xy_um[tokens.region[mpp]] + tokens.center_um[mpp]
        for (x, y), row in zip(np.round(places).astype(int).tolist(), tokens.features[mpp], strict=True):
            rows[mpp, x, y] = row.tobytes()
    return rows


def judge(store: Path, slide: str, one: Damaged, said: dict[str, Any] | None, whole: Rows) -> str:
    """The outcome of one damaged slide."""
    tiles = one.damage.tiles
    if said is None:
        return "WRONG"
    if said["status"] == "failed":
        return "refused"
    if "no tissue" in said["status"]:
        return "refused" if tiles is None else "WRONG"
    rows = rows_of(store, slide)
    if any(whole.get(place) != row for place, row in rows.items()):
        if tiles is None:
            return "another"
        return "WRONG" if all(can_be_noticed(one.base, one.damage, tile) for tile in tiles) else "accepted"
    if len(rows) < len(whole):
        # More may be told than are missing: where a damaged coarse level hides the tissue, more tiles are tried.
        told = sum(said.get("absent", {}).values()) >= len(whole) - len(rows)
        return "absent" if told else "another" if tiles is None else "WRONG"
    return "right"


# Stores


def other_byte(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    return bytes(changed)


def other_sector(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data))) // 512 * 512
    return data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :]


def shorter(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


STORE_KINDS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "store: one other byte in a file": other_byte,
    "store: 512 zeros in a file": other_sector,
    "store: a file ends early": shorter,
}


def damaged_stores(
    folder: Path, base: Base, kinds: list[str], number: int, rng: np.random.Generator, run: Run
) -> list[tuple[str, str, str]]:
    """Read a slide back from a store of which one file, features or index, was damaged."""
    slides, store = folder / "slides", folder / "store"
    slides.mkdir()
    (slides / "whole.tif").write_bytes(base.data)
    embed(folder, slides, store, run, "--workers", "0")
    whole = read_apart(store)
    files = sorted(store.rglob("whole.h5"))
    outcomes = []
    for kind in (kind for kind in kinds for _ in range(number)):
        file = files[int(rng.integers(len(files)))]
        good = file.read_bytes()
        file.write_bytes(STORE_KINDS[kind](good, rng))
        answer = read_apart(store)
        if answer is None:
            run.faults.append(f"{kind}: HDF5 read one file for {READ_SECONDS:.0f} s without an end")
        elif answer.startswith("fault"):
            run.faults.append(f"{kind}: {answer}")
        outcome = "right" if answer == whole else "refused" if answer == "refused" else "WRONG"
        outcomes.append((kind, base.name, outcome))
        file.write_bytes(good)
    shutil.rmtree(slides)
    shutil.rmtree(store)
    return outcomes


def read_apart(store: Path) -> str | None:
    """What `read_here` says in a process of its own; None where it did not end."""
    context = multiprocessing.get_context("fork")  # the imports cost more than the reading
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(read_here(store)))
    process.start()
    sender.close()
    try:
        return str(receiver.recv()) if receiver.poll(READ_SECONDS) else None
    except EOFError:
        return "fault: the process died"
    finally:
        process.kill()
        process.join()


def read_here(store: Path) -> str:
    """A digest of the rows of the slide, `refused`, or `fault` with what a user would meet as a traceback."""
    try:
        return hashlib.sha256(repr(sorted(rows_of(store, "whole").items())).encode()).hexdigest()
    except ParfocalError:
        return "refused"
    except Exception as error:  # whatever it is, it is a fault
        return f"fault: {type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main())
