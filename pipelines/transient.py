"""Recognizes transient errors of storage and network, and calls functions again after them."""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from dray.pipelines.errors import StorageError, first_line

ATTEMPTS = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 10.0  # the pause doubles from attempt to attempt; about 26 s in all
TOTAL_S = 60.0  # no further attempt after this time, if the attempts themselves take long

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})  # may be renewed
PASSING_CODES = EXPIRED | {
    "BandwidthLimitExceeded",
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
}
PASSING_STATUS = frozenset({408, 425, 429})
LASTING_STATUS = frozenset({501, 505, 507})  # all others from 500 on may pass
PASSING_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        *("EAGAIN", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETRESET", "ENETUNREACH", "ENOTCONN", "EPIPE", "EREMOTEIO", "ESTALE", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)
PASSING_CLASSES = frozenset(  # of clients that need not be installed
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "azure.core.exceptions.IncompleteReadError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.CredentialRetrievalError",
        "botocore.exceptions.FlexibleChecksumError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.parsers.ResponseParserError",  # half an answer
        "google.auth.exceptions.TransportError",
        "http.client.HTTPException",
        "httpx.TransportError",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "urllib3.exceptions.HTTPError",
    }
)

T = TypeVar("T")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later, because the network or the service failed, not the call.

    It is also true of StorageError, which is raised after the last attempt. Errors for missing, forbidden or damaged files, and
    all unknown errors, are not transient.
    """
    verdicts = (_verdict(cause) for cause in _chain(error))
    return next((verdict for verdict in verdicts if verdict is not None), False)


def _verdict(error: BaseException) -> bool | None:
    """Whether the error itself is transient; None if its causes decide."""
    code, status = _code(error), _status(error)
    if code in PASSING_CODES or _is_passing(error):
        return True
    if status is not None:
        return status in PASSING_STATUS or (status >= 500 and status not in LASTING_STATUS)
    return None if code is None else False


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, (StorageError, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in PASSING_ERRNO:
        return True
    return any(f"{base.__module__}.{base.__qualname__}" in PASSING_CLASSES for base in type(error).__mro__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its causes, the outermost first."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__


def code_of(error: BaseException) -> str | None:
    """The S3 error code of the error, or of its first cause with a code; such as "404" if the answer had no body."""
    return next((code for cause in _chain(error) if (code := _code(cause)) is not None), None)


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    return str(response["Error"].get("Code", "")) if isinstance(response, dict) and "Error" in response else None


def status_of(error: BaseException) -> int | None:
    """The HTTP status of the error, or of its first cause with a status."""
    return next((status for cause in _chain(error) if (status := _status(cause)) is not None), None)


def _status(error: BaseException) -> int | None:
    if type(error).__module__ == "aiohttp.http_exceptions":  # the parser's codes are not the server's status
        return None
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    places = ((error, "status"), (error, "status_code"), (response, "status_code"), (error, "code"))
    values = (getattr(holder, name, None) for holder, name in places)
    return next((int(status) for status in values if isinstance(status, int) and 100 <= status < 600), None)


def described(error: BaseException) -> str:
    """The error in one line: the service's code, HTTP status or class, and the message."""
    code, status = code_of(error), status_of(error)
    name = code or (f"HTTP status {status}" if status is not None else type(error).__name__)
    text = getattr(error, "strerror", None) or first_line(error)
    return f"{name}: {' '.join(str(text).split())}"


class Attempts:
    """Counts the failures of a call, and says when to make it again."""

    def __init__(self, what: str) -> None:
        """`what` names the call in messages."""
        self.what, self.failed, self._started = what, 0, time.monotonic()

    def pause_after(self, error: Exception) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            StorageError: there were enough attempts.
            Exception: `error`, if it is not transient, or is a StorageError.
        """
        if isinstance(error, StorageError) or not is_transient(error):
            raise error
        self.failed += 1
        seconds = time.monotonic() - self._started
        if self.failed >= ATTEMPTS or seconds > TOTAL_S:
            tries = f"{self.failed} times in {seconds:.0f} s" if self.failed > 1 else "once"
            raise StorageError(f"{self.what} failed {tries}: {described(error)}") from error
        return min(FIRST_PAUSE_S * 2.0 ** (self.failed - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.5)


def call_with_retries(function: Callable[[], T], what: str) -> T:
    """The result of `function`, which is called again after transient errors.

    Args:
        function: may be called several times.
        what: names the call in messages.

    Raises:
        StorageError: it failed ATTEMPTS times, or for TOTAL_S, with transient errors.
    """
    attempts = Attempts(what)
    while True:
        try:
            return function()
        except Exception as error:  # clients of object stores raise their own
            pause = attempts.pause_after(error)
        time.sleep(pause)
