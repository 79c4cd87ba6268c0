"""What an output folder knows of earlier runs: whose work it is, and which rows are finished."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import CheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from jobs.read import Keys
from jobs.rows import KEY
from jobs.sources import Columns
from jobs.storage import REPORT, STATE, SUMMARY, Folder, reason
from pipelines.config import JobConfig
from pipelines.errors import OutputError
from pipelines.models.choosing import named_model
from pipelines.tasks import Task

CHECKPOINT = f"{STATE}/checkpoint"
FINGERPRINT = f"{STATE}/fingerprint.json"
CONFIG = f"{STATE}/config.json"
PENDING = f"{PENDING_CHECKPOINT_SUFFIX}.parquet"
SECRET = re.compile(
    r"(.*(access|api|auth|hf|session|security)_?)?token|.*(secret|password|credential).*|(.*_)?key", re.IGNORECASE
)


class FinishedElsewhere(CheckpointManager):  # type: ignore[misc]  # Ray is untyped
    """Tells Ray Data not to filter finished rows: the read tasks do, without the actors that Ray's own filter needs."""

    def load_checkpoint(self, *args: object, **kwargs: object) -> tuple[None, int]:
        """Nothing to filter."""
        return None, 0


def checkpoint_config(output: Folder) -> CheckpointConfig:
    """Ray Data's two-phase commit: the keys of a file's rows are written before it and committed after it."""
    return CheckpointConfig(
        id_column=KEY,
        checkpoint_path=(output / CHECKPOINT).path,
        override_filesystem=output.arrow(),
        delete_checkpoint_on_success=False,
        checkpoint_manager_cls=FinishedElsewhere,
    )


def fingerprint(config: JobConfig, task: Task, columns: Columns, model: str) -> dict[str, object]:
    """What must be the same for two runs to share an output folder. `model` is a hash of the weights or a commit."""
    name, revision = named_model(config, task.name)
    return {
        "task": task.name,
        "model": name,
        "revision": revision,
        "weights": model,
        "parameters": dict(config.parameters),
        "model_kwargs": without_secrets(config.model_kwargs, None),
        "dtype": config.engine.dtype,
        "seed": config.engine.seed,
        "input format": config.input.format,
        "columns": columns.arguments,
        "id": columns.id,
        "keep": list(columns.keep),
        "format": config.output.format,
    }


def without_secrets(value: object, mask: str | None = "***") -> object:
    """A value of the config without the tokens, keys and passwords in it: they become `mask`, or are left out."""
    if not isinstance(value, Mapping):
        return [without_secrets(inner, mask) for inner in value] if isinstance(value, (list, tuple)) else value
    hidden = {key for key, inner in value.items() if isinstance(inner, str) and SECRET.fullmatch(str(key))}
    kept = {key: mask if key in hidden else without_secrets(inner, mask) for key, inner in value.items()}
    return {key: inner for key, inner in kept.items() if not (key in hidden and mask is None)}


def public(config: JobConfig) -> str:
    """The config as JSON that anyone may read: without storage options and secrets."""
    shown = config.model_dump(mode="json", exclude={"input": {"storage_options"}, "output": {"storage_options"}})
    return json.dumps({**shown, "model_kwargs": without_secrets(shown["model_kwargs"])}, indent=2)


def claim(output: Folder, work: Mapping[str, object], config: JobConfig, fresh: bool) -> None:
    """Makes the folder this work's, or checks that it is.

    Args:
        output: the output folder; created if missing.
        work: the fingerprint.
        config: written beside it, for the record.
        fresh: what an earlier run left is deleted.

    Raises:
        OutputError: it cannot be written, or holds the result of different work.
    """
    try:
        if fresh:
            for name in ("data/status=ok", "data/status=failed", "subtitles", CHECKPOINT, FINGERPRINT, CONFIG, SUMMARY, REPORT):
                (output / name).remove()
        earlier = output.read(FINGERPRINT)
        if earlier is not None:
            _refuse_different(output.url, json.loads(earlier), work)
        elif (output / "data").files():
            raise OutputError(f"output.path: {output.url}/data holds files of unknown origin; choose another folder")
        output.write(FINGERPRINT, json.dumps(work, indent=2, default=str))
        output.write(CONFIG, public(config))
    except OutputError:
        raise
    except Exception as error:  # clients of object stores raise their own
        raise OutputError(f"output.path: cannot write to {output.url}: {reason(error)}") from None


def _refuse_different(url: str, earlier: Mapping[str, object], work: Mapping[str, object]) -> None:
    before, now = dict(_leaves(earlier)), dict(_leaves(json.loads(json.dumps(work, default=str))))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise OutputError(
                f"output.path: {url} holds the result of a run where {key} was {before.get(key)!r}, not {now.get(key)!r}; "
                "choose another folder, or --fresh to start over"
            )


def _leaves(value: object, name: str = "") -> list[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}.{key}" if name else str(key))]
    return [(name, value)]


def finished_keys(output: Folder) -> Keys:
    """Keys of all rows that earlier runs have written, sorted. Files of interrupted writes are deleted first."""
    _roll_back(output)
    files = (output / CHECKPOINT).files()
    filesystem = output.arrow()
    with ThreadPoolExecutor(32) as pool:
        tables = list(pool.map(lambda path: pq.read_table(path, columns=[KEY], filesystem=filesystem)[KEY], files))
    keys = pa.chunked_array([chunk for column in tables for chunk in column.chunks], pa.uint64()).to_numpy()
    return np.unique(keys)


def failed_rows(output: Folder) -> int:
    """Rows under data/status=failed, of all runs so far."""
    count = 0
    for path in (output / "data/status=failed").files():
        kind = "parquet" if path.endswith(".parquet") else "json"
        count += pads.dataset(path, format=kind, filesystem=output.arrow()).count_rows()
    return count


def _roll_back(output: Folder) -> None:
    """Deletes data files whose checkpoint is pending, then the pending checkpoints: Ray's own recovery."""
    pending = [path for path in (output / CHECKPOINT).files() if path.endswith(PENDING)]
    if not pending:
        return
    unfinished = {posixpath.basename(path).removesuffix(PENDING) for path in pending}
    for path in (output / "data").files():
        if posixpath.basename(path).rsplit(".", 1)[0] in unfinished:
            output.fs.rm_file(path)
    for path in pending:
        output.fs.rm_file(path)
