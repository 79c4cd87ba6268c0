"""Middleware for every request to the service: request names, API keys, and the log."""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/healthz", "/ui")  # paths without a key; the page at /ui has its own login
LONGEST_ID = 64  # most characters of a request's name from a client

OnAnswer = Callable[[str, int, float], None]
Failed = Callable[[Request, Exception], Awaitable[Response]]

log = logging.getLogger("dray.requests")


class RequestGuard:
    """Middleware: X-Request-ID, API keys, one JSON line for each request."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Sequence[str] = (),
        on_answer: OnAnswer = lambda path, status, seconds: None,
        failed: Failed | None = None,
    ) -> None:
        """Wraps an app.

        Args:
            app: the app that answers.
            keys: API keys; a client must send one of them, unless there are none.
            on_answer: called after every request with its route, status and seconds.
            failed: makes the answer to a request for which the app raises.
        """
        self._app, self._keys, self._on_answer, self._failed = app, [key.encode() for key in keys], on_answer, failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, as ASGI defines it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        name, started, status = _name(headers), time.perf_counter(), 0
        scope.setdefault("state", {})["request_id"] = name

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", name.encode())]}
            await send(message)

        try:
            if scope["path"].startswith(OPEN) or self._is_admitted(headers):
                await self._app(scope, receive, named)
            else:
                await _refuse(named)
        except Exception as error:
            if status or self._failed is None:  # an answer that has begun cannot be replaced
                raise
            answer = await self._failed(Request(scope), error)
            await answer(scope, receive, named)
        finally:
            seconds = time.perf_counter() - started
            self._on_answer(getattr(scope.get("route"), "path", "other"), status, seconds)
            line = {
                "id": name,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 1),
            }
            log.info(json.dumps(line))

    def _is_admitted(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the headers hold a valid key. Takes the same time for a wrong key as for a right one."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return not self._keys or (scheme.lower() == b"bearer" and any(matches))


def _name(headers: dict[bytes, bytes]) -> str:
    """The client's name for the request if it is short and plain, or else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    is_plain = 0 < len(given) <= LONGEST_ID and given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    return given if is_plain else uuid.uuid4().hex


async def _refuse(send: Send) -> None:
    body = json.dumps({"error": "a valid API key is needed: Authorization: Bearer ..."}).encode()
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
