"""The Ray cluster a job runs on: found, or started in this process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType

import ray
from ray.data import DataContext

from dray.jobs.cluster.ray_internals import cluster_address, host_and_port
from dray.pipelines.errors import ConfigError, reason

_Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.signal` takes and returns it
LOCAL = "local"  # as an address: a cluster of this process's own
KEPT = 8  # idle processes of such a cluster at least, if ever so many were at work at once


class Cluster:
    """The Ray cluster of a job: found, or one of this process's own, whose start may begin while other things are done.

    A context manager: what was started ends with it, and so do settings of Ray Data that a job has made.
    """

    def __init__(self, address: str | None) -> None:
        """`address` of the cluster; without, the one this machine is part of, or else one in this process."""
        self._address = address
        self._is_ours = False
        self._started: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._sigterm: _Handler = None  # of before

    def begin(self) -> None:
        """Begins to start Ray where there is no cluster to be found, and returns at once.

        Raises:
            ConfigError: nothing answers at the address.
        """
        _quiet()
        if not ray.is_initialized() and resolved(self._address) == LOCAL:
            if threading.current_thread() is threading.main_thread():  # Ray does so itself where it is started there
                self._sigterm = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            # The thread stays as long as Ray: on Linux what a thread has started is ended with the thread.
            self._thread = ThreadPoolExecutor(1, "ray")
            self._started = self._thread.submit(_init, LOCAL)

    def connect(self) -> None:
        """Returns once Ray is there. Raises ConfigError where it is not."""
        _quiet()
        self._is_ours = self._started is not None or not ray.is_initialized()
        try:
            if self._started is not None:
                self._started.result()
            elif self._is_ours:
                _init(resolved(self._address))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _unreachable(self._address, error) from None
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = 32 << 20

    def __enter__(self) -> Cluster:
        """Itself; nothing is started yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """As `end`."""
        self.end()

    def end(self) -> None:
        """Ends what was started, also where nobody has waited for it."""
        context = DataContext.get_current()
        context.checkpoint_config = None
        context.custom_execution_callback_classes = []
        started, thread, is_ours = self._started, self._thread, self._is_ours
        self._started, self._thread, self._is_ours = None, None, False
        if started is not None:
            wait([started])
        if is_ours or started is not None:
            ray.shutdown()
        if thread is not None:
            thread.shutdown()
        if self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
            self._sigterm = None


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray: the cluster at `address`, the one this machine is part of, or one in this process."""
    with Cluster(address) as cluster:
        cluster.connect()
        yield


def _quiet() -> None:
    """Settings of this process that workers inherit."""
    # Ray's C++ core warns of every actor pool that its arguments could be lost; that belongs in no user's terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers inherit it; threads are planned, not taken
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says of an error, the job's own message says


def _init(found: str) -> None:
    # A cluster of this process's own ends with it: nobody looks at its dashboard, which takes seconds to start.
    # Of its idle processes Ray ends all but one for each core after a second, and starts them anew for the next block.
    kept = {"num_workers_soft_limit": max(KEPT, os.cpu_count() or 1)}
    own = {"include_dashboard": False, "_system_config": kept} if found == LOCAL else {}
    with _silent_stderr():
        ray.init(address=found, logging_level=logging.ERROR, log_to_driver=False, **own)


def resolved(address: str | None) -> str:
    """Where to connect: the address of a cluster that answers, or LOCAL where there is none and none was asked for.

    Ray waits for minutes for a cluster that is not there, and finds a dead one by the file that it left behind.

    Raises:
        ConfigError: nothing answers at an address that was asked for, or it is none.
    """
    try:
        return _answering(address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str | None, error: Exception) -> ConfigError:
    given = address or os.environ.get("RAY_ADDRESS", "auto")
    hint = "" if "RAY_AUTH_MODE" in os.environ else "; if it asks for a token, set RAY_AUTH_MODE=token here as well"
    return ConfigError(f"--address: no Ray cluster answers at {given}: {reason(error)}{hint}")


def _answering(address: str | None) -> str:
    given = address or os.environ.get("RAY_ADDRESS")
    if given is not None and (given == LOCAL or "://" in given):
        return given
    found = cluster_address(given)
    if found is None:
        return LOCAL
    place = host_and_port(found)
    try:
        socket.create_connection(place, timeout=5).close()
    except OSError as error:
        if given not in (None, "auto"):
            raise ConnectionError(reason(error)) from None
        print(f"dray: the Ray cluster started here last, {found}, does not answer; starting one for this run", file=sys.stderr)
        return LOCAL
    return found


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps what Ray's C++ core writes while it starts off the terminal; failures come as exceptions all the same.

    What Python itself writes in the main thread, while another starts Ray, comes through.
    """
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    stderr = sys.stderr
    if stderr is sys.__stderr__ and threading.current_thread() is not threading.main_thread():
        sys.stderr = open(os.dup(saved), "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  # loggers keep it
    ours = sys.stderr
    os.dup2(null, 2)
    try:
        yield
    finally:
        if sys.stderr is ours:
            sys.stderr = stderr
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
