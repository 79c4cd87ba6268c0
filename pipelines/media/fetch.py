"""Fetches media from URLs: several at a time before they are used, again when the network fails, up to a maximum size."""

from __future__ import annotations

import functools
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, TypeVar

from dray.pipelines.errors import RowError, StorageError, first_line
from dray.pipelines.transient import is_transient, status_of

AHEAD = 16  # downloads at once in a worker
ATTEMPTS, FIRST_PAUSE = 4, 0.5  # seconds; the pause doubles from attempt to attempt
IN_MEMORY = 8 << 20  # bytes of a download that stay in memory; more goes to a temporary file
COPIED = 1 << 20  # bytes copied at once
STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "r2", "hf")  # protocols that take storage_options

T = TypeVar("T")


def is_url(cell: object) -> bool:
    """Whether the value of a cell is a URL to fetch."""
    return isinstance(cell, str) and "://" in cell[:16] and not cell.startswith("file://")


def fetch(url: str, storage_options: Mapping[str, object], max_bytes: int) -> IO[bytes]:
    """The content of a URL as a local file.

    Args:
        url: any URL that fsspec opens.
        storage_options: for object stores, as fsspec takes them.
        max_bytes: the largest content that is fetched.

    Raises:
        RowError: the content is too large, or cannot be fetched; errors that may be temporary are tried ATTEMPTS times.
    """
    options = dict(storage_options) if url.partition("://")[0] in STORES else {}
    pause = FIRST_PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _copied(url, options, max_bytes)
        except RowError:
            raise
        except Exception as error:  # clients of object stores raise their own
            cause = _with_status(error)
            if attempt == ATTEMPTS or isinstance(cause, StorageError) or not _may_pass(cause):
                tries = f" after {attempt} attempts" if attempt > 1 else ""
                message = f"cannot fetch {url}{tries}: {type(cause).__name__}: {first_line(cause)}"
                raise RowError("read", type(cause).__name__, message, attempt) from None
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause *= 2
    raise AssertionError


def _copied(url: str, options: Mapping[str, object], max_bytes: int) -> IO[bytes]:
    import fsspec

    copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # its reader closes it
    with fsspec.open(url, "rb", **options) as remote:
        while block := remote.read(COPIED):
            if copy.tell() + len(block) > max_bytes:
                raise RowError("read", "ValueError", f"{url} is larger than input.max_media_bytes = {max_bytes}")
            copy.write(block)
    copy.seek(0)
    return copy


def _with_status(error: BaseException) -> BaseException:
    """The HTTP error behind fsspec's FileNotFoundError, which fsspec raises for any status."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(getattr(cause, "status", None), int):
        cause = cause.__cause__
    return cause or error


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed. It may not if the content is missing, forbidden or of an unknown protocol."""
    if status_of(error) is not None:
        return is_transient(error)
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, ImportError, NotImplementedError)
    return not isinstance(error, lasting)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AHEAD, thread_name_prefix="fetch")


def ahead(items: Iterable[T], work: Callable[[T], T]) -> Iterator[T]:
    """Yields `work(item)` for every item, in order; threads run up to AHEAD of them while earlier results are used."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(_threads().submit(work, item))
        if len(waiting) >= AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
