"""Tensors and predictions as bytes and Arrow values, to send them between processes and to write them."""

from __future__ import annotations

import io
import math
import pickle
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dray.pipelines.errors import RowError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


class _Pickler(pickle.Pickler):
    """Pickles CPU tensors as numpy arrays, which is several times faster than as tensors."""

    def reducer_override(self, value: object) -> Any:  # noqa: ANN401  # pickle's own signature
        import torch

        if type(value) is not torch.Tensor:
            return NotImplemented
        tensor = cast("torch.Tensor", value).detach().contiguous()
        # numpy has no bfloat16: the bits are stored as int16
        bits = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
        return _tensor, (bits.numpy(), tensor.dtype is torch.bfloat16)


def _tensor(array: np.ndarray, is_bfloat16: bool) -> torch.Tensor:
    import torch

    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if is_bfloat16 else tensor


def encode(value: object) -> bytes:
    """Parts, outputs or options as bytes. They are pickled: `decode` them only from a process that you trust."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def decode(data: bytes) -> object:
    """The value that `encode` made these bytes of."""
    return pickle.loads(data)


def to_arrow(predictions: list[object], schema: pa.DataType) -> pa.Array:
    """Predictions as an Arrow array of type `schema`. None becomes null, images become PNG, tensors become lists.

    Raises:
        RowError: a prediction does not have the type.
    """
    import pyarrow as pa

    try:
        if any(hasattr(prediction, "shape") for prediction in predictions):
            arrays = [_nested(prediction, schema) for prediction in predictions]
            return pa.concat_arrays(arrays)
        for prediction in predictions:
            _refuse_unknown(prediction, schema)
        return pa.array([_plain(prediction) for prediction in predictions], type=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError, TypeError) as error:
        raise RowError("postprocess", type(error).__name__, f"the prediction is not a {schema}: {error}") from None


def _refuse_unknown(prediction: object, schema: pa.DataType) -> None:
    """Raises ValueError for a field that the type lacks: Arrow would drop it silently."""
    import pyarrow as pa

    record, kind = (prediction[0], schema.value_type) if isinstance(prediction, list) and prediction else (prediction, schema)
    if isinstance(record, dict) and pa.types.is_struct(kind):
        unknown = [name for name in record if kind.get_field_index(name) < 0]
        if unknown:
            raise ValueError(f"it has {', '.join(map(repr, unknown))}")


def _nested(tensor: Any, schema: pa.DataType) -> pa.Array:  # noqa: ANN401  # a tensor, or None
    """A tensor as an Arrow array of one value, nested lists. No Python object is made for each number."""
    import pyarrow as pa

    if tensor is None:
        return pa.nulls(1, schema)
    dimensions, kinds = tuple(tensor.shape), [schema]
    while hasattr(kinds[-1], "value_type"):
        kinds.append(kinds[-1].value_type)
    if len(dimensions) != len(kinds) - 1:
        raise ValueError(f"it has {len(dimensions)} dimensions")
    numbers = tensor.float().numpy() if hasattr(tensor, "numpy") else tensor
    values = pa.array(np.ascontiguousarray(numbers).reshape(-1), kinds[-1])
    for level in reversed(range(len(dimensions))):
        if pa.types.is_fixed_size_list(kinds[level]):
            values = pa.FixedSizeListArray.from_arrays(values, type=kinds[level])
        else:
            ends = np.arange(math.prod(dimensions[:level]) + 1, dtype=np.int32) * np.int32(dimensions[level])
            values = pa.ListArray.from_arrays(ends, values, type=kinds[level])
    return values


def _plain(value: Any) -> object:  # noqa: ANN401  # whatever pipelines give
    """Numpy and torch values as Python values, images as PNG; other values unchanged."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return value if value and type(value[0]) is float else [_plain(inner) for inner in value]
    if hasattr(value, "save") and hasattr(value, "mode"):
        file = io.BytesIO()
        value.save(file, "PNG")
        return file.getvalue()
    return value.tolist() if hasattr(value, "tolist") else value
