"""What a client may have a service open."""

import asyncio
import base64
import http.server
import threading

import pytest

from dray.pipelines.errors import RequestError
from dray.pipelines.media.admission import Admission

HELLO = b"RIFF....WAVE"


PAGES = {
    "/media/ok": (200, HELLO),
    "/media/large": (200, bytes(5000)),
    "/media/away": (302, b""),
    "/private": (200, b"secret"),
}


class Site(http.server.BaseHTTPRequestHandler):
    """/media/ok has HELLO, /media/large much, /media/gone nothing, /media/away?URL redirects there, /private a secret."""

    def do_GET(self):
        path, _, target = self.path.partition("?")
        status, body = PAGES.get(path, (404, b"secret"))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", target)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def opened(value, *urls, max_bytes=4096):
    return asyncio.run(Admission(urls, max_bytes).medium(value))


def refused(value, *urls, **limits):
    with pytest.raises(RequestError) as error:
        opened(value, *urls, **limits)
    assert "secret" not in str(error.value)
    return error.value.status, str(error.value)


def test_bytes_and_base64_are_let_in():
    encoded = base64.b64encode(HELLO).decode()
    assert opened(HELLO) == opened(encoded) == opened(f"data:audio/wav;base64,{encoded}") == HELLO


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        "etc/hostname.txt",
        "~/.ssh/id_rsa",
        "./README.md",
        "C:\\secrets.txt",
        "",
        "data:audio/wav;base64,",
        7,
        None,
        {},
        [],
    ],
)
def test_nothing_else_is_opened(value):
    status, message = refused(value)
    assert status == 422
    assert "base64" in message or "empty" in message


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://127.0.0.1/x", "s3://bucket/key", "gopher://127.0.0.1/", "http:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/", "http://localhost/", "http://[::1]/", "http://0.0.0.0/", "http://2130706433/",
        "https://media.example.org@127.0.0.1/", "https://media.example.org.evil.test/", "https://media.example.org:8443/",
        "http://media.example.org/", "https://media.example.org/public/../private", "https://media.example.org/public/%2e%2e/x",
        "https://media.example.org/publicity",
    ],
)  # fmt: skip
def test_urls_that_are_not_allowed_are_not_fetched(url):
    assert refused(url, "https://media.example.org/public/")[0] == 422


def test_an_allowed_url_is_fetched(site):
    assert opened(f"{site}/media/ok", f"{site}/media/") == HELLO
    assert opened(f"{site}/media/away?{site}/media/ok", f"{site}/media") == HELLO
    assert opened(f"{site}/media/away?ok", f"{site}/media") == HELLO


def test_redirects_lead_no_further_than_what_is_allowed(site):
    for target in (f"{site}/private", "http://localhost/", "file:///etc/passwd", "http://169.254.169.254/", "/private"):
        assert refused(f"{site}/media/away?{target}", f"{site}/media")[0] == 422
    round_and_round = f"{site}/media/away?" * 9 + f"{site}/media/ok"
    assert refused(round_and_round, f"{site}/media") == (422, "the URL redirects more than 5 times")


def test_a_name_that_leads_into_this_network_is_refused(site):
    port = site.rpartition(":")[2]
    status, message = refused(f"http://localhost:{port}/media/ok", f"http://localhost:{port}/media")
    assert (status, "cannot be fetched" in message) == (422, True)


def test_what_is_too_large_or_missing_is_said_without_details(site):
    assert refused(f"{site}/media/large", f"{site}/media") == (413, "the medium is larger than 4096 bytes")
    assert refused(bytes(5000))[0] == 413
    assert refused(base64.b64encode(bytes(5000)).decode())[0] == 413
    assert refused(f"{site}/media/gone", f"{site}/media") == (422, "the URL answers with status 404")
