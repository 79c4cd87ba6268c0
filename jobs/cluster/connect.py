"""The Ray cluster of a job: an existing one, or one that is started in this process."""

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
LOCAL = "local"  # the address of a cluster in this process
KEPT = 8  # fewest idle processes that such a cluster keeps


class Cluster:
    """The Ray cluster of a job: an existing one, or one in this process, which may start in the background.

    A context manager: at its end it stops the cluster that it started, and resets the job's settings of Ray Data.
    """

    def __init__(self, address: str | None) -> None:
        """`address` of the cluster; None: the cluster this machine is part of, or else one in this process."""
        self._address = address
        self._is_ours = False
        self._started: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._sigterm: _Handler = None  # the handler to restore

    def begin(self) -> None:
        """Starts Ray in the background if there is no cluster, and returns at once.

        Raises:
            ConfigError: nothing answers at the address.
        """
        _quiet()
        if not ray.is_initialized() and answering_address(self._address) == LOCAL:
            if threading.current_thread() is threading.main_thread():  # Ray sets it only when started in the main thread
                self._sigterm = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            # The thread must live as long as Ray: on Linux the processes that a thread started end with the thread.
            self._thread = ThreadPoolExecutor(1, "ray")
            self._started = self._thread.submit(_init, LOCAL)

    def connect(self) -> None:
        """Connects to Ray; waits until it has started. Raises ConfigError if nothing answers."""
        _quiet()
        self._is_ours = self._started is not None or not ray.is_initialized()
        try:
            if self._started is not None:
                self._started.result()
            elif self._is_ours:
                _init(answering_address(self._address))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _unreachable(self._address, error) from None
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = 32 << 20

    def __enter__(self) -> Cluster:
        """Returns the cluster; nothing is started yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Calls `end`."""
        self.end()

    def end(self) -> None:
        """Stops the Ray that was started, also if it is still starting."""
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
    """Connects to Ray within the block: the cluster at `address`, the one of this machine, or one in this process."""
    with Cluster(address) as cluster:
        cluster.connect()
        yield


def _quiet() -> None:
    """Reduces the logs of Ray. Workers inherit the environment variables."""
    # Ray's C++ core warns for every actor pool that its arguments may be lost, which no user needs to see.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the plan decides on threads
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # the job's message has the same error


def _init(address: str) -> None:
    # A cluster in this process needs no dashboard, which takes seconds to start. By default Ray ends all idle processes but
    # one for each core after a second, and has to start them again for the next block.
    kept = {"num_workers_soft_limit": max(KEPT, os.cpu_count() or 1)}
    local = {"include_dashboard": False, "_system_config": kept} if address == LOCAL else {}
    with _silent_stderr():
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **local)


def answering_address(address: str | None) -> str:
    """The address to connect to: that of a cluster that answers, or LOCAL if there is none and `address` names none.

    It connects first because Ray would wait for minutes for a cluster that is dead, and finds dead ones by their files.

    Raises:
        ConfigError: `address` is not an address, or nothing answers there.
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
    running = cluster_address(given)
    if running is None:
        return LOCAL
    place = host_and_port(running)
    try:
        socket.create_connection(place, timeout=5).close()
    except OSError as error:
        if given not in (None, "auto"):
            raise ConnectionError(reason(error)) from None
        print(
            f"dray: the Ray cluster started here last, {running}, does not answer; starting one for this run", file=sys.stderr
        )
        return LOCAL
    return running


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides what Ray's C++ core writes to stderr while it starts. Failures are still raised as exceptions.

    Python's own stderr stays visible if another thread than the main one starts Ray.
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
