"""The ledger of a running job: one actor that counts written rows and finds the rows that workers die of.

A worker that dies in the middle of a block leaves a block that was begun and not ended. Ray gives the block to another
worker. That worker does the block row by row and reports each row before it begins: if it dies too, its row is known.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from dray.jobs.columns import KEY
from dray.pipelines.engine.watchdog import Activity, Watchdog
from dray.pipelines.errors import ModelError, RowError
from dray.pipelines.phases.item import Item

WHOLE = 2  # fewest rows of a block from which the model is judged
DEATHS = 2  # of workers that did one row alone, after which the row is to blame
REACH_S = 10.0  # how long a worker tries to reach the ledger


@dataclass(frozen=True)
class Count:
    """How many rows this run has written so far, and how many workers have died of a row."""

    ok: int = 0
    failed: int = 0
    deaths: int = 0

    @property
    def done(self) -> int:
        """Rows written, ok or failed."""
        return self.ok + self.failed


@dataclass
class _Block:
    """A block that `worker` has begun. `alone`: key and stage of the row that it is doing by itself."""

    worker: str = ""
    deaths: int = 0
    alone: tuple[int, str] | None = None


@dataclass(frozen=True)
class BlockRecord:
    """What the ledger knows of a block when a worker begins it.

    Attributes:
        block: its name.
        deaths: how many workers died while they did it.
        blamed: the errors of rows that must not be done again, by key.
    """

    block: str = ""
    deaths: int = 0
    blamed: Mapping[int, RowError] = field(default_factory=dict)

    def of(self, item: Item | RowError) -> Item | RowError:
        """The item, or the error for which it must not be done again."""
        return self.blamed.get(item.key, item) if isinstance(item, Item) else item


@ray.remote(num_cpus=0, max_restarts=-1)
class Ledger:
    """Adds up what the write tasks report, and keeps track of blocks. If its node dies its memory is lost, without harm."""

    def __init__(self, has_succeeded: bool = False) -> None:
        """`has_succeeded`: rows have gone through the model in earlier runs, so the model itself works."""
        self._has_succeeded = has_succeeded
        self._refusals: dict[str, set[str]] = {}  # error -> blocks of which no row has gone through the model
        self._written: dict[str, Count] = {}
        self._ok = self._failed = 0
        self._dead: set[str] = set()  # workers
        self._blocks: dict[str, _Block] = {}
        self._alone: Counter[int] = Counter()
        self._blamed: dict[int, RowError] = {}

    def written(self, task: str, ok: int, failed: int) -> None:
        """Adds the rows of one write task; a task that Ray repeats counts once."""
        earlier = self._written.get(task, Count())
        self._written[task] = Count(ok, failed)
        self._ok += ok - earlier.ok
        self._failed += failed - earlier.failed

    def count(self) -> Count:
        """The rows written and workers died so far."""
        return Count(self._ok, self._failed, len(self._dead))

    def begin(self, block: str, worker: str) -> BlockRecord:
        """Notes that a worker begins a block. Returns what is known of the block."""
        if block not in self._blocks:
            self._blocks[block] = _Block(worker)
            return BlockRecord(block)
        known = self._blocks[block]
        known.deaths += 1
        self._dead.add(known.worker)
        known.worker = worker
        if known.alone is not None:
            key, stage = known.alone
            known.alone = None
            self._alone[key] += 1
            if self._alone[key] >= DEATHS:
                self._blamed.setdefault(key, _died(stage, self._tries(known, key)))
        return BlockRecord(block, known.deaths, dict(self._blamed))

    def alone(self, block: str, key: int, stage: str) -> None:
        """Notes that a worker begins one row of the block by itself."""
        self._blocks.setdefault(block, _Block()).alone = key, stage

    def blame(self, block: str, key: int, error: RowError) -> None:
        """Notes that a worker ends because of this row, with the reason."""
        tries = self._tries(self._blocks.get(block, _Block()), key) + 1
        self._blamed[key] = RowError(error.stage, error.kind, str(error), tries)

    def succeeded(self) -> None:
        """Notes that a row has gone through the model."""
        self._has_succeeded = True

    def refused(self, block: str, error: str) -> bool:
        """Notes that the model refuses all rows of a block with this error.

        Returns:
            Whether the model is to blame: it has refused another block in the same way, and no row has gone through.
        """
        blocks = self._refusals.setdefault(error, set())
        blocks.add(block)
        return not self._has_succeeded and len(blocks) > 1

    def _tries(self, block: _Block, key: int) -> int:
        """How often a row was tried, with its block and alone, when workers died."""
        return min(block.deaths, 1) + self._alone[key]

    def end(self, block: str) -> None:
        """Notes that the block is done."""
        self._blocks.pop(block, None)


def _died(stage: str, deaths: int) -> RowError:
    message = "the worker dies whenever it does this row: a crash in native code, or more memory than there is"
    return RowError(stage, "WorkerDied", message, deaths)


class LedgerClient:
    """A worker's client of the ledger. A worker may do two blocks at once; a block that a worker died of is done alone."""

    def __init__(self, ledger: ActorHandle | None, watchdog: Watchdog, operator: str) -> None:
        """Starts the watchdog. Without a `ledger` nothing is known and nothing is reported."""
        self._ledger, self._watchdog, self._operator = ledger, watchdog, operator
        self._worker = uuid.uuid4().hex
        self._has_succeeded = False
        self._keys: dict[str, frozenset[int]] = {}  # of the blocks that are being done
        self._changed, self._alone = threading.Condition(), ""  # the block that is being done alone
        if ledger is not None:
            watchdog.start(self._last)

    @contextlib.contextmanager
    def block(self, table: pa.Table) -> Iterator[BlockRecord]:
        """Reports the beginning and the end of a block; yields what the ledger knows of it.

        If a worker has died of the block, this worker does no other block meanwhile and reports each row before it begins.
        """
        if self._ledger is None:
            yield BlockRecord()
            return
        block, keys = _name(self._operator, table), frozenset(table[KEY].to_pylist())
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._keys[block] = keys
        try:
            record = BlockRecord()
            with contextlib.suppress(RayError):  # the ledger is being restarted; this block goes unnoticed
                record = ray.get(self._ledger.begin.remote(block, self._worker), timeout=REACH_S)
            if record.deaths:
                self._isolate(block, keys)
            yield record
            self._ledger.end.remote(block)
        finally:
            with self._changed:
                if self._alone == block:
                    self._alone, self._watchdog.on_activity = "", None
                self._keys.pop(block, None)
                self._changed.notify_all()

    def check_forward(self, record: BlockRecord, errors: Sequence[RowError | None]) -> None:
        """Checks that the model does not refuse every row.

        Args:
            record: what the ledger knows of the block.
            errors: the error, or None, of each row that reached the model.

        Raises:
            ModelError: the model has refused all rows of two blocks with the same error, and no row has gone through.
        """
        if self._ledger is None or self._has_succeeded or not errors:
            return
        if any(error is None for error in errors):
            self._has_succeeded = True
            self._ledger.succeeded.remote()
            return
        messages = {f"{error.kind}: {error}" for error in errors if error is not None}
        if len(messages) > 1 or len(errors) < WHOLE:
            return
        is_to_blame = False
        with contextlib.suppress(RayError):  # the ledger is being restarted
            is_to_blame = ray.get(self._ledger.refused.remote(record.block, *messages), timeout=REACH_S)
        if is_to_blame:
            raise ModelError(
                f"the model refuses every row, with the same error: {messages.pop()}; look at model and parameters"
            )

    def _isolate(self, block: str, keys: frozenset[int]) -> None:
        """Waits until this worker does no other block, and lets none begin until this block ends."""
        with self._changed:
            del self._keys[block]
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._alone or self._keys))
            self._alone, self._keys[block] = block, keys
            self._watchdog.on_activity = functools.partial(self._announce, block)

    def _announce(self, block: str, work: Activity) -> None:
        assert self._ledger is not None
        (key,) = set(work.keys)
        with contextlib.suppress(RayError):
            ray.get(self._ledger.alone.remote(block, key, work.stage), timeout=REACH_S)

    def _last(self, work: Activity, error: RowError) -> None:
        assert self._ledger is not None
        key = work.keys[0]
        block = next((block for block, keys in list(self._keys.items()) if key in keys), "")
        if len(set(work.keys)) == 1:
            ray.get(self._ledger.blame.remote(block, key, error), timeout=REACH_S)


def _name(operator: str, table: pa.Table) -> str:
    """The name of a block: the same for the same rows in the same operator."""
    digest = hashlib.blake2b(operator.encode(), digest_size=16)
    for column in (KEY, "segment"):
        if column in table.column_names:
            digest.update(repr(table[column].to_pylist()).encode())
    return digest.hexdigest()
