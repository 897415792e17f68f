"""The addresses of the viewer: numbers, and a fixed list of files."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from parfocal.errors import ParfocalError
from parfocal.geometry import Box
from parfocal.run.failures import Failed
from parfocal.run.jobs import attempt
from parfocal.terminal import tell
from parfocal.view.guard import Guard, problem
from parfocal.view.plain import as_json
from parfocal.view.viewed import NothingThereError
from parfocal.view.viewer import Viewer

_PAGE = Path(__file__).with_name("page")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_DIGITS = 9  # no number of a slide, a region or a tile is longer
_PICTURE_THREADS, _QUICK_THREADS, _SLOW_THREADS = 2, 4, 8
_FRESH, _KEPT = {"cache-control": "no-store"}, {"cache-control": "private, max-age=3600"}

_Answer = Callable[[Request], Response]


def make_app(viewer: Viewer, token: str) -> ASGIApp:
    """The viewer as an application whose every address begins with a token.

    Pictures have threads of their own, so that none waits for what is computed; so has what is known at once.
    """
    pictures = ThreadPoolExecutor(_PICTURE_THREADS, thread_name_prefix="pictures")
    quick = ThreadPoolExecutor(_QUICK_THREADS, thread_name_prefix="quick")
    slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="slow")
    files = {file.name: file for file in sorted(_PAGE.iterdir()) if file.suffix in _KINDS}

    def page(ask: Request) -> Response:
        file = files.get(ask.path_params.get("file", "index.html"))
        if file is None:
            raise NothingThereError("the page has no such file.")
        return Response(file.read_bytes(), headers=_FRESH, media_type=_KINDS[file.suffix])

    def tile(ask: Request) -> Response:
        place = [_place(ask, name) for name in ("slide", "level", "column", "row")]
        return _picture(viewer.tile(*place))

    def crop(ask: Request) -> Response:
        x, y, side = (_real(ask, name) for name in ("x_um", "y_um", "side_um"))
        return _picture(viewer.crop(_place(ask, "slide"), Box(x, y, side, side), _count(ask, "px", 256)))

    def overlay(ask: Request) -> Any:
        region = _count(ask, "region", 0) if "region" in ask.query_params else None
        return viewer.overlay(_place(ask, "slide"), ask.path_params["key"], region)

    def similar(ask: Request) -> Any:
        return viewer.similar(_place(ask, "slide"), _place(ask, "region"), _count(ask, "k", 12))

    slide = "/api/slides/{slide}"
    known: dict[str, Callable[[Request], Any]] = {
        "/api/store": lambda ask: viewer.store(),
        "/api/slides": lambda ask: viewer.slides(),
        "/api/slides/news": lambda ask: viewer.news(_count(ask, "after", 0)),
        slide: lambda ask: viewer.slide(_place(ask, "slide")),
        f"{slide}/regions": lambda ask: viewer.regions(_place(ask, "slide")),
        "/api/directions": lambda ask: viewer.directions(),
        "/api/directions/{direction}": lambda ask: viewer.direction(_place(ask, "direction")),
    }
    computed: dict[str, Callable[[Request], Any]] = {
        f"{slide}/explanation": lambda ask: viewer.explanation(_place(ask, "slide")),
        f"{slide}/overlays/{{key}}": overlay,
        f"{slide}/regions/{{region}}": lambda ask: viewer.region(_place(ask, "slide"), _place(ask, "region")),
        f"{slide}/regions/{{region}}/similar": similar,
    }
    routes = [
        Route("/", _by(page, quick)),
        Route("/page/{file}", _by(page, quick)),
        *(Route(path, _by(partial(_as_json, answer), quick)) for path, answer in known.items()),
        *(Route(path, _by(partial(_as_json, answer), slow)) for path, answer in computed.items()),
        Route("/slides/{slide}/tiles/{level}/{column}_{row}.jpg", _by(tile, pictures)),
        Route("/slides/{slide}/crop.jpg", _by(crop, pictures)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _no_address}), token)


def _by(answer: _Answer, threads: Executor) -> Callable[[Request], Awaitable[Response]]:
    """An address that is answered by some threads; whatever goes wrong is one line."""

    async def endpoint(ask: Request) -> Response:
        job = partial(attempt, partial(answer, ask), passing=(ParfocalError,))
        try:
            found = await asyncio.get_running_loop().run_in_executor(threads, job)
        except ParfocalError as error:
            return problem(404 if isinstance(error, NothingThereError) else 422, " ".join(str(error).split()))
        if isinstance(found, Failed):
            tell(f"parfocal view: {ask.url.path}: {found}")
            return problem(500, f"{found} (a fault of parfocal)")
        return found

    return endpoint


def _as_json(answer: Callable[[Request], Any], ask: Request) -> Response:
    return Response(as_json(answer(ask)), headers=_FRESH, media_type="application/json")


def _picture(jpeg: bytes) -> Response:
    return Response(jpeg, headers=_KEPT, media_type="image/jpeg")


async def _no_address(ask: Request, error: Exception) -> Response:
    return problem(404, "there is nothing at this address.")


def _place(ask: Request, name: str) -> int:
    """A number in an address."""
    return _whole(name, ask.path_params[name])


def _count(ask: Request, name: str, default: int) -> int:
    return _whole(name, ask.query_params.get(name, str(default)))


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise NothingThereError(f"{name} is a whole number from 0, and {text[:40]!r} is asked.")
    return int(text)


def _real(ask: Request, name: str) -> float:
    text = ask.query_params.get(name, "")
    try:
        return float(text)
    except ValueError:
        raise NothingThereError(f"{name} is a number of micrometres, and {text[:40]!r} is asked.") from None
