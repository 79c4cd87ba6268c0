"""An HTTP server in a thread, for the one replica that has no proxy in front of it."""

from __future__ import annotations

import threading
import time

import uvicorn
from fastapi import FastAPI

UP_S = 30.0  # the longest time until it listens


class HttpServer:
    """An HTTP server in this process."""

    def __init__(self, app: FastAPI, host: str, port: int, grace_s: float) -> None:
        """Starts the server; returns when it listens.

        Args:
            app: the app that answers.
            host: the host to bind to.
            port: the port to bind to.
            grace_s: the longest time, in seconds, to finish requests when it is closed.

        Raises:
            RuntimeError: it cannot listen there.
        """
        config = uvicorn.Config(
            app, host=host, port=port, log_level="error", access_log=False, timeout_graceful_shutdown=round(grace_s)
        )
        self._place, self._server = f"{host}:{port}", uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + UP_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.check()

    def check(self) -> None:
        """Raises RuntimeError if the server does not listen."""
        if not (self._server.started and self._thread.is_alive()):
            raise RuntimeError(f"nobody can listen at {self._place}")

    def close(self) -> None:
        """Stops listening, and waits until all requests are finished."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # uvicorn's way to say that it cannot bind
            return
