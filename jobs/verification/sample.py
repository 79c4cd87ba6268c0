"""Does a sample of finished rows again and compares the results with those that are stored."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dray.jobs.batch.datasource import pieces, tables
from dray.jobs.batch.rows import items
from dray.jobs.columns import ID, KEY, PREDICTION, SOURCE
from dray.jobs.inputs.inventory import is_same
from dray.jobs.keys import KeySet
from dray.jobs.outputs.rows_in_files import as_json
from dray.jobs.verification.committed import Row, VerifiedJob, WriteTask, counted, few, key_of, read_rows
from dray.pipelines.config import OPENAI
from dray.pipelines.engine.compare import alone, compare, device, tolerance_of
from dray.pipelines.errors import RowError
from dray.pipelines.models.loading import load_phases

TRIES = 3  # most rows drawn for each row of the sample: some may not be found in the input


def sampled(
    job: VerifiedJob, done: Sequence[WriteTask], count: int, seed: int, tolerance: float | None
) -> tuple[str, list[str]]:
    """Does finished rows again, one by one, and compares the results.

    Args:
        job: the job that is verified.
        done: write tasks; rows are drawn from those without problems.
        count: the number of rows.
        seed: seed of the random choice of rows.
        tolerance: largest difference of numbers; None: what the precision of the model's weights allows.

    Returns:
        A line of the table, and the problems.
    """
    rows, lost = _drawn(job, done, count, seed)
    missed = f"; {counted(lost, 'more row')} could not be found for certain in the input" if lost else ""
    if not rows:
        return f"no rows{missed}", []
    phases = load_phases(job.model, weights=True, device=device())
    limit, largest, wrong = tolerance_of(phases) if tolerance is None else tolerance, 0.0, []
    for row, table in rows:
        try:
            (item,) = items(table, phases)
            if isinstance(item, RowError):
                raise item
            again = alone(phases, item, job.schema, job.config.errors.timeout_s)
            difference = compare(_opened(job, row[PREDICTION]), _opened(job, _as_stored(job, again)), limit)
        except RowError as error:
            wrong.append(f"{row[ID]} (now it fails: {error})")
            continue
        largest = max(largest, difference.largest)
        if difference.places:
            wrong.append(f"{row[ID]} ({difference.places[0]})")
    line = f"{counted(len(rows), 'row')} done again, one by one; largest difference {largest:.2g}, tolerance {limit:g}{missed}"
    differ = f"{len(wrong)} of {counted(len(rows), 'sampled row')} differ from what is stored: {few(wrong)}"
    return line, [differ] if wrong else []


def _opened(job: VerifiedJob, prediction: object) -> object:
    """The prediction; of a job on Batch files the body of the answer, parsed from JSON."""
    return json.loads(str(prediction)) if job.config.input.format == OPENAI else prediction


def _drawn(job: VerifiedJob, done: Sequence[WriteTask], count: int, seed: int) -> tuple[list[tuple[Row, pa.Table]], int]:
    """Random finished rows with their input rows, and how many other rows were drawn but not found in the input."""
    done = [task for task in done if not task.problems]
    ends = np.cumsum([task.counts["ok"] for task in done])
    total = int(ends[-1]) if len(ends) else 0
    order = random.Random(seed).sample(range(total), min(total, TRIES * count))
    found: list[tuple[Row, pa.Table]] = []
    drawn = 0
    while drawn < len(order) and len(found) < count:
        wanted: dict[int, list[int]] = defaultdict(list)
        for place in order[drawn : drawn + count - len(found)]:
            task = int(np.searchsorted(ends, place, side="right"))
            wanted[task].append(int(place - ends[task] + done[task].counts["ok"]))
            drawn += 1
        stored = []
        for index, places in wanted.items():
            rows = read_rows(job, done[index].paths["ok"], "ok", [ID, SOURCE, PREDICTION], places)
            stored += [(row, done[index].keys.without(done[index].failed)) for row in rows]
        found += _with_input(job, stored)
    return found, drawn - len(found)


def _with_input(job: VerifiedJob, stored: Sequence[tuple[Row, KeySet]]) -> list[tuple[Row, pa.Table]]:
    """The stored rows whose input row is certain, each with that input row. `stored`: (row, keys of its write task).

    It is certain if exactly one input row has the stored row's source, its id and one of the keys.
    """
    same = {each.name: each for each in job.data.sources if is_same(each, job.known.get(each.name, each))}
    stored = [(row, keys) for row, keys in stored if row[SOURCE] in same]
    wanted = []
    for row, keys in stored:
        start = key_of(row) if job.names_rows else None
        span = same[str(row[SOURCE])].keys if start is None else (start, start + 1)
        wanted.append(keys.common(KeySet.between([span])))
    others = KeySet.between(source.keys for source in job.data.sources).without(KeySet.union(wanted))
    hits: dict[int, list[pa.Table]] = defaultdict(list)
    for table in tables(job.data.filesystem, pieces(job.data, others), job.data.columns, others):
        names = [
            (source, _as_stored(job, name)) for source, name in zip(*(table[c].to_pylist() for c in (SOURCE, ID)), strict=True)
        ]
        keys = table[KEY].to_numpy()
        for index, ((row, _), held) in enumerate(zip(stored, wanted, strict=True)):
            inside = np.flatnonzero(held.holds(keys))
            hits[index] += [table.take([at]) for at in inside.tolist() if names[at] == (row[SOURCE], row[ID])]
    return [(row, hits[index][0]) for index, (row, _) in enumerate(stored) if len(hits[index]) == 1]


def _as_stored(job: VerifiedJob, value: object) -> object:
    """The value as it would be read back from the output."""
    if job.config.output.format == "parquet":
        return value
    return json.loads(json.dumps(as_json(value), default=str))
