"""Fixtures that are made once: tiny models, and one Ray for all tests."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything loads transformers.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "DRAY_CACHE" not in os.environ:  # nothing that is tuned or fetched here is left behind
    os.environ["DRAY_CACHE"] = tempfile.mkdtemp(prefix="dray-cache-")
    atexit.register(shutil.rmtree, os.environ["DRAY_CACHE"], ignore_errors=True)
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")

import psutil
import pytest
from support import builders, drilling, faulty
from support.places import ROOT, Cluster, free_port


class Models:
    """Folders of tiny models, each built when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> str:
        folder = self._folder / name
        if not (folder / "config.json").exists():
            kind, _, variant = name.partition("__")
            getattr(builders, kind)(folder, *([variant] if variant else []))
        return str(folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def bundled() -> str:
    """The folder of the bundled speech model."""
    return str(ROOT / "demo" / "model")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`ray start --head` with two logical CPUs, stopped at the end. Ports are free ones, so it can share its host."""
    gcs, dashboard = free_port(), free_port()
    from ray._common.utils import get_ray_address_file

    log = tmp_path_factory.mktemp("ray") / "head.log"
    scripts = Path(sys.executable).parent
    command = [str(scripts / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", f"--port={gcs}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    # As from an activated environment: the `python` of a submitted job is the first one on the head's PATH.
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent, env=environment)
    try:
        _wait_for(dashboard, process, log)
        yield Cluster(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}")
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([psutil.Process(process.pid), *started], timeout=5)
        for leftover in alive:
            leftover.kill()
        process.wait(10)
        latest = Path(get_ray_address_file(None))  # a killed head leaves it, and the next driver would try it
        if latest.exists() and latest.read_text().endswith(f":{gcs}"):
            latest.unlink()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"ray start did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def ray_session(cluster: Cluster) -> Iterator[None]:
    """This process, connected to the cluster."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def dray(cluster: Cluster) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the `dray` command, against the cluster where it runs a job."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dray.jobs.cli", *arguments]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240, **options)

    return run


BOOK = pytest.StashKey[list[tuple[str, str, str]]]()


@pytest.fixture
def book(request: pytest.FixtureRequest) -> Callable[[str, str, str], None]:
    """Notes a fault, what happened and the balance, for the table at the end."""
    lines = request.config.stash.setdefault(BOOK, [])
    return lambda fault, happened, balance: lines.append((fault, happened, balance))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(BOOK, [])
    if not lines:
        return
    terminalreporter.section("faults, what happened, the balance")
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for fault, happened, balance in lines:
        terminalreporter.line(f"{fault:<{widths[0]}}  {happened:<{widths[1]}}  {balance}")


@pytest.fixture(scope="session")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that makes trouble on certain words."""
    return drilling.trouble_model(tmp_path_factory.mktemp("trouble"))


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, and 50 ms for every batch."""
    return drilling.trouble_model(tmp_path_factory.mktemp("slow"), seconds=0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a job, for drilling.text_job."""
    return tmp_path / "job"


@pytest.fixture
def s3() -> Iterator[faulty.Proxy]:
    """A real S3 endpoint over HTTP on loopback, behind a proxy that makes faults when it is told to."""
    with faulty.faulty_s3() as proxy:
        yield proxy
