"""The commits of write tasks: which rows are finished, and the rollback of tasks that were not committed.

A write task leaves files with its name in three places: the keys of its rows under `_dray/checkpoint`, and its rows under
`data/status=ok` and `data/status=failed`. The checkpoint is pending until the data are written; then it is renamed. This
protocol is Ray Data's. The rollback is dray's: Ray's keeps the checkpoint of a task that was repeated after its commit, and
deletes its data.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import CheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from dray.jobs.cluster.ray_internals import commit_only
from dray.jobs.columns import KEY
from dray.jobs.keys import KeySet
from dray.jobs.storage.folder import STATE, Folder

CHECKPOINT = f"{STATE}/checkpoint"
DATA = "data"
PENDING = f"{PENDING_CHECKPOINT_SUFFIX}.parquet"
VOID = ".void"  # suffix of a mark: a commit of this task does not count, even if it appears later
TASK = re.compile(r"[0-9a-f]{32}_\d{6,}")  # the names that Ray gives to write tasks
THREADS = 32


class FinishedElsewhere(CheckpointManager):  # type: ignore[misc]  # Ray is untyped
    """Makes Ray Data not filter finished rows. The read tasks do it, without the actors that Ray's filter needs."""

    def load_checkpoint(self, *args: object, **kwargs: object) -> tuple[None, int]:
        """An empty checkpoint: there is nothing to filter."""
        return None, 0


def checkpoint_config(output: Folder) -> CheckpointConfig:
    """The settings of Ray Data's two-phase commit: the keys of rows are written before the rows and committed after them."""
    return CheckpointConfig(
        id_column=KEY,
        checkpoint_path=(output / CHECKPOINT).path,
        override_filesystem=output.arrow(),
        delete_checkpoint_on_success=False,
        **commit_only(FinishedElsewhere),
    )


def task_of(path: str) -> str:
    """The name of the write task that a file belongs to."""
    return posixpath.basename(path).lstrip(".").split(".")[0]


def result_files(output: Folder, status: str) -> dict[str, str]:
    """Write task -> its file of rows with this status. Files that are still being written are hidden, and left out."""
    paths = (output / DATA / f"status={status}").files()
    return {task_of(path): path for path in paths if TASK.fullmatch(task_of(path)) and not is_hidden(path)}


def is_committed(output: Folder, task: str) -> bool:
    """Whether a write task has been committed."""
    return bool(output.fs.exists(posixpath.join(output.path, CHECKPOINT, f"{task}.parquet")))


@dataclass(frozen=True)
class TaskFiles:
    """The files of write tasks, by task.

    Attributes:
        pending: checkpoints that were written and not committed.
        committed: checkpoints that were committed.
        void: marks of tasks whose commit does not count.
        data: files of rows, of any status.
    """

    pending: dict[str, str]
    committed: dict[str, str]
    void: dict[str, str]
    data: dict[str, list[str]]

    @classmethod
    def of(cls, output: Folder) -> TaskFiles:
        """Lists the files that are in a folder now."""
        files = cls({}, {}, {}, defaultdict(list))
        kinds = ((PENDING, files.pending), (VOID, files.void), (".parquet", files.committed))  # the first match counts
        for path in (output / CHECKPOINT).files():
            for kind in [kind for suffix, kind in kinds if path.endswith(suffix)][:1]:
                kind[task_of(path)] = path
        for path in (output / DATA).files():
            files.data[task_of(path)].append(path)
        return files

    @property
    def unfinished(self) -> set[str]:
        """Tasks that have left files, and were not committed or have a void commit."""
        strays = {task for task in self.data.keys() - self.committed.keys() if TASK.fullmatch(task)}
        return self.pending.keys() | strays | (self.void.keys() & (self.committed.keys() | self.data.keys()))


def committed_keys(output: Folder) -> dict[str, KeySet]:
    """Write task -> keys of the rows that it has committed; no key is in two tasks.

    Deletes three kinds of tasks first: those that were not committed, those whose checkpoint cannot be read, and the later one
    of two tasks with a row in common.
    """
    while True:
        written = _read_keys(output, roll_back(output).committed)
        bad = [task for task, keys in written.items() if keys is None] or _repeated(written)
        if not bad:
            return {task: keys for task, keys in written.items() if keys is not None}
        void(output, bad)


def _read_keys(output: Folder, committed: Mapping[str, str]) -> dict[str, KeySet | None]:
    filesystem = output.arrow()

    def read(path: str) -> KeySet | None:
        try:
            return KeySet.of(pq.read_table(path, columns=[KEY], filesystem=filesystem)[KEY].to_numpy())
        except pa.ArrowInvalid:  # after a power failure a file may be empty
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(committed, pool.map(read, committed.values()), strict=True))


def _repeated(written: Mapping[str, KeySet | None]) -> list[str]:
    """The tasks that have rows in common with an earlier one."""
    sets = {task: keys for task, keys in sorted(written.items()) if keys is not None}
    seen = KeySet.union(sets.values())
    if len(seen) == sum(map(len, sets.values())):
        return []
    repeated, seen = [], KeySet()
    for task, keys in sets.items():
        if seen.counts(keys.starts, keys.stops).any():
            repeated.append(task)
        else:
            seen = KeySet.union([seen, keys])
    return repeated


def finished_keys(output: Folder) -> KeySet:
    """The keys of all committed rows, after the rollback of `committed_keys`."""
    return KeySet.union(committed_keys(output).values())


def roll_back(output: Folder) -> TaskFiles:
    """Deletes the files of unfinished write tasks. Returns the files of the others.

    A write task whose driver is dead may run on for a while and even commit later. So it is first marked as void, and the mark
    stays. If this is interrupted, the next call does the rest.
    """
    files = TaskFiles.of(output)
    undone = sorted(files.unfinished)
    void(output, [task for task in undone if task not in files.void])

    def delete(task: str) -> None:
        for path in [files.committed.get(task), *files.data.get(task, []), files.pending.get(task)]:
            if path is not None:
                with contextlib.suppress(FileNotFoundError):  # the task itself may have renamed it meanwhile
                    output.fs.rm_file(path)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(delete, undone))
    kept = files.committed.keys() - set(undone) - files.void.keys()
    return TaskFiles({}, {task: files.committed[task] for task in kept}, files.void, {task: files.data[task] for task in kept})


def void(output: Folder, tasks: Iterable[str]) -> None:
    """Marks write tasks as void; the next `roll_back` deletes their files."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda task: output.write(f"{CHECKPOINT}/{task}{VOID}", b""), tasks))


def undo(output: Folder, keys: KeySet) -> KeySet:
    """Rolls back all write tasks that have written a row of `keys`. Returns the keys that stay finished."""
    tasks = committed_keys(output)
    void(output, [task for task, written in tasks.items() if written.counts(keys.starts, keys.stops).any()])
    return finished_keys(output)


def is_hidden(path: str) -> bool:
    """Whether readers of the results ignore a file."""
    return posixpath.basename(path).startswith((".", "_"))
