import pytest

from dray.jobs.cluster.plan import Node, Workload, block_rows, make_plan
from dray.pipelines.config import EngineConfig
from dray.pipelines.errors import ConfigError

GIB = 1 << 30
SMALL = Workload(rows=10_000, row_flops=1e8, weight_bytes=4 << 20, fans_out=True)


def nodes(cpus: float, gpus: float = 0, count: int = 1) -> list[Node]:
    return [Node(cpus, gpus, 4 * GIB * max(1, cpus))] * count


@pytest.mark.parametrize("layout", ["fused", "staged"])
@pytest.mark.parametrize("copies", ["auto", 1, 2])
@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 16, 64])
def test_every_operator_has_room_to_run_at_once(cpus, gpus, copies, layout):
    plan = make_plan(nodes(cpus, gpus), EngineConfig(layout=layout, copies=copies), SMALL)
    assert plan.cpus <= cpus
    assert sum(pool.actors * pool.gpus for pool in plan.pools) <= max(gpus, 0) or plan.model.actors == copies
    assert all(pool.cpus <= cpus for pool in plan.pools)
    if not plan.model.gpus:
        assert plan.threads * plan.model.actors <= max(cpus, plan.model.actors)


def test_a_cluster_of_small_nodes_never_asks_for_more_than_one_node_has():
    plan = make_plan(nodes(2, count=8), EngineConfig(), SMALL)
    assert plan.model.actors > 2
    assert all(pool.cpus <= 2 for pool in plan.pools)
    assert plan.threads <= 2


@pytest.mark.parametrize("copies", ["auto", 1, 3, 40])
@pytest.mark.parametrize("layout", ["fused", "staged"])
@pytest.mark.parametrize(
    "cluster",
    [
        nodes(16, count=2),
        [*nodes(1), *nodes(16)],
        [Node(0, 1, 64 * GIB), *nodes(8)],
        nodes(2, count=8),
        [*nodes(8, 8), *nodes(16, count=10)],
    ],
)
def test_every_pool_fits_its_nodes(cluster, layout, copies):
    """Actors are put on nodes one by one, largest first; none is left over, and tasks still have room."""
    work = Workload(rows=100, row_flops=1e8, weight_bytes=4 << 20, fans_out=True) if copies == "auto" else SMALL
    plan = make_plan(cluster, EngineConfig(layout=layout, copies=copies), work)
    free, gpus = [node.cpus for node in cluster], [node.gpus for node in cluster]
    for pool in sorted(plan.pools, key=lambda pool: -pool.cpus):
        for _ in range(pool.actors if not (pool.gpus and copies != "auto") else 0):
            place = next((i for i in range(len(free)) if free[i] >= pool.cpus - 1e-9 and gpus[i] >= pool.gpus), None)
            assert place is not None, (pool, free, gpus)
            free[place] -= pool.cpus
            gpus[place] -= pool.gpus
    assert max(free) >= plan.task_cpus


@pytest.mark.parametrize(("cluster", "at_once"), [(nodes(1), 1), (nodes(2), 1), (nodes(64), 32), (nodes(8, count=4), 16)])
def test_few_cores_have_few_tasks_at_once_on_local_disk(cluster, at_once):
    assert make_plan(cluster, EngineConfig(), SMALL).disk_tasks == at_once


def test_gpus_are_counted_where_they_are():
    cluster = [*nodes(8, 8), *nodes(16, count=10)]
    assert make_plan(cluster, EngineConfig(), SMALL).model.actors == 8
    with pytest.raises(ConfigError, match=r"engine\.device: cuda, but the cluster has no GPU"):
        make_plan(nodes(4), EngineConfig(device="cuda"), SMALL)


def test_layouts():
    assert make_plan(nodes(8), EngineConfig(), SMALL).layout == "fused"
    on_gpu = make_plan(nodes(8, 2), EngineConfig(), SMALL)
    assert on_gpu.layout == "staged"
    assert (on_gpu.model.actors, on_gpu.model.gpus) == (2, 1.0)
    assert on_gpu.preprocess is not None
    assert on_gpu.preprocess.actors == 5
    assert make_plan(nodes(8, 2), EngineConfig(device="cpu"), SMALL).model.gpus == 0


def test_little_work_starts_few_actors_and_memory_bounds_them():
    assert make_plan(nodes(16), EngineConfig(), Workload(8, 1e6, 1 << 20, False)).model.actors == 1
    large = Workload(10**6, 1e12, 20 * GIB, False)
    assert make_plan([Node(16, 0, 100 * GIB)], EngineConfig(), large).model.actors == 2
    with pytest.raises(ConfigError, match="no node has the memory for one copy of the model"):
        make_plan([Node(16, 0, 16 * GIB)], EngineConfig(), large)


def test_a_cluster_without_cpus_is_refused():
    with pytest.raises(ConfigError, match="no CPUs"):
        make_plan([Node(0, 1, GIB)], EngineConfig(), SMALL)


def test_blocks_are_seconds_of_work_and_keep_every_actor_busy():
    million = Workload(10**6, 2e8, 1 << 20, False)
    assert block_rows(million, 2e10, 8) == pytest.approx(8 / (0.01 + 5e-4), abs=1)
    assert block_rows(Workload(10**6, 1e13, 1, False), 2e10, 8) == 8
    assert block_rows(Workload(80, 2e6, 1, False), 2e10, 2) == 8
    assert block_rows(Workload(20_000, 1e9, 1, False), 2e13, 1, helpers=22) == 455  # so that none of the helpers is idle
    assert block_rows(Workload(20_000, 1e9, 1, False, row_bytes=500_000), 2e13, 1) == 134  # 64 MiB
    assert block_rows(Workload(20_000, 1e9, 1, False, row_bytes=1e9), 2e13, 1) == 1
    assert block_rows(Workload(5, 1e15, 1, False), 2e10, 2) == 1


def test_blocks_of_many_actors_are_as_long_as_the_driver_needs():
    def blocks_per_second(actors: int, flops: float) -> float:
        work = Workload(10**10, flops, 1, False)
        return actors / (block_rows(work, 2e13, actors) * (flops / 2e13 + 5e-4))

    for actors in (1, 16, 128, 1024):
        for flops in (1e6, 1e10, 1e13):
            assert blocks_per_second(actors, flops) <= 10 * 1.001
