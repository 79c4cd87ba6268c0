"""The shape of a model's output, found without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dray.pipelines.batching.collating import plain
from dray.pipelines.internals.pipelines import run_forward
from dray.pipelines.media.opening import MediaOptions
from dray.pipelines.phases.intercept import Options, route
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import Pipeline


def main_output(pipe: Pipeline, task: Task, media: MediaOptions, options: Options) -> tuple[int, int] | None:
    """(dimensions, size of the last) of the model's output for a small input; works without weights.

    Args:
        pipe: the pipeline; it takes one argument, a text or an image.
        task: its entry in the table.
        media: how media are read.
        options: the arguments of the call.

    Returns:
        None where the model reads the values of tensors, so that it cannot run without weights.
    """
    import torch

    sample = "a" if task.inputs == ("text",) else [[[0, 0, 0]] * 64] * 64
    ((name, decode),) = task.arguments.items()
    try:
        routed = route(task.call, pipe, {name: decode(sample, media)}, options)
        with torch.inference_mode():
            inputs = plain(pipe.preprocess(routed.inputs, **routed.preprocess_params))
            inputs.pop("attention_mask", None)  # models read its values
            outputs = run_forward(pipe, inputs)
        wanted = outputs["pooler_output"] if routed.postprocess_params.get("pool") else outputs[0]
    except Exception:  # models raise different errors where there are no values
        return None
    return wanted.ndim, wanted.shape[-1]
