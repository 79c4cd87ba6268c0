"""Plans a job for a cluster: pool sizes, threads, CPU shares and block sizes, so that every operator can always run.

Ray Data waits forever if actors hold every CPU and a read task needs one. So all pools together take at most four fifths of
the CPUs, and the tasks that read, cut and write take small shares of the rest.
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
CPUS_PER_DISK_TASK = 2  # few tasks: each is a process whose start takes a second of a core, which the model needs
THREADS = 2  # of a copy of the model, without tuning: as fast as two copies with one thread, and starts sooner
BLOCK_SECONDS = 8.0  # model work in a block: the most that an interruption can cost, and the time between results
SMALLEST_BLOCK, LARGEST_BLOCK = 8, 4096  # rows, if there are enough
BLOCK_BYTES = 64 << 20  # of input: a block must not fill the object store; a single row may be larger
DRIVER_S = 0.1  # time of the driver's one loop for each block; measured: up to 0.07. More actors need longer blocks
BLOCKS = 5  # fewest for each actor, so that all end at about the same time
MOST_HELPERS = 32  # preprocessing actors for one model actor: an accelerator needs many, but not any number
CPU_FLOPS, ACCELERATOR_FLOPS = 4e10, 2e13  # guesses, per second, of one thread and of one device; they only size blocks
ROW_SECONDS = 5e-4  # overhead of a row
TUNING_SHARE, LEAST_TUNING, MOST_TUNING = 0.02, 1.0, 8.0  # share of a job's time; seconds: fewer are useless, more unneeded


@dataclass(frozen=True)
class Node:
    """The resources of one node. Memory in bytes."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class Workload:
    """The estimated work of a job.

    Attributes:
        rows: rows left to do.
        row_flops: operations of the model for an average row.
        weight_bytes: bytes of the model's weights.
        fans_out: whether the segments of long items should be spread over the pool.
        threads: threads that a copy of the model should have on CPUs.
        row_bytes: bytes of input of an average row.
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
    """An actor pool: the number of actors, and the CPUs and GPUs of each."""

    actors: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How a job uses a cluster.

    Attributes:
        layout: "fused": one pool does all phases; "staged": a pool for each phase.
        model: the pool with weights; in the fused layout it does all phases.
        preprocess, postprocess, gather: pools of the staged layout, else None. Gather only where items fan out.
        threads: torch's threads in each model actor.
        task_cpus: CPUs of each read, repartition and write task.
        disk_tasks: most tasks that read from local disk at once, and most that write there.
        block_rows: rows of a block.
        offered: the resources of all nodes that the plan was made for.
        tuning_s: seconds that a worker may spend on finding the best batch size, where it is not known.
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
        """The pools that are not None."""
        return [pool for pool in (self.model, self.preprocess, self.postprocess, self.gather) if pool is not None]

    @property
    def cpus(self) -> float:
        """The CPUs that every operator needs to run at once: all pools, and one task of each of the three kinds."""
        return sum(pool.actors * pool.cpus for pool in self.pools) + 3 * self.task_cpus

    def fits(self, nodes: Sequence[Node]) -> bool:
        """Whether these nodes together have the CPUs and GPUs that the plan needs."""
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        return self.cpus <= cpus and sum(pool.actors * pool.gpus for pool in self.pools) <= gpus


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster, with all their resources."""
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free_nodes(engine: EngineConfig, interval_s: float = 10.0) -> list[Node]:
    """The nodes with the resources that other work leaves free.

    Waits until a CPU is free, and a GPU if the job can use one, and prints that it waits. If two jobs both planned with the
    whole cluster, their actors would hold all of it and no task could run.
    """
    whole = cluster_nodes()
    cpus, gpus = sum(node.cpus for node in whole), sum(node.gpus for node in whole)
    largest = max((node.cpus for node in whole), default=0.0)
    wanted = min(1.0, largest), min(1.0, gpus) if engine.device == "auto" or engine.device.startswith("cuda") else 0.0
    printed = time.monotonic() - interval_s
    while True:
        nodes = [_node(node) for node in free_resources()]
        free = [node for node in nodes if node.cpus >= wanted[0] or node.gpus >= 1]  # less than one CPU fits no actor
        left = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        if sum(node.cpus for node in free) >= wanted[0] and left[1] >= wanted[1]:
            return free
        if time.monotonic() - printed >= interval_s:
            printed = time.monotonic()
            rest = f"{left[0]:g} of {cpus:g} CPUs" + (f" and {left[1]:g} of {gpus:g} GPUs" if gpus else "")
            print(f"waiting: other work on the cluster leaves {rest}", flush=True)
        time.sleep(0.5)


