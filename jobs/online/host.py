"""`dray serve CONFIG`: runs the application on a cluster or on this machine until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import ray
from ray import serve

from dray.jobs.cluster.connect import LOCAL, answering_address, connected
from dray.jobs.cluster.ray_internals import serve_address, serve_controller
from dray.jobs.online.deployment import GRACE_S, build
from dray.pipelines.config import JobConfig, ServeConfig
from dray.pipelines.errors import ConfigError, JobError
from dray.pipelines.models.loading import load_phases
from dray.pipelines.models.resolved import resolve_model

NAME = "dray"  # of the application


def run(config: JobConfig, address: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, and then finishes the requests under way. Finds the cluster as `dray run` does.

    If it starts Ray in this process for one replica, the replica listens itself, because Serve's proxy would take more time
    than dray.

    Raises:
        UsageError: the config cannot be served; in this process found before Ray is started.
        JobError: no replica starts.
    """
    cluster = answering_address(address)
    is_own = cluster == LOCAL and not ray.is_initialized()
    place = config.serve.host, config.serve.port or _free_port(config.serve.host)
    if is_own:
        _check(config)
    stop = _Stop()
    with connected(cluster), contextlib.suppress(KeyboardInterrupt), stop.on_sigterm():
        service = _Direct(config, place) if is_own and config.serve.max_replicas == 1 else _Proxied(config, place)
        url = service.start()
        print(f"serving {config.model_name} at {url}", flush=True)
        stop.wait()
        print("finishing what is under way", flush=True)
        service.stop()


class _Stop:
    """Handles SIGTERM like Ctrl-C: while the service starts it interrupts, later it ends `wait`."""

    def __init__(self) -> None:
        self._stop, self._is_waiting = threading.Event(), False

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Handles SIGTERM within the block."""

        def stop(number: int, frame: FrameType | None) -> None:
            if not self._is_waiting:
                raise KeyboardInterrupt
            self._stop.set()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait(self) -> None:
        """Returns at SIGTERM or Ctrl-C."""
        self._is_waiting = True
        with contextlib.suppress(KeyboardInterrupt):
            self._stop.wait()


class _Proxied:
    """Replicas behind Serve's proxies, on a cluster that other applications may use."""

    def __init__(self, config: JobConfig, place: tuple[str, int]) -> None:
        self._config, self._place = config, place
        self._was_running = _is_running()

    def start(self) -> str:
        """Starts the service and returns its URL. Raises JobError if no replica starts; an earlier application then stays."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        application = build(self._config, self._listen())
        existed = self._was_running and NAME in serve.status().applications
        try:
            self._start_serve()
            serve.run(application, name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError) as error:
            cause = _cause(error)
            if not existed:
                self._delete()
            raise JobError(f"the service does not come up: {cause}") from None
        except KeyboardInterrupt:
            if not existed:
                self._give_up()
            raise
        host, port = self._address()
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Stops the service after its replicas have finished; other applications stay."""
        self._delete()

    def _listen(self) -> tuple[str, int] | None:
        """(host, port) at which the replica itself listens; None: behind the proxies."""
        return None

    def _start_serve(self) -> None:
        serve.start(http_options={"host": self._place[0], "port": self._place[1]})

    def _address(self) -> tuple[str, int]:
        """(host, port) of Serve's proxies."""
        place = serve_address()
        if place != self._place:
            print("Ray Serve was running on this cluster; serve.host and serve.port stay as they were then", file=sys.stderr)
        return place

    def _give_up(self) -> None:
        """Stops the service while it is starting."""
        self._delete()

    def _delete(self) -> None:
        try:
            serve.delete(NAME)
        except TimeoutError:
            print("Ray Serve has not ended the service in time; what was still under way is lost", file=sys.stderr)
        if not self._was_running:
            serve.shutdown()


class _Direct(_Proxied):
    """One replica that listens itself, on a Ray in this process."""

    def stop(self) -> None:
        """Takes no new connections, finishes the requests under way, and stops the service."""
        with contextlib.suppress(Exception):  # a dead replica has nothing to finish
            serve.get_app_handle(NAME).drain.remote().result(timeout_s=GRACE_S)
        super().stop()

    def _give_up(self) -> None:
        """Does nothing: Ray ends with this process, and waiting for a model that is loading would take long."""

    def _listen(self) -> tuple[str, int] | None:
        return self._place

    def _start_serve(self) -> None:
        serve.start(proxy_location="Disabled")

    def _address(self) -> tuple[str, int]:
        return self._place


def _check(config: JobConfig) -> None:
    """Raises UsageError where this machine cannot serve the config."""
    load_phases(resolve_model(config), weights=False)
    _refuse_taken(config.serve)


def _is_running() -> bool:
    """Whether Ray Serve runs on the cluster already, possibly for other applications; its proxies keep their address."""
    return serve_controller() is not None


def _refuse_taken(wanted: ServeConfig) -> None:
    """Raises ConfigError if the port is taken or not allowed."""
    try:
        with socket.socket(_family(wanted.host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((wanted.host, wanted.port))
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise ConfigError(f"serve.port: nobody can listen at {wanted.host}:{wanted.port}: {cause}") from None


def _free_port(host: str) -> int:
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _cause(error: BaseException) -> str:
    """The reason why no replica starts: a replica's message, or else Serve's."""
    application = serve.status().applications.get(NAME)
    messages = [each.message for each in application.deployments.values()] if application else []
    lines = [line.strip() for text in [str(error), *messages] for line in text.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+\w+: ", "", lines[-1]) if lines else type(error).__name__  # without the error's class
