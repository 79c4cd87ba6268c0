"""A whole node dies: raylet, workers and the objects that it held."""

import psutil
import pytest
from support import builders
from support.drilling import text_job


@pytest.fixture
def three_nodes(monkeypatch):
    """A cluster of three nodes with two logical CPUs each; the address, and the raylets of the two that may die."""
    from conftest import free_port
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")

    def ports() -> dict[str, int]:
        return {"dashboard_agent_listen_port": free_port()}

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **ports()})
    nodes = [cluster.add_node(num_cpus=2, **ports()) for _ in range(2)]
    yield cluster.address, [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
    cluster.shutdown()


def die(raylet: psutil.Process) -> None:
    """As when the power fails: all of the node's processes at once."""
    family = [raylet, *raylet.children(recursive=True)]
    for process in family:
        process.suspend()
    for process in family:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fused", "staged"])
def test_a_node_dies(three_nodes, slow_model, folder, book, layout):
    address, raylets = three_nodes
    job = text_job(
        folder, slow_model, address, builders.texts(6000, median=8), engine={"batch": 16, "layout": layout, "copies": 3}
    )
    process = job.start()
    for number, raylet in enumerate(raylets, 1):
        job.wait_for_commits(3 * number, process)
        assert process.poll() is None
        die(raylet)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    book(f"two of three nodes die ({layout})", "one after the other; the job went on", job.assert_complete())
