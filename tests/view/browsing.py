"""A cohort in feature space with files for three of its slides, its viewer on a port here, and a browser's screen."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
import uvicorn

from parfocal.cohort import LabelColumns
from parfocal.heads import ProbeSettings
from parfocal.lab.synthetic import FeatureModel, PanelSettings, draw_cohort, write_cohort
from parfocal.predict import FitSettings, fit_head
from parfocal.store import open_set, write_tokens
from parfocal.view import Viewer, open_viewer
from parfocal.view.app import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Page

LEFT, RIGHT = (226, 178, 206), (150, 206, 178)  # the colours of the two halves of a slide
SIZE_PX = (3700, 1500)  # of a slide that has a file; its regions reach 3584 x 1344 um
MPP = 1.0
HOSTILE = "<img src=x onerror=document.title='owned'> & <b>bold"


@dataclass(frozen=True)
class Shown:
    """A viewer that is served.

    Attributes:
        address: of the page, with its token.
        slides: the folder of slide files.
        ids: of the store's slides, in the order of the list.
    """

    address: str
    slides: Path
    ids: tuple[str, ...]


@contextmanager
def show_cohort(folder: Path) -> Iterator[Shown]:
    """16 slides of 24 regions and a contrast head; the first has a name of markup, and the next three have files."""
    law = PanelSettings(n_slides=16, n_regions=24, tau=0.25, omega=20.0, product=False, model=FeatureModel(dim=32))
    drawn = draw_cohort(law)
    cohort = replace(drawn, slides=(HOSTILE, *drawn.slides[1:]))
    tiles = open_set(write_cohort(cohort, folder / "store"))
    probes = ProbeSettings(components=(6,), lifted=(), sharpen=False, inner_folds=2)
    how = FitSettings(folds=2, repeats=1, probes=probes)
    labels = folder / "store" / "labels.csv"
    fit_head([tiles], labels, "pairing", "contrast", folder / "head", how, columns=LabelColumns(group="patient"))

    slides = folder / "slides"
    slides.mkdir()
    pixels = np.empty((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    pixels[:, : SIZE_PX[0] // 2], pixels[:, SIZE_PX[0] // 2 :] = LEFT, RIGHT
    for number in (1, 2, 3):
        write_tokens(tiles.path, replace(cohort.tokens(number), slide_mpp=MPP))
        path = slides / f"{cohort.slides[number]}.tif"
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    with open_viewer(folder / "store", head=folder / "head", slides=[slides]) as viewer, _served(viewer) as address:
        yield Shown(address, slides, tuple(viewer.viewed.slides))


@contextmanager
def _served(viewer: Viewer) -> Iterator[str]:
    """The address of a viewer that another thread serves."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who connects before the thread runs is kept waiting
        app = make_app(viewer, "token")
        server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/token/"
        finally:
            server.should_exit = True
            thread.join()


def settled(page: "Page") -> None:
    page.wait_for_selector("#middle[aria-busy=false]")


def mpps(page: "Page") -> list[float]:
    """Micrometres per screen pixel of each pane, as it is drawn."""
    return [float(pane.get_attribute("data-mpp") or "nan") for pane in page.locator(".pane").all()]


def wait_for_mpps(page: "Page", wanted: list[float]) -> None:
    page.wait_for_function(
        """wanted => { const panes = [...document.querySelectorAll(".pane")];
        const near = (pane, i) => Math.abs(pane.dataset.mpp / wanted[i] - 1) < 1e-3;
        return panes.length === wanted.length && panes.every(near); }""",
        arg=wanted,
    )


def place(page: "Page") -> dict[str, str]:
    """What the address says, once it has been written."""
    page.wait_for_function("() => location.hash.includes('mpp=')")
    return dict(part.split("=", 1) for part in page.url.split("#")[1].split("&"))


def wait_for_region(page: "Page", slide: str, region: str) -> None:
    """Wait until the panel shows a region and the address names it."""
    page.wait_for_selector(f"#region h2:text-is('Region {region}')")
    page.wait_for_function(
        """([slide, region]) => { const at = new URLSearchParams(location.hash.slice(1));
        return at.get("slide") === slide && at.get("region") === region; }""",
        arg=[slide, region],
    )


def on_screen(page: "Page", x_um: float, y_um: float, pane: int = 0) -> tuple[float, float]:
    """Where a place of the slide lies on the screen, from the address and the size of the pane."""
    at, box = place(page), page.locator(".stage").nth(pane).bounding_box()
    mpp = mpps(page)[pane]
    return (
        box["x"] + box["width"] / 2 + (x_um - float(at["x"])) / mpp,
        box["y"] + box["height"] / 2 + (y_um - float(at["y"])) / mpp,
    )


def pixel(page: "Page", canvas: str, x: float, y: float) -> list[int]:
    """Red, green, blue and alpha of a canvas at a place of the screen."""
    return page.locator(canvas).first.evaluate(
        """(canvas, [x, y]) => { const box = canvas.getBoundingClientRect();
        const at = [(x - box.left), (y - box.top)].map(value => value * canvas.width / box.width);
        return [...canvas.getContext("2d").getImageData(...at, 1, 1).data]; }""",
        [x, y],
    )
