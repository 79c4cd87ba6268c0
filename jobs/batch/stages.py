"""The callables of map_batches: each takes and returns tables of rows, and keeps one pipeline loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import pyarrow as pa

from dray.jobs.batch import rows
from dray.jobs.batch.worker import Stopwatch, WorkerSpec, account, learn
from dray.jobs.columns import KEY, READ_S
from dray.pipelines.batching.parts import Output, Part
from dray.pipelines.engine.block import Outcome, postprocess_item, predict, preprocess_item, sample_parts
from dray.pipelines.engine.forward import forward_parts
from dray.pipelines.errors import RowError
from dray.pipelines.media.fetch import ahead
from dray.pipelines.memory import peak_bytes, trim_memory
from dray.pipelines.meter import Meter
from dray.pipelines.phases.item import Item
from dray.pipelines.tasks.arrow import decode, encode

SEGMENT_PARTS = 16  # most model inputs in one row between phases
SEGMENT_BYTES = 32 << 20  # about the most bytes of such a row
YIELD_BYTES = 64 << 20  # preprocessed rows are passed on at this size, also in the middle of a block

Row = dict[str, object]


class Fused:
    """Runs all three phases on a block of rows."""

    def __init__(self, worker: WorkerSpec) -> None:
        self._phases = worker.load(weights=True)
        self._tuner = worker.tuner(self._phases)
        self._model_threads = worker.model_threads(self._phases)
        self._schema, self._stopwatch = worker.schema, Stopwatch(self._model_threads)
        self._watchdog, self._ledger = worker.supervision("fused")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows with arguments -> rows with `prediction` or `error`. Two threads may call it at once, each with a block."""
        self._stopwatch.start()
        with self._ledger.block(table) as record:
            items = [record.of(item) for item in rows.items(table, self._phases)]
            ready = [item for item in items if isinstance(item, Item)]
            own = Meter() if self._tuner.is_done or record.deaths else self._learned(ready)
            predicted = iter(self._predicted(ready, one_by_one=record.deaths > 0))
            outcomes = [next(predicted) if isinstance(item, Item) else Outcome(error=item) for item in items]
            self._ledger.check_forward(record, _errors_of_model([outcome.error for outcome in outcomes]))
            for outcome, seconds in zip(outcomes, table[READ_S].to_pylist(), strict=True):
                outcome.meter.read_s += seconds
            own.waiting_s = self._stopwatch.waited()
            account([outcome.meter for outcome in outcomes], own)
            results = rows.results(rows.carried(table), outcomes, self._schema)
        trim_memory()
        return results

    def _learned(self, items: list[Item]) -> Meter:
        """Finds the batch limits with these items. Returns the meter of the trials."""
        with self._model_threads.turn:
            if self._tuner.is_done:  # the other block was first
                return Meter()
            parts = sample_parts(self._phases, items, self._watchdog, self._tuner.seconds)
            return learn(self._tuner, self._model_threads, parts, self._watchdog)

    def _predicted(self, items: list[Item], one_by_one: bool) -> list[Outcome]:
        blocks = [[item] for item in items] if one_by_one else [items]
        limits, watchdog = self._tuner.limits, self._watchdog
        return [outcome for block in blocks for outcome in predict(self._phases, block, limits, watchdog, self._model_threads)]