def _node(resources: Mapping[str, float]) -> Node:
    return Node(resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0))


def make_plan(nodes: Sequence[Node], engine: EngineConfig, work: Workload) -> Plan:
    """The plan of a job for these nodes.

    Raises:
        ConfigError: the cluster has no CPU, it has no GPU but the config wants one, or no node has the memory for one copy of
            the model.
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
    """Estimated memory of a worker with a copy of the model, in bytes."""
    return ACTOR_BYTES + 2 * work.weight_bytes


def block_rows(work: Workload, flops_per_second: float, actors: int, helpers: int = 0) -> int:
    """The rows of a block: about BLOCK_SECONDS of model work, within memory, and several blocks for every actor and helper.

    Blocks are longer if those of many actors would end faster than the driver can handle them.
    """
    seconds = _row_seconds(work, flops_per_second)
    wanted = min(max(round(BLOCK_SECONDS / seconds), SMALLEST_BLOCK), LARGEST_BLOCK)
    for_driver = math.ceil(DRIVER_S * actors / seconds)
    spread = math.ceil(work.rows / max(BLOCKS * actors, 2 * helpers))
    fitting = int(BLOCK_BYTES / max(1.0, work.row_bytes))
    return max(1, min(max(wanted, for_driver), spread, fitting))


def _row_seconds(work: Workload, flops_per_second: float) -> float:
    return work.row_flops / flops_per_second + ROW_SECONDS


def _tuning_seconds(work: Workload, flops_per_second: float, actors: int) -> float:
    """Seconds for tuning: a small share of the job's time; 0 for a short job."""
    seconds = TUNING_SHARE * work.rows * _row_seconds(work, flops_per_second) / actors
    return min(seconds, MOST_TUNING) if seconds >= LEAST_TUNING else 0.0


class _Capacity:
    """The CPUs of each node, which pools share: an actor must fit on one node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = [node.cpus for node in nodes if node.cpus > 0]
        self.cpus = sum(self._nodes)

    def pool(self, share: float, actors: int) -> Pool:
        """A pool of at most `actors` actors, which hold about `share` of all CPUs, and at most that share of each node."""
        smallest = min(self._nodes)
        each = _floor(min(self.cpus * share / actors, smallest * share))
        fitting = sum(int((cpus * share + 1e-9) // each) for cpus in self._nodes)
        return Pool(max(1, min(actors, fitting)), each)


def _model_actors(nodes: Sequence[Node], engine: EngineConfig, work: Workload, on_gpus: bool) -> tuple[int, int]:
    """(copies of the model, threads of each): one copy per GPU, or without GPUs per `work.threads` cores; as memory allows."""
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
    # Ray Data discourages CPUs beside GPUs in one actor; the GPUs limit the number of actors.
    return Pool(actors, 0.0, 1.0) if on_gpus else capacity.pool(POOLS, actors), None, None, None


def _staged(capacity: _Capacity, actors: int, on_gpus: bool, fans_out: bool) -> Shares:
    """The pools of the staged layout. With GPUs most CPUs go to preprocessing, without GPUs to the model."""
    before = 0.7 if on_gpus else 0.2
    model = Pool(actors, 0.0, 1.0) if on_gpus else capacity.pool(0.5, actors)
    preprocess = capacity.pool(before, min(MOST_HELPERS * actors, max(1, int(capacity.cpus * before))))
    postprocess = capacity.pool(0.05, max(1, min(actors, int(capacity.cpus * 0.05))))
    return model, preprocess, postprocess, capacity.pool(0.05, 1) if fans_out else None


def _floor(cpus: float) -> float:
    """CPUs rounded down to thousandths, and to whole ones above 1, where Ray allows no fractions."""
    return float(math.floor(cpus)) if cpus > 1 else max(0.001, math.floor(cpus * 1000) / 1000)
