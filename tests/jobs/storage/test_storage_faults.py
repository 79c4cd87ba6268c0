"""Storage operations against an S3 endpoint that fails a share of requests: they give what they should."""

import errno
import io
import pickle

import aiohttp
import fsspec
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.faulty import KINDS, faulty_s3
from support.faulty_folder import TABLE, folder_behind, use

from dray.jobs.storage.folder import Folder, Retried, arrow_filesystem
from dray.pipelines import transient


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
