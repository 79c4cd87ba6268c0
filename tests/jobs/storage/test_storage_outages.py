"""Which failures of storage may pass, which are outages, and what is said of those."""

import errno
import pickle
import time

import aiohttp
import botocore.exceptions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from support.faulty import faulty_s3
from support.faulty_folder import folder_behind, operations, use

from dray.jobs.storage.folder import Folder
from dray.pipelines import transient
from dray.pipelines.errors import StorageError
from dray.pipelines.transient import is_transient

NAMES = {
    "slow_down": "SlowDown: Please reduce|503: Service Unavailable",
    "internal": "InternalError: We enc|500: Internal Server Error",
    "reset": "(Connect|Disconnect|Clos).*Error: ",
    "truncated": "Error: ",
    "expired": "ExpiredToken: The provided token has expired",
}


@pytest.fixture(scope="module")
def proxy():
    with faulty_s3(pause=0.03) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(transient, "FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(transient, "LONGEST_PAUSE_S", 0.02)


@pytest.fixture
def folder(proxy):
    with folder_behind(proxy) as folder:
        yield folder


@pytest.mark.parametrize("kind", NAMES)
def test_an_outage_is_an_error_that_says_what_failed(proxy, folder, kind):
    proxy.faults.kinds, proxy.faults.rate = (kind,), 1
    chosen = operations(folder)
    for name in chosen if kind == "internal" else ("files", "create", "parquet", "move"):
        started, before = time.monotonic(), proxy.requests()
        with pytest.raises(StorageError, match=rf"s3://calls-\w+.* at {proxy.url} failed 8 times in \d+ s: .*({NAMES[kind]})"):
            chosen[name]()
        assert proxy.requests() - before <= 40, name
        assert time.monotonic() - started < 20
    proxy.faults.rate = 0
    use(folder)


def test_a_connection_that_cannot_be_made_is_an_outage(folder):
    options = {**folder.options, "endpoint_url": "http://127.0.0.1:9"}  # discard; nobody listens
    with pytest.raises(StorageError, match=r"at http://127.0.0.1:9 failed 8 times .*Could not connect"):
        Folder(folder.url, options).read("in/0/small")


def test_part_of_a_folder_out_of_reach_is_not_left_out(proxy, folder):
    proxy.faults.kinds, proxy.faults.rate = ("internal",), 1
    left = iter([False] * 2)
    proxy.faults.only = lambda method, key: next(left, True)
    with pytest.raises(StorageError):
        folder.fs.glob(f"{folder.path}/in/*/small")


def test_what_is_missing_or_forbidden_is_not_asked_for_again(proxy, folder):
    assert folder.read("nothing") is None
    assert proxy.requests("HEAD", f"{folder.path}/nothing") == 1
    with pytest.raises(FileNotFoundError):
        Folder("s3://nosuchbucket-at-all/x", folder.options).write("y", b"1")
    assert proxy.requests("PUT", "nosuchbucket-at-all/x/y") == 1
    proxy.faults.kinds, proxy.faults.rate = ("denied",), 1
    for name, operation in operations(folder).items():
        before = proxy.requests()
        if name == "bucket":  # which a policy may hide
            assert operation() is False
            continue
        with pytest.raises(PermissionError, match="Access Denied"):
            operation()
        assert proxy.requests() - before <= 2, name  # a HEAD does not say why


def of_s3(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (of_s3("SlowDown", 503), True),
        (of_s3("ExpiredToken", 400), True),
        (of_s3("502", 502), True),
        (of_s3("AccessDenied", 403), False),
        (of_s3("NoSuchBucket", 404), False),
        (of_s3("InvalidAccessKeyId", 403), False),
        (of_s3("NotImplemented", 501), False),
        (with_cause(PermissionError("expired"), of_s3("ExpiredToken", 403)), True),
        (with_cause(FileNotFoundError("x"), of_s3("NoSuchKey", 404)), False),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), True),
        (botocore.exceptions.NoCredentialsError(), False),
        (aiohttp.ClientPayloadError("cut"), True),
        (with_cause(FileNotFoundError("x"), aiohttp.ClientResponseError(None, (), status=503)), True),
        (aiohttp.ClientResponseError(None, (), status=404), False),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (StorageError("enough"), True),
        (pickle.loads(pickle.dumps(StorageError("enough"))), True),
        (OSError("Couldn't deserialize thrift"), False),
        (pa.ArrowInvalid("magic bytes"), False),
        (OSError(errno.ENOSPC, "disk full"), False),
        (FileNotFoundError("x"), False),
        (PermissionError("x"), False),
        (ValueError("x"), False),
    ],
    ids=repr,
)
def test_which_errors_may_pass(error, expected):
    assert is_transient(error) is expected


@pytest.mark.parametrize("start", [4, -400])
def test_a_damaged_file_is_no_outage(proxy, folder, start):
    content = bytearray(folder.read("in/rows.parquet"))
    content[start : start + 300] = b"\xff" * 300
    folder.write("in/rows.parquet", bytes(content))
    with pytest.raises((OSError, ValueError)) as damaged:
        pq.read_table(f"{folder.path}/in/rows.parquet", filesystem=folder.arrow())
    assert not is_transient(damaged.value)
