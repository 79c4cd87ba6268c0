"""An S3 endpoint that fails: moto's server behind a reverse proxy which spoils a share of the answers."""

import logging
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from moto.server import ThreadedMotoServer

KINDS = ("slow_down", "internal", "reset", "slow", "truncated", "expired")
ANSWERS = {  # status, code, message
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),  # lasting; in no draw unless asked for
}
LOST = ("internal", "reset")  # may also come after the request was carried out
CHANGING = ("PUT", "POST", "DELETE")
OWN_HEADERS = ("connection", "transfer-encoding", "keep-alive", "content-length", "server", "date")


@dataclass
class Faults:
    """What goes wrong; may be changed at any time.

    `rate` is the share of requests that fail, `kinds` are drawn from evenly, `pause` is in seconds. `only` chooses by
    (method, "bucket/key") the requests that may fail, and `answers_lost` is the share of changes that are carried out
    although the client gets an error.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    pause: float = 0.1
    answers_lost: float = 0.5
    only: Callable[[str, str], bool] | None = None
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self, method: str, key: str) -> tuple[str | None, bool]:
        """A kind or None, and whether the request is carried out first."""
        with self._lock:
            if self._random.random() >= self.rate or (self.only is not None and not self.only(method, key)):
                return None, True
            kind = self._random.choice(self.kinds)
            is_late = kind in LOST and method in CHANGING and self._random.random() < self.answers_lost
            self.counts[kind] += 1
            return kind, is_late or kind in ("slow", "truncated")


class Proxy(ThreadingHTTPServer):
    """Passes requests on to `backend`, (host, port), and counts them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend: tuple[str, int], faults: Faults):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend, self.faults = backend, faults
        self._requests, self._lock = Counter(), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def options(self) -> dict[str, object]:
        """Storage options, as fsspec takes them."""
        return {"endpoint_url": self.url, "key": "testing", "secret": "testing", "use_listings_cache": False}

    def requests(self, method: str | None = None, key: str | None = None) -> int:
        """Requests so far, also spoilt ones, of a method and of a "bucket/key", or of all."""
        with self._lock:
            counted = self._requests.items()
            return sum(count for (m, k), count in counted if method in (None, m) and key in (None, k))

    def count(self, method: str, key: str) -> None:
        with self._lock:
            self._requests[method, key] += 1

    def forget(self) -> None:
        """Starts counting anew."""
        with self._lock:
            self._requests.clear()
        self.faults.counts.clear()

    def shutdown_request(self, request):
        self.close_request(request)  # no FIN before a reset

    def handle_error(self, request, client_address):
        """Clients go away; that is none of our business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for headers and body
    disable_nagle_algorithm = True

    def handle_any(self):
        body = self._body()
        key = unquote(urlsplit(self.path).path).strip("/")
        self.server.count(self.command, key)
        kind, is_done = self.server.faults.draw(self.command, key)
        if not is_done or kind in LOST:
            if is_done:
                self._passed_on(body)
            self._fail(kind)
            return
        status, headers, content = self._passed_on(body)
        if self.command == "HEAD" or not content:
            if kind == "truncated":
                self._reset()
                return
            time.sleep(self.server.faults.pause if kind == "slow" else 0)
        length = headers.get("Content-Length", 0) if self.command == "HEAD" else len(content)
        self._begin(status, headers, length)
        self._send(content, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def handle_expect_100(self):
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *arguments):
        """Says nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection(*self.server.backend, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in (*OWN_HEADERS, "expect")}
            if body or self.command in CHANGING:
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _begin(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in OWN_HEADERS:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, content: bytes, kind: str | None) -> None:
        if self.command == "HEAD" or not content:
            return
        if kind == "truncated":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        step = -(-len(content) // 3) if kind == "slow" else len(content)
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if kind == "slow":
                self.wfile.flush()
                time.sleep(self.server.faults.pause)

    def _fail(self, kind: str) -> None:
        if kind == "reset":
            self._reset()
            return
        status, code, message = ANSWERS[kind]
        xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
        self._begin(status, {"Content-Type": "application/xml"}, 0 if self.command == "HEAD" else len(xml))
        if self.command != "HEAD":
            self.wfile.write(xml)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@contextmanager
def faulty_s3(rate: float = 0.0, **settings) -> Iterator[Proxy]:
    """An S3 endpoint that fails when `proxy.faults.rate` says so; `settings` are Faults'. Moto keeps buckets per process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port(), Faults(rate, **settings))
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        moto.stop()
