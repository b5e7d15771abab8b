"""Stands before every route: who may come in, how much they may bring, what every answer says."""

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diapir.serve.metrics import Metrics
from diapir.serve.problems import Problem, Refused, internal_error
from diapir.serve.settings import ServeSettings

_OPEN_PATHS = ("/health",)
_SMALL_BODY = 64 << 10
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"


class Guard:
    """Checks host, token and bodies, adds security headers, counts, and catches what fails.

    Starlette's own limit on bodies answers in plain text where a route does not read its body,
    and its check of hosts always does; here every error is a `Problem`.

    Args:
        app: What is guarded.
        settings: Token, hosts and sizes.
        metrics: Take what was answered.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection."""
        if scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        if any(self._complaints(scope)) or _is_foreign(Headers(scope=scope)):
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
            return
        await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message))
            await send(message)

        try:
            for refused in self._complaints(scope):
                await refused.answer()(scope, receive, send_guarded)
                break
            else:
                await self._app(scope, self._limited(scope, receive), send_guarded)
        except Exception:
            refused = internal_error()
            if not status:
                await refused.answer()(scope, receive, send_guarded)
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" else "any"  # clients make up methods and paths
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

    def _complaints(self, scope: Scope) -> Iterator[Refused]:
        headers = Headers(scope=scope)
        if self._settings.hosts and _name(headers.get("host", "")) not in self._settings.hosts:
            # else a page of strangers, whose name leads to this machine, may read the answers
            problem = Problem(
                what="this service is not known by the name that the request calls it",
                where="header Host",
                expected=", ".join(self._settings.hosts),
                mend="Start it with --allow-host NAME.",
            )
            yield Refused(400, problem)
        if not self._is_known(headers.get("authorization", ""), scope["path"]):
            problem = Problem(
                what="the token is missing or wrong",
                where="header Authorization",
                expected="Bearer TOKEN, or the token as the password of a browser",
            )
            yield Refused(401, problem, {"WWW-Authenticate": 'Bearer, Basic realm="diapir"'})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit(scope):
            yield _too_large(self._limit(scope), {"Connection": "close"})

    def _is_known(self, authorization: str, path: str) -> bool:
        token = self._settings.token
        if token is None or path in _OPEN_PATHS:
            return True
        kind, _, given = authorization.partition(" ")
        if kind.lower() == "basic":  # a browser can be asked for nothing else
            try:
                given = base64.b64decode(given, validate=True).decode("ascii").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given.encode(), token.encode())

    def _limit(self, scope: Scope) -> int:
        return self._settings.max_bytes if scope["path"] == "/predict" else _SMALL_BODY

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that counts, for bodies without a length, and does not wait long."""
        limit, found, whole = self._limit(scope), 0, False
        seconds = self._settings.body_timeout_s
        deadline = asyncio.get_running_loop().time() + seconds

        async def counting() -> Message:
            nonlocal found, whole
            try:
                async with asyncio.timeout_at(None if whole else deadline):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(seconds) from error
            found += len(message.get("body", b""))
            if found > limit:
                raise _too_large(limit, {"Connection": "close"})
            whole = not message.get("more_body", False)
            return message

        return counting


def _too_large(limit: int, headers: dict[str, str]) -> Refused:
    problem = Problem(
        what="the body of the request is too large",
        where="body",
        expected=f"at most {limit:,} bytes",
        mend="Cut the section, or send it compressed as PNG.",
    )
    return Refused(413, problem, headers)


def _too_slow(seconds: float) -> Refused:
    problem = Problem(
        what=f"the body did not come within {seconds:g} seconds",
        where="body",
        mend="Send it over a faster connection, or send less.",
    )
    return Refused(408, problem, {"Connection": "close"})


def _is_foreign(headers: Headers) -> bool:
    """Return whether a page of another origin opens a socket, from which browsers do not keep it.

    Source: RFC 6455, section 10.2.
    """
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def _name(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _add_headers(headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    kind = headers.get("content-type", "")
    if kind.startswith("text/html"):
        headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
        return
    headers.setdefault("Content-Security-Policy", _DATA_POLICY)
    if not kind.startswith(("text/css", "text/javascript", "application/javascript", "font/")):
        headers.setdefault("Cache-Control", "no-store")
