"""The only module that uses private names of Ray: executor settings, free resources, addresses of the cluster and of Serve.

Sources: ray/data/_internal, ray/_private and ray/serve/_private of Ray 2.60; tests/jobs/cluster/test_ray_internals.py checks
that they still exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import ray
from ray._common.network_utils import parse_address
from ray._private.services import canonicalize_bootstrap_address
from ray._private.state import available_resources_per_node
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources, TaskContext
from ray.data.checkpoint import CheckpointConfig

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = [
    "TaskContext",
    "cluster_address",
    "commit_only",
    "execution_callback",
    "free_resources",
    "host_and_port",
    "serve_address",
    "serve_controller",
    "set_task_cpus",
]


class _Planned(ClusterAutoscaler):  # type: ignore[misc]  # Ray is untyped
    """Ray's autoscaler with other total resources: the CPUs and GPUs that were free when the job was planned.

    In Ray 2.60 an actor on the cluster divides the resources among jobs, and counts the requests of a killed driver for three
    more minutes. A job that was continued in that time got no CPU. Its tasks ran one at a time, so nothing was written, and
    nothing was safe, until the model had done the last row. The second of two jobs on a small cluster got no CPU either,
    because shares are rounded down to whole CPUs.
    """

    def __init__(self, original: ClusterAutoscaler, cpus: float, gpus: float) -> None:
        self._original, self._cpus, self._gpus = original, cpus, gpus

    def try_trigger_scaling(self) -> object:
        return self._original.try_trigger_scaling()

    def on_executor_shutdown(self) -> None:
        self._original.on_executor_shutdown()

    def get_total_resources(self) -> ExecutionResources:
        shared, whole = self._original.get_total_resources(), ExecutionResources.from_resource_dict(ray.cluster_resources())
        if shared.object_store_memory <= 0:  # at first, until the actor answers
            shared = whole
        return shared.copy(cpu=min(self._cpus, whole.cpu), gpu=min(self._gpus, whole.gpu))  # nodes may be lost


def execution_callback(cpus: float, gpus: float, stop: Sequence[Exception]) -> type[ExecutionCallback]:
    """A callback class for DataContext: the execution uses these CPUs and GPUs, and raises `stop[0]` once `stop` has one."""

    class Callback(ExecutionCallback):  # type: ignore[misc]  # Ray is untyped
        def before_execution_starts(self, executor: object) -> None:
            executor._cluster_autoscaler = _Planned(executor._cluster_autoscaler, cpus, gpus)  # type: ignore[attr-defined]

        def on_execution_step(self, executor: object) -> None:
            if stop:
                raise stop[0]

    return Callback


def commit_only(manager: type) -> dict[str, type]:
    """Arguments of CheckpointConfig with which Ray Data commits what is written, and `manager` says that nothing is filtered.

    Ray 2.59 has no argument for it; there the class takes the place of Ray's own in this process, where reading is planned.
    """
    if "checkpoint_manager_cls" in inspect.signature(CheckpointConfig).parameters:
        return {"checkpoint_manager_cls": manager}
    from ray.data._internal.planner.checkpoint import plan_read_op

    plan_read_op.IdColumnCheckpointManager = manager
    return {}


def set_task_cpus(rows: Dataset, cpus: float) -> None:
    """Sets the CPUs of each task of a dataset's last operator, for `repartition`, which has no argument for it.

    By default such a task needs a whole CPU, which the actors never leave free on small machines.
    """
    rows._logical_plan.dag.ray_remote_args["num_cpus"] = cpus


def free_resources() -> list[Mapping[str, float]]:
    """The free resources of each node: CPU, GPU, memory in bytes."""
    return list(available_resources_per_node().values())


def cluster_address(given: str | None) -> str | None:
    """The "host:port" of a cluster: from an address, from RAY_ADDRESS, or from the file that `ray start` writes."""
    return cast("str | None", canonicalize_bootstrap_address(given))


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of "host:port"; the host may be an IPv6 address in brackets. Raises ValueError for another form."""
    parts = parse_address(address)
    if parts is None or not parts[1].isdecimal():
        raise ValueError(f"{address} is not an address like 127.0.0.1:6379")
    return parts[0], int(parts[1])


def serve_controller() -> object | None:
    """The actor that runs Ray Serve on this cluster, possibly for other applications; None where Serve does not run."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller: object = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    return controller


def serve_address() -> tuple[str, int]:
    """(host, port) of the proxies of a running Ray Serve."""
    from ray.serve.context import _get_global_client

    options = _get_global_client().http_config
    return options.host, options.port
