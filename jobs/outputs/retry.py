"""Makes failed rows unfinished: removes them from the results and from the finished rows, so that a run does them again.

The rows to remove are written to a file of notes first, so that the next command continues after an interruption. The notes
stay: they hold how often a row has been tried.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dray.jobs.columns import ERROR, KEY, POSITION, SOURCE, WHOLE_FILE
from dray.jobs.keys import NONE, Keys, KeySet, first_key
from dray.jobs.outputs.commits import CHECKPOINT, THREADS, committed_keys, result_files, task_of
from dray.jobs.outputs.rows_in_files import count_rows
from dray.jobs.storage.folder import STATE, Folder

RETRIED = f"{STATE}/retried"
BEGUN = ".begun.parquet"
NOTES = pa.schema([("task", pa.string()), (KEY, pa.uint64()), ("attempts", pa.int32())])


def failed_rows(output: Folder) -> int:
    """The number of rows under data/status=failed, of all runs so far."""
    filesystem = output.arrow()
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda path: count_rows(path, filesystem), _failed_files(output).values()))


def failed_keys(output: Folder) -> KeySet:
    """The keys of the rows under data/status=failed."""
    return KeySet.of(np.concatenate([NONE, *(notes[KEY].to_numpy() for notes in _all_notes(output))]))


def _failed_files(output: Folder) -> dict[str, str]:
    """Write task -> its file of failed rows."""
    return result_files(output, "failed")


def _all_notes(output: Folder) -> list[pa.Table]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda path: _notes_of(output, path), _failed_files(output).values()))


def release(output: Folder, only: KeySet | None = None) -> KeySet:
    """Makes failed rows unfinished. Returns their keys.

    Args:
        output: the output folder.
        only: the keys of the rows; None: all. Other failed rows of the same write tasks become unfinished, too.
    """
    resume(output)
    chosen = [each for each in _all_notes(output) if only is None or only.holds(each[KEY].to_numpy()).any()]
    if not chosen:
        return KeySet()
    table = pa.concat_tables(chosen)
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    output.write(f"{RETRIED}/{uuid.uuid4().hex}{BEGUN}", content.getvalue().to_pybytes())
    resume(output)
    return KeySet.of(table[KEY].to_numpy())


def resume(output: Folder) -> None:
    """Removes the rows of notes that an interrupted command has left."""
    begun = [path for path in (output / RETRIED).files() if path.endswith(BEGUN)]
    if not begun:
        return
    written, failed = committed_keys(output), _failed_files(output)
    for path in begun:
        notes = pq.read_table(path, filesystem=output.arrow())

        def forget(task_keys: tuple[str, Keys]) -> None:
            task, keys = task_keys
            _forget(output, task, written.get(task, KeySet()).without(KeySet.of(keys)), failed.get(task))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(forget, _by_task(notes)))
        output.fs.mv(path, path.removesuffix(BEGUN) + ".parquet")


def released_keys(output: Folder) -> KeySet:
    """The keys of all rows that were made unfinished at any time."""
    return KeySet.of(np.array(list(attempts(output)), np.uint64))


def attempts(output: Folder) -> dict[int, int]:
    """Key -> how often earlier runs have tried that failed row."""
    known: dict[int, int] = {}
    for path in [path for path in (output / RETRIED).files() if path.endswith(".parquet")]:
        notes = pq.read_table(path, filesystem=output.arrow())
        for key, count in zip(notes[KEY].to_pylist(), notes["attempts"].to_pylist(), strict=True):
            known[key] = max(known.get(key, 0), count)
    return known


def _forget(output: Folder, task: str, left: KeySet, failed: str | None) -> None:
    """Sets the rows of a write task to `left` and deletes its file `failed`; may be called twice."""
    checkpoint = f"{CHECKPOINT}/{task}.parquet"
    if len(left):
        content = pa.BufferOutputStream()
        pq.write_table(pa.table({KEY: left.keys()}), content)
        output.write(checkpoint, content.getvalue().to_pybytes())
    else:
        (output / checkpoint).remove()
    if failed is not None:
        with contextlib.suppress(FileNotFoundError):
            output.fs.rm_file(failed)


def _by_task(notes: pa.Table) -> Iterator[tuple[str, Keys]]:
    keys = defaultdict(list)
    for task, key in zip(notes["task"].to_pylist(), notes[KEY].to_pylist(), strict=True):
        keys[task].append(key)
    yield from ((task, np.array(held, np.uint64)) for task, held in keys.items())


def _notes_of(output: Folder, path: str) -> pa.Table:
    """The failed rows of one file, in the schema NOTES."""
    with output.arrow().open_input_file(path) as file:
        if path.endswith(".parquet"):
            rows = pq.read_table(file, columns=[SOURCE, POSITION, ERROR]).to_pylist()
        else:
            rows = [json.loads(line) for line in file.read().splitlines()]
    keys = [first_key(row[SOURCE]) + (WHOLE_FILE if row[POSITION] is None else row[POSITION]) for row in rows]
    tried = [row[ERROR]["attempts"] for row in rows]
    return pa.table({"task": [task_of(path)] * len(rows), KEY: pa.array(keys, pa.uint64()), "attempts": tried}).cast(NOTES)
