"""The fingerprint of a job in its output folder: what must be the same for a later run to continue it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from dray.jobs.inputs.dataset import Columns
from dray.jobs.inputs.inventory import INVENTORY
from dray.jobs.outputs.commits import CHECKPOINT, DATA
from dray.jobs.outputs.retry import RETRIED
from dray.jobs.storage.folder import BATCH_ERRORS, BATCH_OUTPUT, PRECISION, REPORT, STATE, SUMMARY, Folder
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import OutputError, reason
from dray.pipelines.models.resolved import ResolvedModel

NOT_COMPARED = ("version of transformers",)  # written by earlier versions of dray; now it is in each data file
FINGERPRINT = f"{STATE}/fingerprint.json"
CONFIG = f"{STATE}/config.json"
RESULTS = 2  # increased when dray gives rows other keys or results than before
# What --fresh deletes; the commits first, because data without a commit do not count if it is interrupted.
OURS = (
    CHECKPOINT, RETRIED, INVENTORY, "data/status=ok", "data/status=failed", "subtitles", FINGERPRINT, CONFIG, PRECISION,
    SUMMARY, REPORT, BATCH_OUTPUT, BATCH_ERRORS,
)  # fmt: skip
SECRET = re.compile(
    r"(.*(access|api|auth|hf|session|security)_?)?token|.*(secret|password|credential).*|(.*_)?key", re.IGNORECASE
)


def fingerprint(model: ResolvedModel, columns: Columns) -> dict[str, object]:
    """The values that must be the same for two runs to share an output folder."""
    config = model.config
    return {
        "task": model.task.name,
        "model": model.name,
        "revision": model.revision,
        "weights": model.identity,
        "parameters": dict(config.parameters),
        "model_kwargs": without_secrets(config.model_kwargs, None),
        "dtype": config.engine.dtype,
        "seed": config.engine.seed,
        "input format": config.input.format,
        "columns": columns.arguments,
        "id": columns.id,
        "keep": list(columns.keep),
        "format": config.output.format,
        "version of dray's results": RESULTS,
    }


def without_secrets(value: object, mask: str | None = "***") -> object:
    """A value of the config without tokens, keys and passwords: each becomes `mask`, or is left out if that is None."""
    if not isinstance(value, Mapping):
        return [without_secrets(inner, mask) for inner in value] if isinstance(value, (list, tuple)) else value
    hidden = {key for key, inner in value.items() if isinstance(inner, str) and SECRET.fullmatch(str(key))}
    kept = {key: mask if key in hidden else without_secrets(inner, mask) for key, inner in value.items()}
    return {key: inner for key, inner in kept.items() if not (key in hidden and mask is None)}


def public(config: JobConfig) -> str:
    """The config as JSON that anyone may read: without storage options and secrets."""
    shown = config.model_dump(mode="json", exclude={"input": {"storage_options"}, "output": {"storage_options"}})
    return json.dumps({**shown, "model_kwargs": without_secrets(shown["model_kwargs"])}, indent=2)


def refuse_different(output: Folder, mark: Mapping[str, object]) -> bool:
    """Whether the folder already holds results of this job; False where it is empty. `mark`: the job's fingerprint.

    Raises:
        OutputError: it holds the results of another job, or files of unknown origin, or cannot be read.
    """
    try:
        earlier = output.read(FINGERPRINT)
        is_foreign = earlier is None and bool((output / DATA).files())
    except Exception as error:  # clients of object stores raise their own classes
        raise OutputError(f"output.path: cannot read {output.url}: {reason(error)}") from None
    if is_foreign:
        raise OutputError(f"output.path: {output.url}/data holds files of unknown origin; choose another folder")
    if earlier is not None:
        _refuse_different(output.url, json.loads(earlier), mark)
    return earlier is not None


def claim(output: Folder, mark: Mapping[str, object], config: JobConfig, fresh: bool) -> None:
    """Writes the job's fingerprint and config into the output folder.

    Args:
        output: the output folder; created if missing.
        mark: the fingerprint.
        config: the config, which is only kept for reference.
        fresh: delete the results of earlier runs first.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        if fresh:
            for name in OURS:
                (output / name).remove()
        output.write(FINGERPRINT, json.dumps(mark, indent=2, default=str))
        output.write(CONFIG, public(config))
    except Exception as error:  # clients of object stores raise their own classes
        raise OutputError(f"output.path: cannot write to {output.url}: {reason(error)}") from None


def _refuse_different(url: str, earlier: Mapping[str, object], mark: Mapping[str, object]) -> None:
    before, now = dict(_leaves(earlier)), dict(_leaves(json.loads(json.dumps(mark, default=str))))
    for key in sorted((before.keys() | now.keys()) - set(NOT_COMPARED)):
        if before.get(key) != now.get(key):
            raise OutputError(
                f"output.path: {url} holds the result of a run where {key} was {before.get(key)!r}, not {now.get(key)!r}; "
                "choose another folder, or --fresh to start over"
            )


def _leaves(value: object, name: str = "") -> list[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}.{key}" if name else str(key))]
    return [(name, value)]
