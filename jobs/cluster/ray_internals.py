"""What Ray Data's executor is told: what the job may use, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources

from dray.jobs.cluster.plan import Plan
from dray.pipelines.errors import JobError


class _Planned(ClusterAutoscaler):  # type: ignore[misc]  # Ray is untyped
    """Ray's own, except for what it says that the job may use: the CPUs and GPUs that were free when it was planned.

    In Ray 2.60 an actor on the cluster shares them out, and for three minutes it counts what a killed driver had asked
    for; a job that was continued in that time got no CPU, and its tasks ran one at a time: nothing was written, and so
    nothing safe, until the model had done the last row. Of two jobs at once on a small cluster the second had none either,
    for shares are rounded down to whole CPUs.
    """

    def __init__(self, ray_s: ClusterAutoscaler, plan: Plan) -> None:
        self._ray_s, self._plan = ray_s, plan

    def try_trigger_scaling(self) -> object:
        return self._ray_s.try_trigger_scaling()

    def on_executor_shutdown(self) -> None:
        self._ray_s.on_executor_shutdown()

    def get_total_resources(self) -> ExecutionResources:
        shared, whole = self._ray_s.get_total_resources(), ExecutionResources.from_resource_dict(ray.cluster_resources())
        offered = self._plan.offered
        if shared.object_store_memory <= 0:  # at first, until the actor answers
            shared = whole
        return shared.copy(cpu=min(offered.cpus, whole.cpu), gpu=min(offered.gpus, whole.gpu))  # nodes may be lost


def controlled(plan: Plan, stop: Sequence[JobError]) -> type[ExecutionCallback]:
    """A callback for DataContext: the execution uses what was planned, and ends as soon as there is something in `stop`."""

    class Controlled(ExecutionCallback):  # type: ignore[misc]  # Ray is untyped
        def before_execution_starts(self, executor: object) -> None:
            executor._cluster_autoscaler = _Planned(executor._cluster_autoscaler, plan)  # type: ignore[attr-defined]

        def on_execution_step(self, executor: object) -> None:
            if stop:
                raise stop[0]

    return Controlled
