"""From cluster and work to pool sizes, threads, CPU shares and blocks, such that every operator always has room to run.

Ray Data waits forever where actors hold every CPU and a read task wants one. So all pools together take at most four
fifths of the CPUs, and the tasks that read, cut and write take small shares of the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ray

from dray.jobs.cluster.ray_internals import free_resources
from dray.pipelines.config import EngineConfig
from dray.pipelines.errors import ConfigError

POOLS = 0.8  # share of the CPUs that actors may hold
ACTOR_BYTES = 700 << 20  # a worker with torch and transformers loaded, before any weights
CPUS_PER_DISK_TASK = 2  # each is a process, which Ray starts in a second of a core and ends when idle; the model needs both
THREADS = 2  # cores of a copy of the model, where nothing was tuned: as fast as two of one thread, and starts sooner
BLOCK_SECONDS = 8.0  # model work in a block: how much an interruption can cost, and how often results appear
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 4096  # rows, where there are enough
BLOCK_BYTES = 64 << 20  # of what is read: one row may be more, but a block must not fill the object store
DRIVER_S = 0.1  # of the driver for each block, its one loop; 0.07 at most was measured. More actors need longer blocks
BLOCKS = 5  # for each actor at least, so that all end at about the same time
MOST_HELPERS = 32  # preprocessing actors for one model actor: one accelerator outruns few CPUs, but not without end
CPU_FLOPS, ACCELERATOR_FLOPS = 4e10, 2e13  # a second, of one thread, of one device: guesses that size blocks, no more
ROW_SECONDS = 5e-4  # overhead of a row
TUNING_SHARE, LEAST_TUNING, MOST_TUNING = 0.02, 1.0, 8.0  # of a job's time; seconds: less is of no use, more is not needed


@dataclass(frozen=True)
class Node:
    """What one node offers. Memory in bytes."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class Workload:
    """What is to be done.

    Attributes:
        rows: left to do.
        row_flops: of the model for an average row.
        weight_bytes: of the model.
        fans_out: whether long items are worth spreading over the pool.
        threads: that a copy of the model should have on CPUs.
        row_bytes: that are read for an average row.
        cpu_flops: operations per second of one thread.
    """

    rows: int
    row_flops: float
    weight_bytes: int
    fans_out: bool
    threads: int = THREADS
    row_bytes: float = 0.0
    cpu_flops: float = CPU_FLOPS


