"""The media that clients of a service may send: bytes, base64, or allowed URLs; never a path on this machine."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from dray.pipelines.errors import RequestError

HOPS = 5  # redirects that are followed
FETCH_S = 30.0
COPIED = 1 << 20  # bytes read at once
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Admission:
    """The rules for clients' media.

    Attributes:
        urls: prefixes of the URLs that clients may name, with scheme and host: "https://media.example.org/public/".
        max_bytes: the largest medium that is accepted.
    """

    urls: tuple[str, ...] = ()
    max_bytes: int = 64 << 20
    _prefixes: tuple[SplitResult, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        """Parses the prefixes."""
        object.__setattr__(self, "_prefixes", tuple(urlsplit(url) for url in self.urls))

    async def medium(self, value: object) -> bytes:
        """The bytes of a medium that a client sent, or named by a URL.

        Raises:
            RequestError: 413 if it is too large; 422 if it is neither base64 nor an allowed URL, or cannot be fetched.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bounded(bytes(value))
        if not isinstance(value, str):
            raise RequestError(f"expected media as base64 or a URL, got {_kind(value)}")
        if "://" in value[:16]:
            return await self.fetched(value)
        if len(value) > (self.max_bytes + 2) // 3 * 4 + 100:  # 100 for the beginning of a data URL
            raise self._too_large()
        return self._bounded(_decoded(value))

    def _bounded(self, content: bytes) -> bytes:
        if len(content) > self.max_bytes:
            raise self._too_large()
        return content

    def _too_large(self) -> RequestError:
        return RequestError(f"the medium is larger than {self.max_bytes} bytes", 413)

    async def fetched(self, url: str) -> bytes:
        """The content of an allowed URL. Follows redirects to allowed URLs. Raises RequestError as `medium` does."""
        try:
            timeout, connector = aiohttp.ClientTimeout(FETCH_S), aiohttp.TCPConnector(resolver=_Public(self._hosts()))
            async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
                for _ in range(HOPS):
                    self._refuse_other(url)
                    async with session.get(url, allow_redirects=False) as answer:
                        if answer.status in (301, 302, 303, 307, 308):
                            url = urljoin(url, answer.headers.get("Location", ""))
                            continue
                        if answer.status != 200:
                            raise RequestError(f"the URL answers with status {answer.status}")
                        return await self._read(answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise RequestError(f"the URL cannot be fetched: {type(error).__name__}") from None
        raise RequestError(f"the URL redirects more than {HOPS} times")

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for block in answer.content.iter_chunked(COPIED):
            content += block
            if len(content) > self.max_bytes:
                raise self._too_large()
        return bytes(content)

    def _refuse_other(self, url: str) -> None:
        """Raises RequestError for a URL that no prefix allows."""
        split = urlsplit(url)
        if split.scheme not in PORTS or not split.hostname or split.username is not None:
            raise RequestError("media may be sent as bytes, base64, or http and https URLs that the service allows")
        if not any(_is_under(split, prefix) for prefix in self._prefixes):
            raise RequestError(f"the service does not fetch from {split.hostname}; send the medium itself, as bytes or base64")

    def _hosts(self) -> frozenset[str]:
        """The IP addresses in the prefixes; these may be private."""
        return frozenset(prefix.hostname for prefix in self._prefixes if prefix.hostname and _address(prefix.hostname))


class _Public(AbstractResolver):
    """Resolves names to public addresses only: an allowed name must not lead into the private network."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._resolver, self._allowed = aiohttp.DefaultResolver(), allowed

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        results = await self._resolver.resolve(host, port, family)
        public = [each for each in results if each["host"] in self._allowed or ipaddress.ip_address(each["host"]).is_global]
        if not public:
            raise OSError("no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


def _is_under(url: SplitResult, prefix: SplitResult) -> bool:
    """Whether a URL has the scheme, host and port of a prefix, and its path is in the folder of the prefix."""
    if (url.scheme, url.hostname) != (prefix.scheme, prefix.hostname) or _port(url) != _port(prefix):
        return False
    folders = url.path.split("/")
    if ".." in folders or "%2e" in url.path.lower() or "\\" in url.path:
        return False
    root = prefix.path.rstrip("/")
    return url.path == root or url.path.startswith(root + "/") or not root


def _port(url: SplitResult) -> int | None:
    return url.port or PORTS.get(url.scheme)


def _address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _decoded(text: str) -> bytes:
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("expected media as base64 or a URL; the string is neither") from None
    if not content:
        raise RequestError("the medium is empty")
    return content


def _kind(value: object) -> str:
    names: Sequence[tuple[type, str]] = ((dict, "an object"), (list, "a list"), (bool, "a boolean"), (type(None), "null"))
    return next((name for kind, name in names if isinstance(value, kind)), f"a {type(value).__name__}")
