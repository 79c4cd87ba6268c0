"""`dray serve CONFIG`: the application on a cluster, or on this machine, until it is told to stop."""

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

from dray.jobs.cluster.connect import LOCAL, connected, resolved
from dray.jobs.cluster.ray_internals import serve_address, serve_controller
from dray.jobs.online.deployment import GRACE_S, build
from dray.pipelines.config import JobConfig, ServeConfig
from dray.pipelines.errors import ConfigError, JobError
from dray.pipelines.models.loading import load_phases
from dray.pipelines.models.resolved import resolve_model

NAME = "dray"  # of the application


def run(config: JobConfig, address: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, and then finishes what is under way; on a cluster as `dray run` finds it.

    Where it starts a Ray of its own for one replica, that listens itself: Serve's proxy would add more than dray does.

    Raises:
        UsageError: the config cannot be served; found before a Ray of its own is started.
        JobError: no replica comes up.
    """
    found = resolved(address)
    is_own = found == LOCAL and not ray.is_initialized()
    place = config.serve.host, config.serve.port or _free_port(config.serve.host)
    if is_own:
        _check(config)
    stop = _Stop()
    with connected(found), contextlib.suppress(KeyboardInterrupt), stop.on_sigterm():
        service = _Direct(config, place) if is_own and config.serve.max_replicas == 1 else _Proxied(config, place)
        url = service.start()
        print(f"serving {config.model or config.task} at {url}", flush=True)
        stop.wait()
        print("finishing what is under way", flush=True)
        service.stop()


class _Stop:
    """SIGTERM, as Ctrl-C: while the service is started it interrupts, later it ends the waiting."""

    def __init__(self) -> None:
        self._stop, self._is_waiting = threading.Event(), False

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Hears of it."""

        def hear(number: int, frame: FrameType | None) -> None:
            if not self._is_waiting:
                raise KeyboardInterrupt
            self._stop.set()

        before = signal.signal(signal.SIGTERM, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def wait(self) -> None:
        """Until either."""
        self._is_waiting = True
        with contextlib.suppress(KeyboardInterrupt):
            self._stop.wait()


class _Proxied:
    """Replicas behind Serve's proxies, on a cluster that others may use."""

    def __init__(self, config: JobConfig, place: tuple[str, int]) -> None:
        self._config, self._place = config, place
        self._was_running = _is_running()

    def start(self) -> str:
        """Returns the URL. Raises JobError where no replica comes up; an application that was there before stays then."""
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        application = build(self._config, self._listen())
        was_there = self._was_running and NAME in serve.status().applications
        try:
            self._start_serve()
            serve.run(application, name=NAME, route_prefix="/")
        except (RuntimeError, TimeoutError) as error:
            said = _cause(error)
            if not was_there:
                self._delete()
            raise JobError(f"the service does not come up: {said}") from None
        except KeyboardInterrupt:
            if not was_there:
                self._give_up()
            raise
        host, port = self._address()
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Its replicas finish first; others' applications stay."""
        self._delete()

    def _listen(self) -> tuple[str, int] | None:
        """Where the replica is to listen itself."""
        return None

    def _start_serve(self) -> None:
        serve.start(http_options={"host": self._place[0], "port": self._place[1]})

    def _address(self) -> tuple[str, int]:
        """Of Serve's proxies."""
        place = serve_address()
        if place != self._place:
            print("Ray Serve was running on this cluster; serve.host and serve.port stay as they were then", file=sys.stderr)
        return place

    def _give_up(self) -> None:
        """It is told to stop while it starts."""
        self._delete()

    def _delete(self) -> None:
        try:
            serve.delete(NAME)
        except TimeoutError:
            print("Ray Serve has not ended the service in time; what was still under way is lost", file=sys.stderr)
        if not self._was_running:
            serve.shutdown()


class _Direct(_Proxied):
    """One replica that listens itself, on a Ray of this process's own."""

    def stop(self) -> None:
        """Takes no new connections, and finishes what it has."""
        with contextlib.suppress(Exception):  # a replica that has died has nothing to finish
            serve.get_app_handle(NAME).drain.remote().result(timeout_s=GRACE_S)
        super().stop()

    def _give_up(self) -> None:
        """Ray ends with this process; to wait for a model that is being loaded would take long."""

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
    """Whether Ray Serve runs on the cluster already, for others perhaps; its proxies listen where they were told to."""
    return serve_controller() is not None


def _refuse_taken(wanted: ServeConfig) -> None:
    """Raises ConfigError where the port cannot be listened at."""
    try:
        with socket.socket(_family(wanted.host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((wanted.host, wanted.port))
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise ConfigError(f"serve.port: nobody can listen at {wanted.host}:{wanted.port}: {said}") from None


def _free_port(host: str) -> int:
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _cause(error: BaseException) -> str:
    """What a replica has said of why it does not start, or else what Serve says."""
    application = serve.status().applications.get(NAME)
    messages = [each.message for each in application.deployments.values()] if application else []
    lines = [line.strip() for text in [str(error), *messages] for line in text.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+\w+: ", "", lines[-1]) if lines else type(error).__name__  # without the error's class
