"""Middleware for requests to the page at /ui."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from fastapi import Request
from fastapi.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dray.jobs.online.requests import body_of, replayed
from dray.pipelines.errors import RequestError

PATH = "/ui"
MOST_BYTES = 1 << 20  # of a request's body, except for uploads


class UiGuard:
    """Middleware of the page: it admits only small bodies, which name no files but uploaded ones.

    Without it Gradio reads a whole body before it checks the login, fetches any public URL for a client, and opens any file.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request, as ASGI defines it."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        if ":/" in path or "/proxy=" in path:
            await PlainTextResponse("the page shows nothing of other servers\n", 403)(scope, receive, send)
            return
        if scope["method"] == "POST" and not path.endswith("/upload"):  # Gradio limits their size
            try:
                body = await body_of(Request(scope, receive), MOST_BYTES)
                _refuse_paths(body)
            except RequestError as error:
                await PlainTextResponse(f"{error}\n", error.status)(scope, receive, send)
                return
            receive = replayed(body, receive)
        await self._app(scope, receive, send)


def _refuse_paths(body: bytes) -> None:
    """Raises RequestError if JSON names a file outside of Gradio's folder of uploads."""
    uploads = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    try:
        waiting: list[object] = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # a form, or nothing that Gradio takes
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if path is not None and not (isinstance(path, str) and Path(path).resolve().is_relative_to(uploads)):
                raise RequestError("a file must have been sent to the page")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
