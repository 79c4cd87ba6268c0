"""Names and types of the columns that rows have on their way through the dataflow, and in the output."""

from __future__ import annotations

from dataclasses import fields

import pyarrow as pa

from dray.pipelines.meter import Meter

KEY = "_row"  # uint64: names a row in the checkpoint


ID, SOURCE, POSITION = "id", "source", "source_row"


PREDICTION, ERRORS = "prediction", "error"


READ_S = "read_s"  # seconds that reading the row took


ARGUMENT, KEEP = "arg:", "keep:"  # prefixes of the columns that carry pipeline arguments and kept input columns


ERROR = pa.struct([("stage", pa.string()), ("type", pa.string()), ("message", pa.string()), ("attempts", pa.int32())])


METER = pa.struct([(field.name, pa.float64()) for field in fields(Meter)])


WHOLE_FILE = -1  # the position of the one row that a damaged file is: should it be mended, its rows come after it
