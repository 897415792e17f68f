"""How many bytes of a slide come over the network, beside the size of its file.

    python benchmarks/remote.py SLIDE [--slide-mpp 0.5]

A web server on this machine sends ranges of the file's bytes and counts them. Each line begins with a fresh connection
and an empty cache: to open the slide; its tissue mask alone; one region of the middle of the tissue at 5x, 10x and 20x;
and all of its regions, which is what `embed` reads. Bytes and requests do not depend on the machine.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from parfocal.config import GridConfig
from parfocal.embed import EmbedSettings, embed_slides
from parfocal.regions import find_tissue, plan_regions
from parfocal.regions.tiles import iter_tiles
from parfocal.slides import Slide, open_slide


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a file, and the length of every range that was sent of it."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(200, 0, path.stat().st_size)

        def do_GET(self) -> None:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            end = min(int(last) + 1, path.stat().st_size)
            self.answer(206, int(first), end)
            with path.open("rb") as file:
                file.seek(int(first))
                self.wfile.write(file.read(end - int(first)))
            sent.append(end - int(first))

        def answer(self, status: int, start: int, end: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{path.stat().st_size}")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{path.name}", sent
    finally:
        server.shutdown()


def one_region(path: Path, slide: Slide, grid: GridConfig) -> None:
    """Read the middle one of a plan; the plan is made of the local file, so that only the region is counted."""
    with open_slide(path, slide_mpp=slide.mpp) as local:
        plan = plan_regions(local, grid)
    middle = slice(plan.n_regions // 2, plan.n_regions // 2 + 1)
    kept = {mpp: mask[middle] for mpp, mask in plan.kept.items()}
    part = replace(plan, lattice=plan.lattice[middle], kept=kept, tissue_share=plan.tissue_share[middle])
    assert sum(1 for _ in iter_tiles(slide, part)) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--slide-mpp", type=float, default=None)
    given = parser.parse_args()
    size, grid = given.slide.stat().st_size, GridConfig()

    def opened(work: Callable[[Slide], object]) -> Callable[[str], None]:
        def do(address: str) -> None:
            with open_slide(address, slide_mpp=given.slide_mpp) as slide:
                work(slide)

        return do

    def embed(address: str) -> None:
        with tempfile.TemporaryDirectory() as store:
            embed_slides([address], Path(store), EmbedSettings(encoder="filterbank", slide_mpp=given.slide_mpp))

    tasks = {
        "open": opened(lambda slide: None),
        "tissue mask": opened(lambda slide: find_tissue(slide, grid.tissue)),
        "one region": opened(lambda slide: one_region(given.slide, slide, grid)),
        "embed": embed,
    }
    print(f"{given.slide.name}: {size / 1e6:.2f} MB")
    print("| what | requests | MB | share of the file |\n|---|---|---|---|")
    for name, task in tasks.items():
        with serving(given.slide) as (address, sent):
            task(address)
        print(f"| {name} | {len(sent)} | {sum(sent) / 1e6:.2f} | {sum(sent) / size:.1%} |", flush=True)


if __name__ == "__main__":
    main()
