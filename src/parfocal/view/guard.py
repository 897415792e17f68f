"""Who may ask the viewer: a browser of this machine that knows the token, and only to read."""

import re
import secrets

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parfocal.view.plain import as_json

_HOSTS = {"127.0.0.1", "localhost"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Lets a request pass that names this machine and the token and only reads; every answer gets the same headers.

    The name is looked at so that no page of another site reaches the viewer under a name of its own that leads here
    (DNS rebinding). The port is not: behind `ssh -L` the browser knows another one.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Stand before an application.

        Args:
            app: sees addresses without the token.
            token: what every address begins with.
        """
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        path = "/" + scope["path"].split("/", 2)[2]
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or re.sub(r":[0-9]{1,5}$", "", hosts[0]) not in _HOSTS:
            return problem(421, "this viewer answers to the names 127.0.0.1 and localhost alone.")
        if scope["method"] not in {"GET", "HEAD"}:
            return problem(405, "this viewer only shows: it answers GET and HEAD.")
        first = scope["path"].split("/")[1:]
        if len(first) < 2 or not secrets.compare_digest(first[0].encode("utf-8", "replace"), self._token.encode()):
            return problem(404, "there is nothing here. Open the address that `parfocal view` has printed.")
        return None


def problem(status: int, line: str) -> Response:
    """Why there is no answer, in one line."""
    return Response(as_json({"error": line}), status, {"cache-control": "no-store"}, "application/json")
