"""What stands between the connections and the application: who may ask, how much, and what is noted of it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TextIO

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import AllowedHosts, has_token
from serving.metrics import Metrics

logger = logging.getLogger(__name__)
access = logging.getLogger("serving.access")

PREDICT, HEALTH = "/v1/predict", "/healthz"
#: Bodies that are held at once, in units of the largest one.
_BODIES = 64
_MOST_DIGITS = 15  # of a number that is worth reading
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


@dataclass(frozen=True)
class GuardSettings:
    """Who may ask and how much; see `ServingArguments`.

    Attributes:
        max_body_bytes: of one body; 64 times as many are held at once.
        body_s: time for a body to come.
        hosts: what the `Host` header may be.
        token: what `Authorization: Bearer` has to say; None: nothing.
        access_log: one line for each request.
    """

    max_body_bytes: int = 1 << 20
    body_s: float = 30.0
    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    token: str | None = None
    access_log: bool = False


def write_access_log(stream: TextIO) -> None:
    """Write one line for each request of servers that have an access log."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    access.handlers, access.propagate = [handler], False
    access.setLevel(logging.INFO)


class Guard:
    """Refuses requests of other hosts, without the token, or with too large or slow a body, before they are read.

    Gives each request an id (the client's own `X-Request-ID` where it is a plain word), counts requests and
    latencies, writes the access log, and makes an error that nobody has caught a status 500 and one entry in the log.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: GuardSettings, clock: Callable[[], float]) -> None:
        self._app, self._metrics, self._settings, self._clock = app, metrics, settings, clock
        self._token = None if settings.token is None else settings.token.encode("ascii")
        self._held, self._names = 0, _Names()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status, started = self._clock(), 500, False
        headers = dict(scope["headers"])
        name = self._names.of(headers.get(b"x-request-id", b""))
        scope.setdefault("state", {})["request_id"] = name
        body = _Body(self, scope, receive)

        async def noting(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", name.encode())]}
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            await (self._app if refusal is None else refusal)(scope, body.receive, noting)
        except Exception:
            logger.exception("request %s failed", name)
            if started:
                raise
            answer = JSONResponse({"detail": f"the server failed; its log knows request {name}"}, 500)
            await answer(scope, receive, noting)
        finally:
            self._held -= body.seen
            seconds = self._clock() - begin
            if scope["path"] == PREDICT:
                self._metrics.requests.labels(str(status)).inc()
                if status == 200:
                    self._metrics.latency.observe(seconds)
            if self._settings.access_log:
                access.info(
                    "%s %s %s %d %d bytes %.1f ms id=%s",
                    (scope.get("client") or ("-",))[0],
                    scope["method"],
                    scope.get("raw_path", b"-").decode("ascii", "backslashreplace")[:200],
                    status,
                    body.seen,
                    seconds * 1e3,
                    name,
                )

    def hold(self, size: int) -> None:
        """Note bytes of a body that came.

        Raises:
            HTTPException: too many are held.
        """
        self._held += size
        if self._held > _BODIES * self._settings.max_body_bytes:
            raise HTTPException(429, "too many bytes are waiting", {"Retry-After": "1"})

    @property
    def settings(self) -> GuardSettings:
        """Who may ask and how much."""
        return self._settings

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> JSONResponse | None:
        """The answer to who may not ask; health is everyone's to know."""
        if scope["path"] != HEALTH:
            if headers.get(b"host", b"").decode("latin-1") not in self._settings.hosts:
                return JSONResponse({"detail": "this Host is not served here: see --allowed_hosts"}, 400)
            if self._token is not None and not has_token(headers.get(b"authorization", b""), self._token):
                return JSONResponse({"detail": "a token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and (len(announced) > _MOST_DIGITS or int(announced) > self._settings.max_body_bytes):
            return JSONResponse({"detail": self.too_large}, 413)
        return None

    @property
    def too_large(self) -> str:
        """What is said of a body that is too large."""
        return f"a request has at most {self._settings.max_body_bytes} bytes"


class _Body:
    """A request's body as it comes: counted, and in time."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._deadline: float | None = None
        self._whole = False
        self.seen = 0

    async def receive(self) -> Message:
        """The next message.

        Raises:
            HTTPException: the body is too large or too slow.
        """
        if self._whole:  # what comes now is the client's end
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._deadline = self._deadline or loop.time() + self._guard.settings.body_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body took too long to come", {"Connection": "close"}) from None
        size = len(message.get("body", b""))
        self.seen += size
        self._guard.hold(size)
        self._whole = not message.get("more_body", False)
        if self.seen > self._guard.settings.max_body_bytes:
            raise HTTPException(413, self._guard.too_large)
        return message


class _Names:
    """Ids of requests: the client's own where it is a plain word; else one that no other request of any server has."""

    def __init__(self) -> None:
        self._server, self._numbers = secrets.token_hex(6), count(1)

    def of(self, given: bytes) -> str:
        """A request's id, by what its header says."""
        return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else f"{self._server}-{next(self._numbers)}"
