"""Makes an application of Ray Serve from a config."""

from __future__ import annotations

import asyncio
import os

from ray import serve
from ray.serve import Application

from dray.jobs.cluster.plan import THREADS
from dray.pipelines.config import JobConfig, parse_config
from dray.pipelines.errors import ConfigError

KEYS = "DRAY_API_KEYS"  # environment variable: the API keys, separated by commas
GRACE_S = 50.0  # how long a replica that is stopped may finish its requests; Serve waits for a minute


@serve.deployment
@serve.ingress()
class Replica:
    """One copy of the model with the HTTP interface in the same process, so a request takes one hop from Serve's proxy."""

    def __init__(
        self, raw: dict[str, object], name: str, threads: int, keys: tuple[str, ...], listen: tuple[str, int] | None = None
    ) -> None:
        """Loads the model; Serve sends requests only after that.

        Args:
            raw: the config.
            name: the model's name.
            threads: torch's number of threads; 0: torch's default.
            keys: API keys; a client must send one of them, unless there are none.
            listen: (host, port) at which the replica itself listens; None: behind Serve's proxy.
        """
        from dray.jobs.online.app import make_app
        from dray.jobs.online.http_server import HttpServer
        from dray.jobs.online.metrics import Metrics
        from dray.pipelines.online.service import Service

        config, metrics = parse_config(raw), Metrics(name)
        self._service = Service(config, threads, metrics.ran)
        self._service.end_on_hang()
        self._app = make_app(self._service, config, name, keys, metrics.answered)
        self._http_server = HttpServer(self._app, *listen, GRACE_S) if listen else None

    def __serve_build_asgi_app__(self) -> object:  # Serve's name for it
        """The app; Serve calls this once the replica is made."""
        return self._app

    def check_health(self) -> None:
        """Raises if the replica is broken; Serve then replaces it."""
        self._service.check()
        if self._http_server is not None:
            self._http_server.check()

    async def drain(self) -> None:
        """Takes no new connections, and returns when all requests are finished."""
        if self._http_server is not None:
            await asyncio.to_thread(self._http_server.close)


def build(config: JobConfig, listen: tuple[str, int] | None = None) -> Application:
    """The application of a config. With `listen`, a (host, port), its one replica listens there itself."""
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
    keys = tuple(key.strip() for key in os.environ.get(KEYS, "").split(",") if key.strip())
    if KEYS in os.environ and not keys:
        raise ConfigError(f"{KEYS} is set and holds no key; unset it to let everybody in")
    application: Application = deployment.bind(config.model_dump(mode="json"), config.model_name, threads, keys, listen)
    return application


def _has_gpus() -> bool:
    import ray

    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)
