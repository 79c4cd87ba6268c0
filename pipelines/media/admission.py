"""What clients of a service may send as media: bytes, base64, or URLs that were allowed; never a path of this machine."""

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
    """What is let in.

    Attributes:
        urls: prefixes of the URLs that clients may name, with scheme and host: "https://media.example.org/public/".
        max_bytes: of a medium.
    """

    urls: tuple[str, ...] = ()
    max_bytes: int = 64 << 20
    _prefixes: tuple[SplitResult, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        """Takes the prefixes apart."""
        object.__setattr__(self, "_prefixes", tuple(urlsplit(url) for url in self.urls))

    async def medium(self, value: object) -> bytes:
        """The bytes of what a client has sent, or named, as a medium.

        Raises:
            RequestError: 413 for one that is too large; 422 for what is no base64 and no allowed URL, or cannot be fetched.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bounded(bytes(value))
        if not isinstance(value, str):
            raise RequestError(f"expected media as base64 or a URL, got {_kind(value)}")
        if "://" in value[:16]:
            return await self.fetched(value)
        if len(value) > (self.max_bytes + 2) // 3 * 4 + 100:  # 100 for what a data URL begins with
            raise self._too_large()
        return self._bounded(_decoded(value))

    def _bounded(self, content: bytes) -> bytes:
        if len(content) > self.max_bytes:
            raise self._too_large()
        return content

    def _too_large(self) -> RequestError:
        return RequestError(f"the medium is larger than {self.max_bytes} bytes", 413)

    async def fetched(self, url: str) -> bytes:
        """What an allowed URL holds, redirects followed as far as they are allowed. Raises RequestError as `medium` does."""
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
        """Raises RequestError for a URL that none of the prefixes allows."""
        asked = urlsplit(url)
        if asked.scheme not in PORTS or not asked.hostname or asked.username is not None:
            raise RequestError("media may be sent as bytes, base64, or http and https URLs that the service allows")
        if not any(_is_under(asked, prefix) for prefix in self._prefixes):
            raise RequestError(f"the service does not fetch from {asked.hostname}; send the medium itself, as bytes or base64")

    def _hosts(self) -> frozenset[str]:
        """Hosts that the prefixes give by address: whoever wrote those meant just these."""
        return frozenset(prefix.hostname for prefix in self._prefixes if prefix.hostname and _address(prefix.hostname))


class _Public(AbstractResolver):
    """Names resolve to public addresses or not at all: a name that is allowed must not lead into this network."""

    def __init__(self, meant: frozenset[str]) -> None:
        self._resolver, self._meant = aiohttp.DefaultResolver(), meant

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if each["host"] in self._meant or ipaddress.ip_address(each["host"]).is_global]
        if not public:
            raise OSError("no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


def _is_under(asked: SplitResult, prefix: SplitResult) -> bool:
    """Whether a URL has the scheme, host and port of a prefix, and its path, by whole folders."""
    if (asked.scheme, asked.hostname) != (prefix.scheme, prefix.hostname) or _port(asked) != _port(prefix):
        return False
    folders = asked.path.split("/")
    if ".." in folders or "%2e" in asked.path.lower() or "\\" in asked.path:
        return False
    root = prefix.path.rstrip("/")
    return asked.path == root or asked.path.startswith(root + "/") or not root


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
