"""Storage operations against an S3 endpoint that fails: a share of requests, all of them, or for good."""

import errno
import io
import json
import pickle
import time
import uuid

import aiohttp
import botocore.exceptions
import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from faulty import KINDS, faulty_s3
from fsspec.implementations.memory import MemoryFileSystem

from jobs.retries import StorageError, is_transient
from jobs.storage import Folder, Retried, arrow_filesystem
from pipelines import transient

TABLE = pa.table({"n": list(range(20_000)), "text": [f"row {n}" for n in range(20_000)]})


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
    """A folder with a Parquet file and five small ones, in a bucket that works until told otherwise."""
    proxy.faults.rate, proxy.faults.kinds, proxy.faults.only, proxy.faults.answers_lost = 0, KINDS, None, 0.5
    options = {"endpoint_url": proxy.url, "key": "testing", "secret": "testing", "use_listings_cache": False}
    bucket = f"calls-{uuid.uuid4().hex[:12]}"
    folder = Folder(f"s3://{bucket}/out", options)
    folder.fs.mkdir(bucket)
    folder.fs.pipe({f"{folder.path}/in/{n}/small": b"%d" % n for n in range(5)})
    pq.write_table(TABLE, f"{folder.path}/in/rows.parquet", filesystem=folder.arrow(), row_group_size=5_000)
    proxy.forget()
    yield folder
    proxy.faults.rate = 0


def commit(arrow: pafs.FileSystem, pending: str, committed: str):
    """As Ray Data's checkpoint writer does it."""
    kinds = [info.type for info in arrow.get_file_info([committed, pending])]
    assert kinds == [pafs.FileType.NotFound, pafs.FileType.File]
    arrow.move(pending, committed)


def use(folder: Folder) -> None:
    """All that a job does with its storage, with the right result."""
    arrow, path = folder.arrow(), folder.path
    small = [f"{path}/in/{n}/small" for n in range(5)]
    assert (folder / "in").files() == [*small, f"{path}/in/rows.parquet"]
    assert folder.fs.glob(f"{path}/in/*/small") == small
    assert folder.fs.exists(path.split("/")[0])
    fragment = pads.ParquetFileFormat().make_fragment(f"{path}/in/rows.parquet", arrow)
    assert pa.Table.from_batches(fragment.to_batches(batch_size=5_000)).equals(TABLE)
    for n in range(2):
        folder.write(f"state/{n}.json", json.dumps({"n": n}))
        assert json.loads(folder.read(f"state/{n}.json")) == {"n": n}
        assert folder.create(f"lease/{n}", f"run {n}")
        assert not folder.create(f"lease/{n}", "another run")
        assert folder.read(f"lease/{n}") == b"run %d" % n
        pq.write_table(TABLE[:10], f"{path}/check/{n}.pending.parquet", filesystem=arrow)
        commit(arrow, f"{path}/check/{n}.pending.parquet", f"{path}/check/{n}.parquet")
    assert folder.read("state/none.json") is None
    folder.fs.rm_file(f"{path}/check/1.parquet")
    assert (folder / "check").files() == [f"{path}/check/0.parquet"]
    assert pq.read_table(f"{path}/check/0.parquet", filesystem=arrow).num_rows == 10
    (folder / "state").remove()
    assert (folder / "state").files() == []
    (folder / "state").remove()


def test_without_faults_each_object_is_asked_for_once(proxy, folder):
    use(folder)
    bucket = folder.path.split("/")[0]
    assert proxy.requests("PUT", f"{folder.path}/state/0.json") == 1
    assert proxy.requests("GET", f"{folder.path}/state/0.json") == 1
    assert proxy.requests("POST", bucket) == 2 + 1  # a bulk delete for each move, and one for the folder
    assert not proxy.faults.counts


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids=lambda kinds: "-".join(kinds))
def test_faults_in_a_fifth_of_the_requests_change_nothing(proxy, folder, kinds):
    proxy.faults.kinds, proxy.faults.rate = kinds, 0.2
    use(folder)
    assert set(proxy.faults.counts) == set(kinds)


def operations(folder: Folder) -> dict:
    arrow, path = folder.arrow(), folder.path
    return {
        "files": folder.files,
        "glob": lambda: folder.fs.glob(f"{path}/in/*/small"),
        "bucket": lambda: folder.fs.exists(path.split("/")[0]),
        "read": lambda: folder.read("in/0/small"),
        "write": lambda: folder.write("new", b"1"),
        "create": lambda: folder.create("newer", "1"),
        "remove": (folder / "in").remove,
        "info": lambda: arrow.get_file_info(f"{path}/in/0/small"),
        "parquet": lambda: pq.read_table(f"{path}/in/rows.parquet", filesystem=arrow),
        "upload": lambda: pq.write_table(TABLE, f"{path}/new.parquet", filesystem=arrow),
        "move": lambda: arrow.move(f"{path}/in/0/small", f"{path}/in/0/moved"),
    }


NAMES = {
    "slow_down": "SlowDown: Please reduce|503: Service Unavailable",
    "internal": "InternalError: We enc|500: Internal Server Error",
    "reset": "(Connect|Disconnect|Clos).*Error: ",
    "truncated": "Error: ",
    "expired": "ExpiredToken: The provided token has expired",
}


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


