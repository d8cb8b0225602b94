"""The page of a daemon: what its snapshot says, and nothing that could change anything.

It answers GET and HEAD. It loads nothing from elsewhere: its policy forbids all but the
styles and the script that carry this answer's own nonce.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedit_secure.watch import view
from fedit_secure.watch.hosts import OwnHosts
from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.snapshot import Snapshot, to_json

_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_NOTHING = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_app(
    snapshot: Callable[[], Snapshot], metrics: Metrics, names: Sequence[str]
) -> Starlette:
    """`/`, its `/live` part, `/snapshot.json`, `/metrics` and `/healthz`; `names` as in
    `OwnHosts`."""
    metrics.follow(snapshot)
    environment = Environment(
        loader=PackageLoader("fedit_secure.watch", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= view.FILTERS
    whole = environment.get_template("page.html.j2")
    live = environment.get_template("live.html.j2")

    async def page(_: Request) -> Response:
        nonce = secrets.token_urlsafe(18)
        html = whole.render(nonce=nonce, **view.shown(snapshot()))
        policy = (
            f"{_NOTHING}; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:"
        )
        return HTMLResponse(html, headers={"content-security-policy": policy})

    async def part(_: Request) -> Response:
        return HTMLResponse(live.render(**view.shown(snapshot())))

    async def as_json(_: Request) -> Response:
        return Response(to_json(snapshot()), media_type="application/json")

    async def exposed(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        content, kind = metrics.exposition(accept)
        return Response(content, headers={"content-type": kind})

    async def healthy(_: Request) -> Response:
        # It is the daemon's own event loop that answers.
        state = snapshot().daemon.state
        return PlainTextResponse(f"{state}\n", 200 if state == "running" else 503)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/live", part),
            Route("/snapshot.json", as_json),
            Route("/metrics", exposed),
            Route("/healthz", healthy),
        ],
        middleware=[Middleware(_Headers), Middleware(OwnHosts, names=names)],
    )


class _Headers:
    """The headers that every answer carries, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                has = {name for name, _ in message["headers"]}
                wanted = {"content-security-policy": _NOTHING, **_HEADERS}
                message["headers"] += [
                    (name.encode(), value.encode())
                    for name, value in wanted.items()
                    if name.encode() not in has
                ]
            await send(message)

        await self._app(scope, receive, with_headers)