class Preprocess:
    """Preprocesses, on CPUs and without weights: rows become rows of at most SEGMENT_PARTS model inputs."""

    def __init__(self, worker: WorkerSpec) -> None:
        self._phases = worker.load(weights=False)
        self._watchdog, self._ledger = worker.supervision("preprocess")

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Rows with arguments -> rows with `parts`, several for a long item. Needs about YIELD_BYTES of memory at a time."""
        carried = rows.carried(table, self._phases)
        held: list[Row] = []
        held_bytes = 0
        with self._ledger.block(table) as record:
            items = ahead([record.of(item) for item in rows.items(table, self._phases)], self._fetched)
            for index, (item, read_s) in enumerate(zip(items, table[READ_S].to_pylist(), strict=True)):
                for segment in self._segments(item, Meter(read_s=read_s, peak_bytes=peak_bytes())):
                    held.append({"index": index, **segment})
                    held_bytes += len(segment["parts"] or b"")  # type: ignore[arg-type]
                    if held_bytes > YIELD_BYTES:
                        yield _segment_table(carried, held)
                        held, held_bytes = [], 0
        if held:
            yield _segment_table(carried, held)

    def _fetched(self, item: Item | RowError) -> Item | RowError:
        return item if isinstance(item, RowError) else self._phases.fetched(item)

    def _segments(self, item: Item | RowError, meter: Meter) -> Iterator[Row]:
        """The segments of an item. Their number, `segments`, is 0 in all but the last one, where it is known."""
        number = 0
        if isinstance(item, RowError):
            yield _segment(0, 1, None, item, meter)
            return
        parts: list[Part] = []
        try:
            for part in preprocess_item(self._phases, item, meter, self._watchdog):
                if parts and (len(parts) == SEGMENT_PARTS or _size(parts) > SEGMENT_BYTES):
                    yield _segment(number, 0, parts, None, meter.take())
                    parts, number = [], number + 1
                parts.append(part)
        except RowError as error:
            yield _segment(number, number + 1, None, error, meter)
            return
        empty = None if parts else RowError("preprocess", "ValueError", "the item gave the model no input")
        yield _segment(number, number + 1, parts or None, empty, meter)


class Forward:
    """Runs the model, with weights: rows with `parts` become rows with `outputs`; batches mix rows."""

    def __init__(self, worker: WorkerSpec) -> None:
        self._phases = worker.load(weights=True)
        self._tuner = worker.tuner(self._phases)
        self._model_threads = worker.model_threads(self._phases)
        self._stopwatch = Stopwatch(self._model_threads)
        self._watchdog, self._ledger = worker.supervision("forward")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Runs every part of every row once and keeps the order. Two threads may call it at once, each with a block."""
        self._stopwatch.start()
        with self._ledger.block(table) as record:
            queue = [cast("list[Part]", decode(value.as_py()) if value.is_valid else []) for value in table["parts"]]
            errors, meters = rows.errors(table), rows.meters(table)
            errors = [error or record.blamed.get(key) for error, key in zip(errors, table[KEY].to_pylist(), strict=True)]
            ready = [parts for parts, error in zip(queue, errors, strict=True) if error is None]
            own = Meter()
            with self._model_threads.turn:
                if not (self._tuner.is_done or record.deaths):
                    own = learn(self._tuner, self._model_threads, [part for parts in ready for part in parts], self._watchdog)
                running = self._model_threads.begin(partial(self._results, ready, one_by_one=record.deaths > 0))
            results = iter(running.result())
            encoded = [_outputs(results, parts, index, errors, meters) for index, parts in enumerate(queue)]
            self._ledger.check_forward(record, _errors_of_model(errors))
            own.waiting_s = self._stopwatch.waited()
            account(meters, own)
        table = table.drop_columns(["parts", "error", "meter"])
        done = rows.with_columns(
            table, outputs=pa.array(encoded, pa.large_binary()), error=rows.error_array(errors), meter=rows.meter_array(meters)
        )
        trim_memory()
        return done

    def _results(self, queue: list[list[Part]], one_by_one: bool) -> list[tuple[Output | RowError, Meter]]:
        """The outputs and meters of all parts of all rows."""
        together = queue if one_by_one else [[part for parts in queue for part in parts]]
        limits, watchdog = self._tuner.limits, self._watchdog
        return [
            result for parts in together for result in forward_parts(self._phases, parts, limits, watchdog, self._model_threads)
        ]


class Postprocess:
    """Postprocesses, on CPUs and without weights: rows with `outputs` become rows with `prediction`."""

    def __init__(self, worker: WorkerSpec) -> None:
        self._phases = worker.load(weights=False)
        self._schema = worker.schema
        self._watchdog, self._ledger = worker.supervision("postprocess")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows with `outputs` -> rows with `prediction` or `error`."""
        options, errors = rows.row_options(table, self._phases), rows.errors(table)
        columns = zip(table[KEY].to_pylist(), table["outputs"], options, errors, rows.meters(table), strict=True)
        outcomes = []
        with self._ledger.block(table) as record:
            for key, outputs, own, error, meter in columns:
                outcome = Outcome(error=error or record.blamed.get(key), meter=meter)
                if outcome.error is None:
                    try:
                        decoded: list[Output] = decode(outputs.as_py())  # type: ignore[assignment]
                        outcome.prediction = postprocess_item(self._phases, decoded, Item({}, own, key), meter, self._watchdog)
                    except RowError as failure:
                        outcome.error = failure
                outcomes.append(outcome)
            account([outcome.meter for outcome in outcomes], Meter())
        return rows.results(rows.carried(table), outcomes, self._schema)


def _segment(number: int, count: int, parts: list[Part] | None, error: RowError | None, meter: Meter) -> Row:
    encoded = None if parts is None else encode(parts)
    return {"segment": number, "segments": count, "parts": encoded, "error": error, "meter": meter}


def _outputs(
    results: Iterator[tuple[Output | RowError, Meter]],
    parts: Sequence[Part],
    index: int,
    errors: list[RowError | None],
    meters: Sequence[Meter],
) -> bytes | None:
    """The encoded outputs of a row's parts; None where the row has an error, which is then in `errors`."""
    outputs: list[Output] = []
    for _ in parts if errors[index] is None else []:
        output, meter = next(results)
        meters[index].add(meter)
        if isinstance(output, RowError):
            errors[index] = errors[index] or output
        else:
            outputs.append(output)
    return None if errors[index] else encode(outputs)


def _errors_of_model(errors: Sequence[RowError | None]) -> list[RowError | None]:
    """The model's errors for the rows that reached it; None for each row that went through."""
    reached = [error for error in errors if error is None or error.stage not in ("read", "preprocess")]
    return [None if error is None or error.stage == "postprocess" else error for error in reached]


def _size(parts: Sequence[Part]) -> int:
    return sum(part.cost for part in parts) * 4


def _segment_table(carried: pa.Table, segments: Sequence[Row]) -> pa.Table:
    table = carried.take(pa.array([row["index"] for row in segments], pa.int64()))
    return rows.with_columns(
        table,
        segment=pa.array([row["segment"] for row in segments], pa.int32()),
        segments=pa.array([row["segments"] for row in segments], pa.int32()),
        parts=pa.array([row["parts"] for row in segments], pa.large_binary()),
        error=rows.error_array([row["error"] for row in segments]),  # type: ignore[misc]
        meter=rows.meter_array([row["meter"] for row in segments]),  # type: ignore[misc]
    )
