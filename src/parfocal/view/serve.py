"""The viewer as a program: on this machine alone, at an address that nobody can guess, until it is stopped."""

import errno
import os
import secrets
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn

from parfocal.errors import ConfigError, MismatchError, StoreError
from parfocal.similar import RegionSearch
from parfocal.similar.run import regions_of
from parfocal.store import Source, open_sets
from parfocal.view.app import make_app
from parfocal.view.viewed import viewed_set
from parfocal.view.viewer import Viewer

_HERE = "127.0.0.1"


@contextmanager
def open_viewer(
    source: Source,
    *,
    set_name: str | None = None,
    head: Path | None = None,
    regions: Source | None = None,
    slides: Sequence[Path] = (),
) -> Iterator[Viewer]:
    """A store as a page looks at it; nothing is written but into a folder that goes with it.

    Args:
        source: a store, or a set of it, open or by its folder.
        set_name: the set, or the beginning of its name; the only set of tiles, or the only set, where None. With a head
            it is the one that fits the head.
        head: the folder of a head that `fit` has made.
        regions: a store of region embeddings that were made of the set, by which regions are alike; the store itself,
            or else the means of tiles, where None.
        slides: where slide files are now, where that is not where they were embedded.

    Raises:
        ConfigError: there is no such set, or several are meant.
        MismatchError: the head fits no set, or no region embeddings were made of the set.
        StoreError: the store or the head cannot be read.
    """
    sets, opinions = open_sets(source), None
    with ExitStack() as stack:
        if head is not None:
            if not head.is_dir():  # said before seconds go by with the imports
                raise StoreError(f"there is no head at {head}: it is no folder. Name a folder that `fit` has written.")
            from parfocal.predict import load_head  # torch, which looking without a head does without
            from parfocal.predict.source import find_tiles
            from parfocal.view.said import HeadOpinions

            fitted, named = load_head(head), source
            if set_name is not None:
                named = viewed_set(source, set_name, ()).embeddings
            tiles = find_tiles(named, fitted.facts, head)
            set_name = tiles.name
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="parfocal-view-"))
            opinions = HeadOpinions(fitted, tiles, Path(scratch))
        viewed = viewed_set(source, set_name, slides)
        made = regions_of(viewed.embeddings, sets if regions is None else open_sets(regions))
        if made is None and regions is not None:
            raise MismatchError(
                f"{regions} holds no region embeddings that were made of {viewed.embeddings.name}. Name a store that "
                "`represent` has made of it."
            )
        search = RegionSearch(viewed.embeddings, made)
        stack.callback(search.close)
        viewer = Viewer(viewed, search, opinions)
        stack.callback(viewer.close)
        viewer.start()
        yield viewer


def view_store(
    source: Source,
    *,
    set_name: str | None = None,
    head: Path | None = None,
    regions: Source | None = None,
    slides: Sequence[Path] = (),
    port: int = 0,
    browser: bool = True,
    on_address: Callable[[str], None] = print,
) -> None:
    """Serve a page on which the slides of a store are looked at, until the program is stopped.

    Only this machine can reach it, at an address with a random token, and nothing of it can be changed from there.

    Args:
        source: see `open_viewer`.
        set_name: see `open_viewer`.
        head: see `open_viewer`.
        regions: see `open_viewer`.
        slides: see `open_viewer`.
        port: of the address; 0 takes a free one.
        browser: open the page.
        on_address: told the address.

    Raises:
        ConfigError: the port is taken, or as in `open_viewer`.
    """
    token = secrets.token_urlsafe(16)
    shown = open_viewer(source, set_name=set_name, head=head, regions=regions, slides=slides)
    with shown as viewer, _bound(port) as listener:
        address = f"http://{_HERE}:{listener.getsockname()[1]}/{token}/"
        config = uvicorn.Config(
            make_app(viewer, token),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what a stranger sends is no news for this terminal
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        on_address(address)
        if browser:
            _show(address)
        uvicorn.Server(config).run(sockets=[listener])


def _show(address: str) -> None:
    """Open a browser that has a window; one that draws into the terminal would take it from the program."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)


def _plain_reason(error: OSError) -> str:
    reasons = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "it is reserved for the system"}
    return reasons.get(error.errno or 0, (error.strerror or str(error)).lower())


@contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    # The protocol is named: without it asyncio leaves Nagle's delay on, which costs 40 ms of every answer.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HERE, port))
        except (OSError, OverflowError) as error:
            why = "ports are 0 to 65535" if isinstance(error, OverflowError) else _plain_reason(error)
            raise ConfigError(f"cannot use port {port}: {why}. Name another, or 0 for a free one.") from error
        listener.listen()  # who reads the address may use it at once
        yield listener
