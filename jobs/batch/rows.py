"""Converts the columns of the dataflow's tables to Python values and back.

Columns: the row's key, id, source and position in the source; `keep:*` and `arg:*` from the input; between phases `parts` or
`outputs`, encoded, with `segment` and `segments`; at the end `prediction`; always `error`, and `meter` after the read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from dray.jobs.columns import ARGUMENT, ERROR, ERROR_TYPE, ID, KEEP, KEY, METER_TYPE, POSITION, SOURCE
from dray.pipelines.engine.block import Outcome
from dray.pipelines.errors import RowError, first_line
from dray.pipelines.meter import Meter
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases
from dray.pipelines.tasks.arrow import to_arrow

_AS_PYTHON = operator.methodcaller("as_py")


def items(table: pa.Table, phases: Phases) -> list[Item | RowError]:
    """Each row as an item for the pipeline; an error if the row could not be read or its main argument is null."""
    names = [name for name in phases.task.inputs if ARGUMENT + name in table.column_names]
    inputs, options = {name: table[ARGUMENT + name] for name in names}, _option_columns(table, phases)
    unread = errors(table)
    items: list[Item | RowError] = []
    for row, key in enumerate(table[KEY].to_pylist()):
        try:
            if error := unread[row]:
                raise error
            values = _values(inputs, row, _as_input)
            if not values or not (phases.task.optional or phases.task.inputs[0] in values):
                raise RowError("read", "ValueError", f"the row has no {phases.task.inputs[0]}")
            items.append(Item(values, _values(options, row, _AS_PYTHON), key))
        except RowError as error:
            items.append(error)
    return items


def row_options(table: pa.Table, phases: Phases) -> list[Mapping[str, object]]:
    """Each row's call arguments for later phases: the values that are not null; none if they cannot be read."""
    columns = _option_columns(table, phases)
    options: list[Mapping[str, object]] = []
    for row in range(table.num_rows):
        try:
            options.append(_values(columns, row, _AS_PYTHON))
        except RowError:  # the row already has this error
            options.append({})
    return options


def _option_columns(table: pa.Table, phases: Phases) -> dict[str, pa.ChunkedArray]:
    """Argument -> column, without the inputs that only preprocessing needs."""
    names = [name.removeprefix(ARGUMENT) for name in table.column_names if name.startswith(ARGUMENT)]
    return {name: table[ARGUMENT + name] for name in names if name not in phases.task.preprocess_only}


def _values(columns: Mapping[str, pa.ChunkedArray], row: int, read: Callable[[pa.Scalar], object]) -> dict[str, object]:
    """One row's values that are not null."""
    try:
        values = {name: read(column[row]) for name, column in columns.items()}
    except Exception as error:  # text that is not UTF-8, a time that Python does not know
        raise RowError("read", type(error).__name__, f"a value of the row cannot be read: {first_line(error)}") from None
    return {name: value for name, value in values.items() if value is not None}


def _as_input(value: pa.Scalar) -> object:
    """A value as a Python object; large binaries stay in Arrow's memory."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        return {name: _as_input(inner) for name, inner in value.items()}
    if isinstance(value, pa.ListScalar) and not pa.types.is_primitive(value.type.value_type):
        return [_as_input(inner) for inner in value.values]
    if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
        return value.as_buffer()
    return value.as_py()


def carried(table: pa.Table, phases: Phases | None = None) -> pa.Table:
    """The columns key, id, source, position and the kept ones; with `phases` also the arguments that later phases need."""
    names = [name for name in table.column_names if name in (KEY, ID, SOURCE, POSITION) or name.startswith(KEEP)]
    if phases is not None:
        inputs = [ARGUMENT + name for name in phases.task.preprocess_only]
        names += [name for name in table.column_names if name.startswith(ARGUMENT) and name not in inputs]
    return table.select(names)


def results(carried: pa.Table, outcomes: Sequence[Outcome], schema: pa.DataType) -> pa.Table:
    """The carried columns with the outcomes' columns; a prediction that does not fit the schema makes its row a failed one."""
    try:
        predictions = to_arrow([outcome.prediction for outcome in outcomes], schema)
    except RowError:
        # One bad prediction must not fail its whole block.
        for outcome in outcomes:
            _check(outcome, schema)
        predictions = to_arrow([outcome.prediction for outcome in outcomes], schema)
    return with_columns(
        carried,
        prediction=predictions,
        error=error_array([outcome.error for outcome in outcomes]),
        meter=meter_array([outcome.meter for outcome in outcomes]),
    )


def _check(outcome: Outcome, schema: pa.DataType) -> None:
    try:
        to_arrow([outcome.prediction], schema)
    except RowError as error:
        outcome.prediction, outcome.error = None, error


def errors(table: pa.Table) -> list[RowError | None]:
    """The column `error` as RowErrors; None for rows without an error."""
    column = table[ERROR]
    if column.null_count == table.num_rows:
        return [None] * table.num_rows
    return [RowError(row["stage"], row["type"], row["message"], row["attempts"]) if row else None for row in column.to_pylist()]


def error_array(errors: Sequence[RowError | None]) -> pa.Array:
    """Errors as the column `error`, of type ERROR."""
    rows = [
        {"stage": error.stage, "type": error.kind, "message": str(error), "attempts": error.attempts} if error else None
        for error in errors
    ]
    return pa.array(rows, ERROR_TYPE)


def meters(table: pa.Table) -> list[Meter]:
    """The column `meter` as Meters."""
    return [Meter(**row) for row in table["meter"].to_pylist()]


def meter_array(meters: Sequence[Meter]) -> pa.Array:
    """Meters as the column `meter`, of type METER."""
    return pa.array([meter.values() for meter in meters], METER_TYPE)


def with_columns(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """The table with `columns` added."""
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
