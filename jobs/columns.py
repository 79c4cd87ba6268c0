"""Names and types of the columns of rows in the dataflow and in the output."""

from __future__ import annotations

from dataclasses import fields

import pyarrow as pa

from dray.pipelines.meter import Meter

KEY = "_row"  # uint64: the row's key in the checkpoint
ID, SOURCE, POSITION = "id", "source", "source_row"
PREDICTION, ERROR = "prediction", "error"
READ_S = "read_s"  # seconds of reading the row
ARGUMENT, KEEP = "arg:", "keep:"  # prefixes of the columns with pipeline arguments and kept input columns
ERROR_TYPE = pa.struct([("stage", pa.string()), ("type", pa.string()), ("message", pa.string()), ("attempts", pa.int32())])
METER_TYPE = pa.struct([(field.name, pa.float64()) for field in fields(Meter)])
WHOLE_FILE = -1  # position of the one row of a damaged file, before 0: if the file is repaired, its rows get other keys
