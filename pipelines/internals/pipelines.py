"""Private names of transformers' `Pipeline` classes and of the module `transformers.pipelines`.

Source: transformers/pipelines/base.py and transformers/pipelines/__init__.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import Pipeline

COMPONENTS = ("tokenizer", "feature_extractor", "image_processor", "video_processor", "processor")


class PhaseArguments(NamedTuple):
    """The call arguments of a pipeline, by the phase that takes them."""

    preprocess_params: dict[str, Any]
    forward_params: dict[str, Any]
    postprocess_params: dict[str, Any]


def sort_arguments(pipe: Pipeline, arguments: Mapping[str, Any]) -> PhaseArguments:
    """The call arguments of each phase, added to the pipeline's defaults. Raises the pipeline's own error."""
    given = pipe._sanitize_parameters(**arguments)
    defaults = (pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params)
    return PhaseArguments(*({**default, **own} for default, own in zip(defaults, given, strict=True)))


def generates(pipe: Pipeline) -> bool:
    """Whether the pipeline's forward calls `generate`, and its model has it."""
    return bool(pipe._pipeline_calls_generate and pipe.model.can_generate())


def arguments_of_generate(pipe: Pipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the pipeline's forward passes to `generate`, given these."""
    if not hasattr(pipe, "_prepare_generate_kwargs"):  # before transformers 5.20
        return {"generation_config": pipe.generation_config, **arguments}
    prepared: dict[str, Any] = pipe._prepare_generate_kwargs(dict(arguments))
    return prepared


def nests_arguments_of_generate(pipe: Pipeline) -> bool:
    """Whether the pipeline's forward takes the arguments of `generate` in a dict `generate_kwargs`."""
    nested = inspect.signature(pipe._forward).parameters.get("generate_kwargs")
    return nested is not None and nested.kind is not inspect.Parameter.VAR_KEYWORD


def run_forward(pipe: Pipeline, inputs: dict[str, Any]) -> Any:  # noqa: ANN401  # whatever the model gives
    """The model's output, on its device. Unlike `Pipeline.forward`, it keeps the caller's gradient mode."""
    return pipe._forward(pipe._ensure_tensor_on_device(inputs, pipe.device))


def samples_per_output(pipe: Pipeline) -> int:
    """The samples of a recording for one output of a speech pipeline's model; chunks are cut at multiples of it."""
    return int(pipe._align_to)


def pipeline_class(task: str) -> type[Pipeline]:
    """The pipeline class of a task; `task` is a name, not an alias."""
    from transformers import pipelines

    implementation = pipelines.SUPPORTED_TASKS[task]["impl"]
    if isinstance(implementation, str):  # since about transformers 5.21, which imports the class when it is needed
        implementation = pipelines._resolve_impl(implementation)
    kind: type[Pipeline] = implementation
    return kind


def components(kind: type[Pipeline]) -> list[str]:
    """The names in COMPONENTS that a pipeline of this class loads, beside its model."""
    return [name for name in COMPONENTS if getattr(kind, f"_load_{name}") is not False]


def ctc_decoder(location: str, access: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the speech pipeline for a decoder with a language model; empty if the model has none.

    `pipeline()` itself loads the decoder only if it also loads the model.
    """
    from transformers.pipelines import _maybe_load_ctc_decoder

    arguments: dict[str, Any] = {}
    _maybe_load_ctc_decoder(location, dict(access), arguments, location)
    return arguments
