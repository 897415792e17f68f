"""Small stores with known rows, their slides with known pixels, and an application that is asked without a network."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.geometry import lattice_um
from parfocal.lab.synthetic.rendered import write_pyramid
from parfocal.store import EmbeddingSet, SlideOrigin, SlideTokens, SlideWriter, create_set, open_set, write_tokens
from parfocal.store.layout import COARSER

REGION_UM, TILE_PX, MPPS, DIM = 56.0, 28, (2.0, 0.5), 5
TOKEN = "a-token"


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Pixels that JPEG keeps: a smooth ramp of three colours, another one for each seed."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([40 + 180 * x, 60 + 150 * y, 90 + 40 * seed + 60 * x * y], axis=-1).astype(np.uint8)


def write_slide(path: Path, width: int, height: int, n_levels: int, seed: int = 0) -> np.ndarray:
    """A slide of 0.5 mpp; its pixels come back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(width, height, seed)
    write_pyramid(path, pixels, mpp=0.5, n_levels=n_levels)
    return pixels


def tokens(
    slide: str, xy_um: Sequence[tuple[float, float]], seed: int = 0, left_out: tuple[int, ...] = ()
) -> SlideTokens:
    """A slide with every tile of its regions, but none at 0.5 mpp of the regions that are left out."""
    rng, region, centers, features = np.random.default_rng(seed), {}, {}, {}
    for mpp, per_side in zip(MPPS, (1, 4), strict=True):
        kept = [number for number in range(len(xy_um)) if mpp != min(MPPS) or number not in left_out]
        lattice = lattice_um(REGION_UM, per_side)
        region[mpp] = np.repeat(kept, len(lattice)).astype(np.int32)
        centers[mpp] = np.tile(lattice, (len(kept), 1)).astype(np.float32)
        features[mpp] = rng.normal(size=(len(region[mpp]), DIM)).astype(np.float32)
    return SlideTokens(slide, REGION_UM, 0.5, np.array(xy_um, np.float64), features, region, centers)


def empty_set(store: Path, name: str = "small-1") -> Path:
    """A set of tiles without a slide."""
    return create_set(
        store,
        name,
        "tiles",
        region_um=REGION_UM,
        dims=dict.fromkeys(MPPS, DIM),
        settings={"encoder": "small"},
        encoder_digests=dict.fromkeys(MPPS, "11111111"),
        tile_px=TILE_PX,
        dtype="float32",
    )


def write_store(
    store: Path, slides: Sequence[SlideTokens], files: dict[str, tuple[Path, tuple[int, int]]]
) -> EmbeddingSet:
    """A store of some slides; of those with a file it says where that is and how large the slide was."""
    folder = empty_set(store)
    for one in slides:
        path, size = files.get(one.slide, (None, (0, 0)))
        write_tokens(folder, one, origin=SlideOrigin(path=None if path is None else str(path), size_l0px=size))
    return open_set(store)


def write_part(folder: Path, one: SlideTokens, unread: Sequence[int], coarser: Sequence[int] = ()) -> None:
    """Write a slide into a set as one of whose finest tiles some were not read, and some of the next coarser ones."""
    left_out = dict(zip(one.mpps[-2:], (np.array(coarser, int), np.array(unread, int)), strict=True))
    coarse, fine = (1 - len(rows) / len(one.region[mpp]) for mpp, rows in left_out.items())
    reading = {"zoom_policy": "stride", "zoom_budget": fine, "zoom_seed": 0}
    if coarse < 1:
        reading[COARSER] = np.array([coarse])
    with SlideWriter(folder, one.places, origin=SlideOrigin(reading=reading)) as writer:
        writer.leave_out({}, {mpp: rows for mpp, rows in left_out.items() if len(rows)})
        for mpp in one.mpps:
            writer.append(mpp, np.delete(one.features[mpp], left_out.get(mpp, np.zeros(0, int)), axis=0))


def ask(
    app: Any, path: str, *, method: str = "GET", host: str = "127.0.0.1:1234", query: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body that an application answers; the path is as it is after decoding."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", host.encode())], "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 1234),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    head, *body = sent
    headers = {name.decode(): value.decode() for name, value in head["headers"]}
    return head["status"], headers, b"".join(part.get("body", b"") for part in body)


def read(app: Any, path: str, query: str = "") -> Any:
    """What an address of the viewer says, which must be there."""
    status, _, body = ask(app, f"/{TOKEN}{path}", query=query)
    assert status == 200, body
    return json.loads(body)


def refused(app: Any, path: str, query: str = "") -> str:
    """The line with which an address is refused; not as a fault of ours."""
    status, _, body = ask(app, f"/{TOKEN}{path}", query=query)
    assert 400 <= status < 500, (status, body)
    return str(json.loads(body)["error"])
