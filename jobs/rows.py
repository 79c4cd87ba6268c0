"""What a row looks like on its way through the dataflow: column names, and columns as Python values and back.

Columns: the row's key, id and source; `keep:*` and `arg:*` from the input; between phases `parts` or `outputs`, encoded,
with `segment` and `segments`; at the end `prediction`; throughout `error` and `meter`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import pyarrow as pa

from pipelines.codec import to_arrow
from pipelines.engine import Meter, Outcome
from pipelines.errors import RowError
from pipelines.phases import Item, Phases

KEY = "_row"  # uint64: names a row in the checkpoint
ID, SOURCE = "id", "source"
READ_S = "read_s"  # seconds that reading the row took
ARGUMENT, KEEP = "arg:", "keep:"  # prefixes of the columns that carry pipeline arguments and kept input columns

ERROR = pa.struct([("stage", pa.string()), ("type", pa.string()), ("message", pa.string()), ("attempts", pa.int32())])
METER = pa.struct([(field.name, pa.float64()) for field in fields(Meter)])


def items(table: pa.Table, phases: Phases) -> list[Item | RowError]:
    """Each row's input as its pipeline takes it; an error where its main argument is null."""
    inputs = [name for name in phases.task.inputs if ARGUMENT + name in table.column_names]
    columns = [table[ARGUMENT + name] for name in inputs]
    seeds = table[KEY].to_pylist()
    items: list[Item | RowError] = []
    for row, options in enumerate(row_options(table, phases)):
        cells = {name: _cell(column[row]) for name, column in zip(inputs, columns, strict=True)}
        given = {name: cell for name, cell in cells.items() if cell is not None}
        if not given or not (phases.task.optional or phases.task.inputs[0] in given):
            items.append(RowError("read", "ValueError", f"the row has no {phases.task.inputs[0]}"))
        else:
            items.append(Item(given, options, seeds[row]))
    return items


def row_options(table: pa.Table, phases: Phases) -> list[Mapping[str, object]]:
    """Each row's own call arguments: those columns that are not part of the item and not null."""
    names = [name for name in table.column_names if name.startswith(ARGUMENT)]
    names = [name for name in names if name.removeprefix(ARGUMENT) not in phases.task.inputs]
    if not names:
        return [{}] * table.num_rows
    rows = table.select(names).to_pylist()
    return [{name.removeprefix(ARGUMENT): value for name, value in row.items() if value is not None} for row in rows]


def _cell(value: pa.Scalar) -> object:
    """A cell as Python sees it; large binaries stay in Arrow's memory."""
    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        return {name: _cell(inner) for name, inner in value.items()}
    if isinstance(value, pa.ListScalar) and not pa.types.is_primitive(value.type.value_type):
        return [_cell(inner) for inner in value.values]
    if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
        return value.as_buffer()
    return value.as_py()


def carried(table: pa.Table, phases: Phases | None = None) -> pa.Table:
    """Key, id, source and kept columns; with `phases` also the call arguments that later phases need."""
    names = [name for name in table.column_names if name in (KEY, ID, SOURCE) or name.startswith(KEEP)]
    if phases is not None:
        inputs = [ARGUMENT + name for name in phases.task.inputs]
        names += [name for name in table.column_names if name.startswith(ARGUMENT) and name not in inputs]
    return table.select(names)


def results(carried: pa.Table, outcomes: Sequence[Outcome], schema: pa.DataType) -> pa.Table:
    """Outcomes beside what is carried; one whose prediction does not fit the schema becomes a failed row."""
    try:
        predictions = to_arrow([outcome.prediction for outcome in outcomes], schema)
    except RowError:
        # One that does not fit its type must not take its block with it.
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
    """The column `error`."""
    rows = table["error"].to_pylist()
    return [RowError(row["stage"], row["type"], row["message"]) if row else None for row in rows]


def error_array(errors: Sequence[RowError | None]) -> pa.Array:
    """Errors as the column `error`, of type ERROR."""
    rows = [
        {"stage": error.stage, "type": error.kind, "message": str(error), "attempts": 1} if error else None for error in errors
    ]
    return pa.array(rows, ERROR)


def meters(table: pa.Table) -> list[Meter]:
    """The column `meter`."""
    return [Meter(**row) for row in table["meter"].to_pylist()]


def meter_array(meters: Sequence[Meter]) -> pa.Array:
    """Meters as the column `meter`, of type METER."""
    return pa.array([meter.values() for meter in meters], METER)


def with_columns(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """The table with more columns."""
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
