"""From cluster and work to pool sizes, threads, CPU shares and blocks, such that every operator always has room to run.

Ray Data waits forever where actors hold every CPU and a read task wants one. So all pools together take at most four
fifths of the CPUs, and the tasks that read, cut and write take small shares of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import ray

from pipelines.config import EngineConfig
from pipelines.errors import ConfigError

POOLS = 0.8  # share of the CPUs that actors may hold
ACTOR_BYTES = 700 << 20  # a worker with torch and transformers loaded, before any weights
BLOCK_SECONDS = 4.0  # model work in a block: how much an interruption can cost, and how often results appear
LARGEST_BLOCK = 2048  # rows
CPU_FLOPS, ACCELERATOR_FLOPS = 2e10, 2e13  # of one thread, of one device: cautious guesses that size blocks, no more
ROW_SECONDS = 5e-4  # overhead of a row


@dataclass(frozen=True)
class Node:
    """What one node offers. Memory in bytes."""

    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        rows: left to do.
        row_flops: of the model for an average row.
        weight_bytes: of the model.
        fans_out: whether long items are worth spreading over the pool.
    """

    rows: int
    row_flops: float
    weight_bytes: int
    fans_out: bool


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
        block_rows: rows of a block.
    """

    layout: Literal["fused", "staged"]
    model: Pool
    preprocess: Pool | None
    postprocess: Pool | None
    gather: Pool | None
    threads: int
    task_cpus: float
    block_rows: int

    @property
    def pools(self) -> list[Pool]:
        """Those there are."""
        return [pool for pool in (self.model, self.preprocess, self.postprocess, self.gather) if pool is not None]

    @property
    def cpus(self) -> float:
        """What must be free for every operator to run at once: all pools, and one task of each of the three kinds."""
        return sum(pool.actors * pool.cpus for pool in self.pools) + 3 * self.task_cpus


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(node.get("CPU", 0), node.get("GPU", 0), node.get("memory", 0)) for node in alive]


def make_plan(nodes: Sequence[Node], engine: EngineConfig, work: Work) -> Plan:
    """Sizes everything.

    Raises:
        ConfigError: the cluster has no CPU, or no node has the memory for one copy of the model.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    if cpus <= 0:
        raise ConfigError("the cluster has no CPUs; start a node with at least one")
    on_gpus = gpus >= 1 and (engine.device == "auto" or engine.device.startswith("cuda"))
    layout = engine.layout if engine.layout != "auto" else ("staged" if on_gpus else "fused")
    actors, threads = _model_actors(nodes, engine, work, on_gpus)
    shares = _fused(cpus, actors, on_gpus) if layout == "fused" else _staged(cpus, actors, on_gpus, work.fans_out)
    model, preprocess, postprocess, gather = shares
    speed = ACCELERATOR_FLOPS if on_gpus else CPU_FLOPS * threads
    return Plan(
        layout=layout,
        model=model,
        preprocess=preprocess,
        postprocess=postprocess,
        gather=gather,
        threads=threads,
        task_cpus=_floor(min(0.25, cpus * (1 - POOLS) / 4)),
        block_rows=block_rows(work, speed, actors),
    )


def block_rows(work: Work, flops_per_second: float, actors: int) -> int:
    """Rows for about BLOCK_SECONDS of model work, and few enough that every actor gets several blocks."""
    seconds = work.row_flops / flops_per_second + ROW_SECONDS
    spread = math.ceil(work.rows / (4 * actors))
    return max(1, min(round(BLOCK_SECONDS / seconds), spread, LARGEST_BLOCK))


def _model_actors(nodes: Sequence[Node], engine: EngineConfig, work: Work, on_gpus: bool) -> tuple[int, int]:
    """Copies of the model, and threads of each: one copy per GPU; without, one per core as far as memory goes."""
    copy_bytes = ACTOR_BYTES + 2 * work.weight_bytes
    fitting = [max(0, int(node.memory // copy_bytes)) for node in nodes]
    if not any(fitting):
        raise ConfigError(
            f"model: no node has the memory for one copy of the model ({copy_bytes >> 20} MiB); use a larger node"
        )
    most = sum(min(fit, max(1, int(node.gpus if on_gpus else node.cpus))) for fit, node in zip(fitting, nodes, strict=True))
    seconds = work.rows * (work.row_flops / CPU_FLOPS + ROW_SECONDS)
    useful = max(1, min(work.rows, math.ceil(seconds)))  # starting an actor takes longer than a second of work
    actors = engine.actors if isinstance(engine.actors, int) else (most if on_gpus else min(most, useful))
    cores = sum(node.cpus for node in nodes)
    return actors, max(1, int(cores // actors)) if not on_gpus else 1


Shares = tuple[Pool, Pool | None, Pool | None, Pool | None]


def _fused(cpus: float, actors: int, on_gpus: bool) -> Shares:
    # Ray Data discourages CPUs beside GPUs in one actor; the GPU is what limits their number.
    model = Pool(actors, 0.0, 1.0) if on_gpus else Pool(actors, _floor(cpus * POOLS / actors))
    return model, None, None, None


def _staged(cpus: float, actors: int, on_gpus: bool, fans_out: bool) -> Shares:
    """With GPUs the CPUs belong to preprocessing; without, most of them to the model."""
    before = 0.7 if on_gpus else 0.2
    model = Pool(actors, 0.0, 1.0) if on_gpus else Pool(actors, _floor(cpus * 0.5 / actors))
    preprocess = max(1, int(cpus * before))
    postprocess = max(1, int(cpus * 0.05))
    return (
        model,
        Pool(preprocess, _floor(cpus * before / preprocess)),
        Pool(postprocess, _floor(cpus * 0.05 / postprocess)),
        Pool(1, _floor(min(1.0, cpus * 0.05))) if fans_out else None,
    )


def _floor(cpus: float) -> float:
    """Rounded down to the thousandths that Ray counts in; whole CPUs above 1, for Ray takes no fractions there."""
    return float(math.floor(cpus)) if cpus > 1 else math.floor(cpus * 1000) / 1000