@pytest.mark.parametrize("kind", ["internal", "reset"])
def test_a_lost_answer_is_no_other_run(proxy, folder, kind):
    proxy.faults.kinds, proxy.faults.rate, proxy.faults.answers_lost = (kind,), 1, 1
    asked = iter([True])
    proxy.faults.only = lambda method, key: method == "PUT" and next(asked, False)
    assert folder.create("lease", "run 1")
    assert not folder.create("lease", "run 2")


def test_a_large_upload_whose_end_was_not_confirmed(proxy, folder):
    proxy.faults.kinds, proxy.faults.rate, proxy.faults.answers_lost = ("reset",), 1, 1
    asked = iter([False, True, True])  # begun; the two after are its end, and its end again
    proxy.faults.only = lambda method, key: method == "POST" and next(asked, False)
    content = bytes(range(256)) * 4096 * 11
    folder.fs.pipe_file(f"{folder.path}/large", content, chunksize=5 << 20)
    proxy.faults.rate = 0
    assert folder.read("large") == content


def test_large_files_go_on_where_they_broke(proxy, folder, tmp_path):
    content = bytes(range(256)) * 4096 * 3
    folder.write("large", content)
    proxy.faults.kinds, proxy.faults.rate = ("truncated",), 0.4
    proxy.faults.only = lambda method, key: method == "GET"
    assert folder.read("large") == content
    folder.fs.get([f"{folder.path}/large"], [str(tmp_path / "large")], chunksize=1 << 20)
    assert (tmp_path / "large").read_bytes() == content
    assert folder.fs.cat_file(f"{folder.path}/large", start=1000, end=2_000_000) == content[1000:2_000_000]
    assert folder.fs.cat_file(f"{folder.path}/large", start=-100) == content[-100:]


def test_a_body_that_stops_coming_is_asked_for_again(proxy, folder, monkeypatch):
    patient = Folder(folder.url, {**folder.options, "config_kwargs": {"read_timeout": 0.5}})
    assert patient.fs.exists(patient.path)
    monkeypatch.setattr(proxy.faults, "pause", 1.5)
    stuck = iter([True])
    proxy.faults.kinds, proxy.faults.rate, proxy.faults.only = (
        ("slow",),
        1,
        lambda method, key: method == "GET" and next(stuck, False),
    )
    assert patient.read("in/rows.parquet")[-4:] == b"PAR1"
    assert proxy.requests("GET", f"{folder.path}/in/rows.parquet") >= 2


def test_credentials_renewed_meanwhile_are_read_again(proxy, folder, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    own = Folder(folder.url, {"endpoint_url": proxy.url, "use_listings_cache": False, "skip_instance_cache": True})
    assert own.read("in/1/small") == b"1"
    old = own.fs.s3
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = new\naws_secret_access_key = new\n")
    failing = iter([True])
    proxy.faults.kinds, proxy.faults.rate, proxy.faults.only = ("expired",), 1, lambda method, key: next(failing, False)
    own.fs.find(own.path)
    assert own.fs.s3 is not old
    assert own.fs.s3._request_signer._credentials.access_key == "new"


def test_filesystems_travel_and_plain_urls_profit(proxy, folder):
    proxy.faults.kinds, proxy.faults.rate = ("slow_down", "truncated"), 0.3
    arrow = pickle.loads(pickle.dumps(folder.arrow()))
    assert pq.read_table(f"{folder.path}/in/rows.parquet", filesystem=arrow).equals(TABLE)
    with fsspec.open(f"s3://{folder.path}/in/3/small", "rb", **folder.options) as file:
        assert file.read() == b"3"


class Failing(MemoryFileSystem):
    """Storage without retries of its own: each of its calls fails twice."""

    protocol, cachable, failures = "failing", False, {}

    def _fail(self, *call):
        self.failures[call] = self.failures.get(call, 0) + 1
        if self.failures[call] % 3:
            raise aiohttp.ClientOSError(errno.ECONNRESET, "reset")

    def info(self, path, **options):
        self._fail("info", path)
        return super().info(path, **options)

    def _open(self, path, mode="rb", **options):
        self._fail("open", path)
        file = super()._open(path, mode, **options)
        return FailingFile(self, path, file.getvalue()) if mode == "rb" else file


class FailingFile(io.BytesIO):
    def __init__(self, fs, path, content):
        super().__init__(content)
        self._fs, self._path = fs, path

    def read(self, *size):
        self._fs._fail("read", self._path)
        return super().read(*size)


def test_other_filesystems_are_called_again():
    fs = Failing()
    with MemoryFileSystem().open("/rows.parquet", "wb") as file:
        pq.write_table(TABLE, file)
    arrow = pickle.loads(pickle.dumps(arrow_filesystem(fs)))
    assert isinstance(arrow.handler.fs, Retried)
    assert pq.read_table("/rows.parquet", filesystem=arrow).equals(TABLE)
    assert arrow.get_file_info("/nothing").type == pafs.FileType.NotFound


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
