"""Private names of transformers' `Pipeline` classes, and of the module that makes them.

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
    """Call arguments of a pipeline, by the phase that takes them."""

    preprocess_params: dict[str, Any]
    forward_params: dict[str, Any]
    postprocess_params: dict[str, Any]


def sort_arguments(pipe: Pipeline, arguments: Mapping[str, Any]) -> PhaseArguments:
    """The call arguments of each phase, over the pipeline's defaults. Raises whatever the pipeline refuses."""
    given = pipe._sanitize_parameters(**arguments)
    defaults = (pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params)
    return PhaseArguments(*({**default, **own} for default, own in zip(defaults, given, strict=True)))


def generates(pipe: Pipeline) -> bool:
    """Whether the pipeline's forward calls `generate`, and its model can."""
    return bool(pipe._pipeline_calls_generate and pipe.model.can_generate())


def arguments_of_generate(pipe: Pipeline, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline's forward hands to `generate` of these arguments."""
    if not hasattr(pipe, "_prepare_generate_kwargs"):  # before transformers 5.20
        return {"generation_config": pipe.generation_config, **arguments}
    handed: dict[str, Any] = pipe._prepare_generate_kwargs(dict(arguments))
    return handed


def nests_arguments_of_generate(pipe: Pipeline) -> bool:
    """Whether the pipeline's forward takes the arguments of `generate` in a dict `generate_kwargs`, and not one by one."""
    nested = inspect.signature(pipe._forward).parameters.get("generate_kwargs")
    return nested is not None and nested.kind is not inspect.Parameter.VAR_KEYWORD


def run_forward(pipe: Pipeline, inputs: dict[str, Any]) -> Any:  # noqa: ANN401  # whatever the model gives
    """The model's output, left on its device, in the caller's gradient mode: `Pipeline.forward` without what is around it."""
    return pipe._forward(pipe._ensure_tensor_on_device(inputs, pipe.device))


def samples_per_output(pipe: Pipeline) -> int:
    """Samples of a recording behind one output of a speech pipeline's model; chunks are cut at multiples of it."""
    return int(pipe._align_to)


def pipeline_class(task: str) -> type[Pipeline]:
    """The class of a task's pipeline, by the task's own name."""
    from transformers import pipelines

    found = pipelines.SUPPORTED_TASKS[task]["impl"]
    if isinstance(found, str):  # since transformers 5.21 or so, which imports it when it is needed
        found = pipelines._resolve_impl(found)
    made: type[Pipeline] = found
    return made


def components(kind: type[Pipeline]) -> list[str]:
    """What a pipeline of this class loads beside its model, of COMPONENTS."""
    return [name for name in COMPONENTS if getattr(kind, f"_load_{name}") is not False]


def ctc_decoder(location: str, access: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the speech pipeline for a decoder with a language model; none where the model comes without one.

    `pipeline()` finds it only beside a model that it loads itself.
    """
    from transformers.pipelines import _maybe_load_ctc_decoder

    found: dict[str, Any] = {}
    _maybe_load_ctc_decoder(location, dict(access), found, location)
    return found
