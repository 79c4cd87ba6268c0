"""A config behind Ray Serve: `dray serve CONFIG`, `serve run jobs.serve:app config=CONFIG`, or a Serve config file."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Mapping

from ray import serve
from ray.serve import Application
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from jobs.resources import THREADS
from pipelines.config import JobConfig, load_config, parse_config
from pipelines.errors import ConfigError

KEYS = "DRAY_API_KEYS"  # environment variable: keys with commas between them, of which a client must have one
GRACE_S = 60.0  # for which a replica that is to go finishes what it has


@serve.deployment
@serve.ingress()
class Replica:
    """One copy of the model, with the HTTP interface in the same process: a request takes one hop from Serve's proxy."""

    def __init__(self, raw: dict[str, object], name: str, threads: int, keys: tuple[str, ...]) -> None:
        """Loads the model; Serve sends requests only after that."""
        from jobs.metrics import Metrics
        from pipelines.service import Service

        self._config, self._name, self._keys = parse_config(raw), name, keys
        self._metrics = Metrics(name)
        self._service = Service(self._config, threads, self._metrics.ran)
        self._service.guard()

    def __serve_build_asgi_app__(self) -> object:  # Serve's name for it
        """Serve asks for the app once the replica is made."""
        from jobs.api import make_app

        return make_app(self._service, self._config, self._name, self._keys, self._metrics.answered)

    def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        self._service.check()


def build(config: JobConfig) -> Application:
    """The application of a config."""
    on_gpu = (config.engine.device == "auto" and _has_gpus()) or config.engine.device.startswith("cuda")
    threads = 0 if on_gpu else THREADS
    scaling: dict[str, object] = {"num_replicas": config.serve.min_replicas}
    if config.serve.max_replicas > config.serve.min_replicas:
        bounds = {"min_replicas": config.serve.min_replicas, "max_replicas": config.serve.max_replicas}
        scaling = {"autoscaling_config": {**bounds, "target_ongoing_requests": max(1, config.serve.max_requests // 8)}}
    deployment = Replica.options(  # type: ignore[attr-defined]  # Ray's decorator adds it
        name="dray",
        ray_actor_options={"num_gpus": 1} if on_gpu else {"num_cpus": 1},
        max_ongoing_requests=2 * config.serve.max_requests,  # beyond its own limit a replica answers 503 at once
        graceful_shutdown_timeout_s=GRACE_S,
        **scaling,
    )
    name = config.model or str(config.task)
    keys = tuple(key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip())
    if KEYS in os.environ and not keys:
        raise ConfigError(f"{KEYS} is set and holds no key; unset it to let everybody in")
    application: Application = deployment.bind(config.model_dump(mode="json"), name, threads, keys)
    return application


def app(arguments: Mapping[str, str]) -> Application:
    """For `serve run jobs.serve:app config=CONFIG` and Serve's config files. Raises ConfigError."""
    if "config" not in arguments:
        raise ConfigError("name a config: serve run jobs.serve:app config=configs/sentiment.yaml")
    return build(load_config(arguments["config"]))


def run(config: JobConfig, address: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, and then finishes what is under way; on a cluster as `dray run` finds it."""
    from jobs.connect import connected

    stop = threading.Event()
    with connected(address):
        signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
        was_running = _is_running()
        serve.start(http_options={"host": config.serve.host, "port": config.serve.port})
        serve.run(build(config), name="dray", route_prefix="/")
        print(f"serving {config.model or config.task} at http://{config.serve.host}:{config.serve.port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            stop.wait()
        print("finishing what is under way", flush=True)
        serve.delete("dray")  # its replicas finish first; others' applications stay
        if not was_running:
            serve.shutdown()


def _is_running() -> bool:
    """Whether Ray Serve runs on the cluster already, for others perhaps; its proxies listen where they were told to."""
    import ray

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _has_gpus() -> bool:
    import ray

    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)