@dataclass(frozen=True)
class Pool:
    """An actor pool: how many actors, and the CPUs and GPUs that each holds."""

    actors: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How a job uses a cluster.

    Attributes:
        model: the pool with weights; in the fused layout it does everything.
        preprocess, postprocess, gather: of the staged layout, otherwise None. Gather only where items fan out.
        threads: of torch in each model actor.
        task_cpus: of each read, repartition and write task.
        disk_tasks: at once that read from local disk, and as many that write there.
        block_rows: rows of a block.
        offered: what the nodes it was made for offered together.
        tuning_s: seconds that a worker may spend on finding how large a batch should be, where that is not known.
    """

    layout: Literal["fused", "staged"]
    model: Pool
    preprocess: Pool | None
    postprocess: Pool | None
    gather: Pool | None
    threads: int
    task_cpus: float
    disk_tasks: int
    block_rows: int
    offered: Node
    tuning_s: float = 0.0

    @property
    def pools(self) -> list[Pool]:
        """Those there are."""
        return [pool for pool in (self.model, self.preprocess, self.postprocess, self.gather) if pool is not None]

    @property
    def cpus(self) -> float:
        """What must be free for every operator to run at once: all pools, and one task of each of the three kinds."""
        return sum(pool.actors * pool.cpus for pool in self.pools) + 3 * self.task_cpus

    def fits(self, nodes: Sequence[Node]) -> bool:
        """Whether these nodes together have what it takes."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return self.cpus <= cpus and sum(pool.actors * pool.gpus for pool in self.pools) <= gpus


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster, whole."""
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free_nodes(engine: EngineConfig, interval_s: float = 10.0) -> list[Node]:
    """What other work leaves of the nodes. Waits, saying so, until that is a CPU, and a GPU where the job can use one.

    Two jobs that both planned with the whole cluster would hold all of it with their actors, and no task could run.
    """
    whole = cluster_nodes()
    cpus, gpus = sum(node.cpus for node in whole), sum(node.gpus for node in whole)
    largest = max((node.cpus for node in whole), default=0.0)
    wanted = min(1.0, largest), min(1.0, gpus) if engine.device == "auto" or engine.device.startswith("cuda") else 0.0
    said = time.monotonic() - interval_s
    while True:
        nodes = [_node(node) for node in free_resources()]
        free = [node for node in nodes if node.cpus >= wanted[0] or node.gpus >= 1]  # crumbs are no place for an actor
        left = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        if sum(node.cpus for node in free) >= wanted[0] and left[1] >= wanted[1]:
            return free
        if time.monotonic() - said >= interval_s:
            said = time.monotonic()
            rest = f"{left[0]:g} of {cpus:g} CPUs" + (f" and {left[1]:g} of {gpus:g} GPUs" if gpus else "")
            print(f"waiting: other work on the cluster leaves {rest}", flush=True)
        time.sleep(0.5)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0))


def make_plan(nodes: Sequence[Node], engine: EngineConfig, work: Workload) -> Plan:
    """Sizes everything.

    Raises:
        ConfigError: the cluster has no CPU, or no node has the memory for one copy of the model.
    """
    nodes = [node for node in nodes if node.cpus > 0 or node.gpus > 0]
    cpus, gpus = sum(node.cpus for node in nodes), sum(int(node.gpus) for node in nodes)
    if cpus <= 0:
        raise ConfigError("the cluster has no CPUs; start a node with at least one")
    if engine.device.startswith("cuda") and gpus < 1:
        raise ConfigError(f"engine.device: {engine.device}, but the cluster has no GPU")
    on_gpus = gpus >= 1 and (engine.device == "auto" or engine.device.startswith("cuda"))
    layout = engine.layout if engine.layout != "auto" else ("staged" if on_gpus else "fused")
    actors, threads = _model_actors(nodes, engine, work, on_gpus)
    capacity = _Capacity(nodes)
    shares = _fused(capacity, actors, on_gpus) if layout == "fused" else _staged(capacity, actors, on_gpus, work.fans_out)
    model, preprocess, postprocess, gather = shares
    actors = model.actors
    speed = ACCELERATOR_FLOPS if on_gpus else work.cpu_flops * threads
    return Plan(
        layout=layout,
        model=model,
        preprocess=preprocess,
        postprocess=postprocess,
        gather=gather,
        threads=threads,
        task_cpus=_floor(min(0.25, cpus * (1 - POOLS) / 4)),
        disk_tasks=max(1, int(cpus / CPUS_PER_DISK_TASK)),
        block_rows=block_rows(work, speed, actors, preprocess.actors if preprocess else 0),
        offered=Node(cpus, gpus, sum(node.memory for node in nodes)),
        tuning_s=_tuning_seconds(work, speed, actors),
    )


def copy_bytes(work: Workload) -> int:
    """Memory of a worker with a copy of the model."""
    return ACTOR_BYTES + 2 * work.weight_bytes


def block_rows(work: Workload, flops_per_second: float, actors: int, helpers: int = 0) -> int:
    """Rows for about BLOCK_SECONDS of model work, few enough for memory, and for every actor and helper to have several.

    Where the blocks of many actors would end faster than the driver can see to them, they are longer.
    """
    seconds = _row_seconds(work, flops_per_second)
    wanted = min(max(round(BLOCK_SECONDS / seconds), SMALLEST_BLOCK), LARGEST_BLOCK)
    bearable = math.ceil(DRIVER_S * actors / seconds)
    spread = math.ceil(work.rows / max(BLOCKS * actors, 2 * helpers))
    fitting = int(BLOCK_BYTES / max(1.0, work.row_bytes))
    return max(1, min(max(wanted, bearable), spread, fitting))


def _row_seconds(work: Workload, flops_per_second: float) -> float:
    return work.row_flops / flops_per_second + ROW_SECONDS


def _tuning_seconds(work: Workload, flops_per_second: float, actors: int) -> float:
    """A small share of the job; none of a short one."""
    seconds = TUNING_SHARE * work.rows * _row_seconds(work, flops_per_second) / actors
    return min(seconds, MOST_TUNING) if seconds >= LEAST_TUNING else 0.0


class _Capacity:
    """The CPUs that pools may hold, node by node: an actor has to fit on one of them."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = [node.cpus for node in nodes if node.cpus > 0]
        self.cpus = sum(self._nodes)

    def pool(self, share: float, actors: int) -> Pool:
        """At most `actors` actors that together hold about `share` of all CPUs, and on each node of its own."""
        smallest = min(self._nodes)
        each = _floor(min(self.cpus * share / actors, smallest * share))
        fitting = sum(int((cpus * share + 1e-9) // each) for cpus in self._nodes)
        return Pool(max(1, min(actors, fitting)), each)


def _model_actors(nodes: Sequence[Node], engine: EngineConfig, work: Workload, on_gpus: bool) -> tuple[int, int]:
    """Copies of the model, and threads of each: one copy per GPU; without, one per `work.threads` cores as memory allows."""
    needed = copy_bytes(work)
    fitting = [max(0, int(node.memory // needed)) for node in nodes]
    if not any(fitting):
        raise ConfigError(f"model: no node has the memory for one copy of the model ({needed >> 20} MiB); use a larger node")
    places = [int(node.gpus) if on_gpus else math.ceil(node.cpus / work.threads) for node in nodes]
    most = max(1, sum(min(fit, place) for fit, place in zip(fitting, places, strict=True)))
    seconds = work.rows * (work.row_flops / work.cpu_flops + ROW_SECONDS)
    useful = max(1, min(work.rows, math.ceil(seconds)))  # starting an actor takes longer than a second of work
    actors = engine.copies if isinstance(engine.copies, int) else (most if on_gpus else min(most, useful))
    if on_gpus:
        return actors, 1
    cores = min(sum(node.cpus for node in nodes) / actors, min(node.cpus for node in nodes if node.cpus > 0))
    return actors, max(1, int(cores))


Shares = tuple[Pool, Pool | None, Pool | None, Pool | None]


def _fused(capacity: _Capacity, actors: int, on_gpus: bool) -> Shares:
    # Ray Data discourages CPUs beside GPUs in one actor; the GPU is what limits their number.
    return Pool(actors, 0.0, 1.0) if on_gpus else capacity.pool(POOLS, actors), None, None, None


def _staged(capacity: _Capacity, actors: int, on_gpus: bool, fans_out: bool) -> Shares:
    """With GPUs the CPUs belong to preprocessing; without, most of them to the model."""
    before = 0.7 if on_gpus else 0.2
    model = Pool(actors, 0.0, 1.0) if on_gpus else capacity.pool(0.5, actors)
    preprocess = capacity.pool(before, min(MOST_HELPERS * actors, max(1, int(capacity.cpus * before))))
    postprocess = capacity.pool(0.05, max(1, min(actors, int(capacity.cpus * 0.05))))
    return model, preprocess, postprocess, capacity.pool(0.05, 1) if fans_out else None


def _floor(cpus: float) -> float:
    """Rounded down to thousandths, within what Ray counts in; whole CPUs above 1, for Ray takes no fractions there."""
    return float(math.floor(cpus)) if cpus > 1 else max(0.001, math.floor(cpus * 1000) / 1000)
