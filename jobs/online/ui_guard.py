"""What every request to the page at /ui passes first."""

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
MOST_BYTES = 1 << 20  # of what is sent to the page, files aside


class UiGuard:
    """Middleware of the page: what is sent to it is small and names no file but one that was sent to it before.

    Gradio would read a whole body before it asks who sends it, fetch any public URL for a client, and open any file.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not (path == PATH or path.startswith(f"{PATH}/")):
            await self._app(scope, receive, send)
            return
        if ":/" in path or "/proxy=" in path:
            await PlainTextResponse("the page shows nothing of other servers\n", 403)(scope, receive, send)
            return
        if scope["method"] == "POST" and not path.endswith("/upload"):  # of which Gradio bounds the size
            try:
                body = await body_of(Request(scope, receive), MOST_BYTES)
                _refuse_paths(body)
            except RequestError as error:
                await PlainTextResponse(f"{error}\n", error.status)(scope, receive, send)
                return
            receive = replayed(body, receive)
        await self._app(scope, receive, send)


def _refuse_paths(body: bytes) -> None:
    """Raises RequestError where JSON names a file that is no upload: Gradio knows those by where they are."""
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
