"""What a running job's workers have done and are doing: one actor that counts written rows and remembers dead workers.

A worker that dies in the middle of a block leaves the block begun and not ended. Ray gives the block to another worker, which
then does row by row and says which row before it begins: the row that is again there when the worker dies is found out.
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

WHOLE = 2  # rows at least in a block that says something of the model
DEATHS = 2  # of workers that were working on one row and no other: the row is to blame
REACH_S = 10.0  # for which a worker tries to reach the ledger


@dataclass(frozen=True)
class Count:
    """Rows written so far in this run, and workers that have died of a row."""

    ok: int = 0
    failed: int = 0
    deaths: int = 0

    @property
    def done(self) -> int:
        """Rows written, ok or failed."""
        return self.ok + self.failed


@dataclass
class _Block:
    """Work that was begun, by `worker`. `alone`: the row that is being done by itself, and the stage."""

    worker: str = ""
    deaths: int = 0
    alone: tuple[int, str] | None = None


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a block that is about to be done.

    Attributes:
        block: its name.
        deaths: workers that died while they did it.
        blamed: rows that are not to be done, and their errors, by key.
    """

    block: str = ""
    deaths: int = 0
    blamed: Mapping[int, RowError] = field(default_factory=dict)

    def of(self, item: Item | RowError) -> Item | RowError:
        """The item, or why it is not to be done."""
        return self.blamed.get(item.key, item) if isinstance(item, Item) else item


@ray.remote(num_cpus=0, max_restarts=-1)
class Ledger:
    """Adds up what the write tasks report, and keeps track of blocks. It forgets if its node dies, which does no harm."""

    def __init__(self, has_succeeded: bool = False) -> None:
        """`has_succeeded`: rows have gone through the model in earlier runs, so that it is known to take some."""
        self._has_succeeded = has_succeeded
        self._refusals: dict[str, set[str]] = {}  # error -> blocks of which no row has gone through the model
        self._written: dict[str, Count] = {}
        self._ok = self._failed = 0
        self._dead: set[str] = set()  # workers
        self._blocks: dict[str, _Block] = {}
        self._alone: Counter[int] = Counter()
        self._blamed: dict[int, RowError] = {}

    def written(self, task: str, ok: int, failed: int) -> None:
        """Rows of one write task; one that Ray repeats counts once."""
        earlier = self._written.get(task, Count())
        self._written[task] = Count(ok, failed)
        self._ok += ok - earlier.ok
        self._failed += failed - earlier.failed

    def count(self) -> Count:
        """The sums."""
        return Count(self._ok, self._failed, len(self._dead))

    def begin(self, block: str, worker: str) -> BlockRecord:
        """This worker is about to do a block."""
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
        """A worker is about to do one row of the block by itself."""
        self._blocks.setdefault(block, _Block()).alone = key, stage

    def blame(self, block: str, key: int, error: RowError) -> None:
        """A worker is about to end because of this row, and knows why."""
        tries = self._tries(self._blocks.get(block, _Block()), key) + 1
        self._blamed[key] = RowError(error.stage, error.kind, str(error), tries)

    def succeeded(self) -> None:
        """A row has gone through the model."""
        self._has_succeeded = True

    def refused(self, block: str, error: str) -> bool:
        """The model refuses all rows of a block with this error. Whether the model is to blame: so it was with another."""
        blocks = self._refusals.setdefault(error, set())
        blocks.add(block)
        return not self._has_succeeded and len(blocks) > 1

    def _tries(self, block: _Block, key: int) -> int:
        """How often a row was tried that a worker has died of: with its block, and alone."""
        return min(block.deaths, 1) + self._alone[key]

    def end(self, block: str) -> None:
        """The block is done."""
        self._blocks.pop(block, None)


def _died(stage: str, deaths: int) -> RowError:
    message = "the worker dies whenever it does this row: a crash in native code, or more memory than there is"
    return RowError(stage, "WorkerDied", message, deaths)


class LedgerClient:
    """A worker's side of the ledger. Blocks may be done side by side; one that a worker has died of is done alone."""

    def __init__(self, ledger: ActorHandle | None, watchdog: Watchdog, operator: str) -> None:
        """Without a `ledger` nothing is known and nobody is told."""
        self._ledger, self._watchdog, self._operator = ledger, watchdog, operator
        self._worker = uuid.uuid4().hex
        self._has_succeeded = False
        self._keys: dict[str, frozenset[int]] = {}  # of the blocks that are being done
        self._changed, self._alone = threading.Condition(), ""  # the block that is being done alone
        if ledger is not None:
            watchdog.start(self._last)

    @contextlib.contextmanager
    def block(self, table: pa.Table) -> Iterator[BlockRecord]:
        """These rows are being done. Where a worker has died of them, by nobody else meanwhile, and each work is announced."""
        if self._ledger is None:
            yield BlockRecord()
            return
        block, keys = _name(self._operator, table), frozenset(table[KEY].to_pylist())
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._keys[block] = keys
        try:
            record = BlockRecord()
            with contextlib.suppress(RayError):  # it is being restarted, and this block goes unnoticed
                record = ray.get(self._ledger.begin.remote(block, self._worker), timeout=REACH_S)
            if record.deaths:
                self._part(block, keys)
            yield record
            self._ledger.end.remote(block)
        finally:
            with self._changed:
                if self._alone == block:
                    self._alone, self._watchdog.before = "", None
                self._keys.pop(block, None)
                self._changed.notify_all()

    def check_forward(self, record: BlockRecord, errors: Sequence[RowError | None]) -> None:
        """Looks at what became of a block's rows in the model.

        Args:
            record: of the block.
            errors: of each row that the model was given.

        Raises:
            ModelError: the model has refused all rows of two blocks, with the same error, and has taken none so far.
        """
        if self._ledger is None or self._has_succeeded or not errors:
            return
        if any(error is None for error in errors):
            self._has_succeeded = True
            self._ledger.succeeded.remote()
            return
        said = {f"{error.kind}: {error}" for error in errors if error is not None}
        if len(said) > 1 or len(errors) < WHOLE:
            return
        is_to_blame = False
        with contextlib.suppress(RayError):  # it is being restarted
            is_to_blame = ray.get(self._ledger.refused.remote(record.block, *said), timeout=REACH_S)
        if is_to_blame:
            raise ModelError(f"the model refuses every row, with the same error: {said.pop()}; look at model and parameters")

    def _part(self, block: str, keys: frozenset[int]) -> None:
        """Waits until no other block is being done; until this one has ended none is begun."""
        with self._changed:
            del self._keys[block]
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._alone or self._keys))
            self._alone, self._keys[block] = block, keys
            self._watchdog.before = functools.partial(self._announce, block)

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
    """The same for the same rows in the same operator."""
    digest = hashlib.blake2b(operator.encode(), digest_size=16)
    for column in (KEY, "segment"):
        if column in table.column_names:
            digest.update(repr(table[column].to_pylist()).encode())
    return digest.hexdigest()
