"""The call arguments that clients may set. Pipelines take more, some of which open files or run code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dray.pipelines.errors import RequestError, nearest
from dray.pipelines.tasks.task import Task

GENERATION = frozenset(
    (
        "do_sample", "early_stopping", "epsilon_cutoff", "eta_cutoff", "length_penalty", "max_length", "max_new_tokens",
        "min_length", "min_new_tokens", "no_repeat_ngram_size", "num_beams", "num_return_sequences", "penalty_alpha",
        "repetition_penalty", "temperature", "top_k", "top_p", "typical_p", "use_cache", "language", "task",
        "return_timestamps",
    )
)  # fmt: skip
NESTED = ("generate_kwargs",)  # hold arguments of GENERATION
RANKED = ("top_k", "function_to_apply")
LABELLED = ("candidate_labels", "hypothesis_template")
MOST = {"num_frames": 1024, "frame_sampling_rate": 10_000, "max_seq_len": 1 << 16, "doc_stride": 1 << 16}
MOST_LABELS, LONGEST_TEMPLATE = 1000, 1000


def allowed(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """A client's parameters, checked, without those that are null.

    Raises:
        RequestError: a parameter is unknown, or clients may not set it.
    """
    kept = {name: value for name, value in given.items() if value is not None}
    for name, value in kept.items():
        if name not in task.client_parameters:
            hint = nearest(name, list(task.client_parameters))
            raise RequestError(f"{task.name} takes no parameter {name}{hint}")
        if name in NESTED:
            _check_nested(name, value)
        if name in MOST and (not isinstance(value, int) or isinstance(value, bool) or value > MOST[name]):
            raise RequestError(f"{name} must be a whole number of at most {MOST[name]}")
        if name == "hypothesis_template":
            _check_template(value)
        if name == "candidate_labels":
            _check_labels(value)
    return kept


def _check_labels(value: object) -> None:
    labels = value.split(",") if isinstance(value, str) else value
    if not isinstance(labels, list) or len(labels) > MOST_LABELS or not all(isinstance(label, str) for label in labels):
        raise RequestError(f"candidate_labels must be a list of at most {MOST_LABELS} texts")


def _check_template(value: object) -> None:
    """Allows `{}` once and no other field: a format such as {:9999} would make a very long text."""
    if not isinstance(value, str) or len(value) > LONGEST_TEMPLATE or value.replace("{}", "", 1).count("{"):
        raise RequestError(f"hypothesis_template must be a text of at most {LONGEST_TEMPLATE} characters, {{}} being the label")


def _check_nested(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be an object")
    for inner in value:
        if inner not in GENERATION:
            raise RequestError(f"{name} takes no {inner}{nearest(str(inner), sorted(GENERATION))}")
