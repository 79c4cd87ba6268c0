"""Every private name of Ray that dray relies on is there, and takes what it is given."""

import inspect

import pytest
import ray.data
from ray._common import network_utils
from ray._private import services, state
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources, TaskContext
from ray.data._internal.execution.streaming_executor import StreamingExecutor
from ray.data._internal.planner.checkpoint import plan_read_op
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import CheckpointManager
from ray.serve import context
from ray.serve._private import constants

from dray.jobs.cluster import ray_internals

CALLED = [
    (network_utils, "parse_address", ("address",)),
    (services, "canonicalize_bootstrap_address", ("addr",)),
    (state, "available_resources_per_node", ()),
    (ExecutionCallback, "before_execution_starts", ("executor",)),
    (ExecutionCallback, "on_execution_step", ("executor",)),
    (ClusterAutoscaler, "try_trigger_scaling", ()),
    (ClusterAutoscaler, "on_executor_shutdown", ()),
    (ClusterAutoscaler, "get_total_resources", ()),
    (ExecutionResources, "from_resource_dict", ("resource_dict",)),
    (ExecutionResources, "copy", ("cpu", "gpu")),
    (context, "_get_global_client", ()),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), CALLED, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_there_and_takes_what_it_is_given(owner, name, parameters):
    known = inspect.signature(getattr(owner, name)).parameters
    assert set(parameters) <= known.keys(), f"{name} now takes {', '.join(known)}"


def test_what_is_read_is_there():
    assert "_cluster_autoscaler" in inspect.getsource(StreamingExecutor)
    assert {"kwargs", "task_idx"} <= set(inspect.signature(TaskContext).parameters)
    assert {"SERVE_CONTROLLER_NAME", "SERVE_NAMESPACE"} <= set(vars(constants))


def test_the_cpus_of_a_repartition_task_can_be_set(ray_session):
    rows = ray.data.range(4).repartition(target_num_rows_per_block=2, strict=True)
    ray_internals.set_task_cpus(rows, 0.1)
    assert rows._logical_plan.dag.ray_remote_args["num_cpus"] == 0.1
    assert rows.count() == 4


def test_addresses():
    assert ray_internals.host_and_port("127.0.0.1:6379") == ("127.0.0.1", 6379)
    for wrong in ("nonsense", "nonsense:port", "a:b:c"):
        with pytest.raises(ValueError, match="is not an address like"):
            ray_internals.host_and_port(wrong)


def test_what_is_free_and_whether_serve_runs(ray_session):
    assert sum(node.get("CPU", 0) for node in ray_internals.free_resources()) > 0
    assert ray_internals.serve_controller() is None


def test_a_manager_that_filters_nothing_takes_the_place_of_rays(tmp_path):
    class Nothing(CheckpointManager):
        pass

    CheckpointConfig(id_column="key", checkpoint_path=str(tmp_path), **ray_internals.commit_only(Nothing))
    assert (
        hasattr(plan_read_op, "IdColumnCheckpointManager")
        or "checkpoint_manager_cls" in inspect.signature(CheckpointConfig).parameters
    )
