"""Makes the model of a pipeline: with its weights on their devices, or without weights on the meta device."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ModelError, first_line
from dray.pipelines.internals.auto_classes import maker, models_of
from dray.pipelines.models.model_kwargs import Kwargs, ModelKwargs, own_quantization, refuse_missing_bitsandbytes
from dray.pipelines.models.weights import ModelSource, refuse_pickled_on_hub, refused_code, refused_pickle
from dray.pipelines.tasks.names import supported
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

NARROW = 32  # outputs that the kernel computes at once


def with_weights(config: JobConfig, task: Task, source: ModelSource, kwargs: ModelKwargs, device: str) -> PreTrainedModel:
    """The model on its device or devices, in a float dtype or quantized.

    Args:
        config: the job; only `engine` is used.
        task: the task of the model.
        source: where its files are.
        kwargs: arguments of from_pretrained.
        device: the device if `engine.device` is auto.

    Raises:
        ModelError: the model cannot do the task, or it needs its own code, which is not trusted.
        Exception: other errors of transformers.
    """
    import torch

    model_config = load_model_config(source, kwargs)
    is_quantized = _is_quantized(model_config, source, kwargs)
    wanted = torch.device(device if config.engine.device == "auto" else config.engine.device)
    places = config.engine.device_map
    if places is None and is_quantized:  # quantized weights cannot be moved
        places = {"": str(wanted)}
    model_class = _model_class(task, model_config, source)
    options = {**kwargs.access, **kwargs.files, **kwargs.config, **kwargs.weights}
    if not hasattr(model_class, "from_config"):  # only auto classes load code
        del options["code_revision"]
    folder = _folder_of_this_process(options)
    model = model_class.from_pretrained(
        source.location, revision=source.revision, dtype=config.engine.dtype, device_map=places, **options
    )
    if folder is not None:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    _mend_narrow_layers(model)
    return model if places is not None else model.to(wanted)


def _mend_narrow_layers(model: PreTrainedModel) -> None:
    """Turns off a kernel of bitsandbytes 0.50 for the 4-bit layers it cannot compute: it needs a multiple of 32 outputs."""
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False) and layer.out_features % NARROW:
            layer.support_avx512bf16_for_cpu = False


def without_weights(config: JobConfig, task: Task, source: ModelSource, kwargs: ModelKwargs) -> PreTrainedModel:
    """The model on the meta device. Arguments and errors as for `with_weights`."""
    import torch
    from transformers import GenerationConfig

    if not source.is_local and kwargs.weights["use_safetensors"]:
        refuse_pickled_on_hub(source, kwargs.access["token"], kwargs.files.get("cache_dir"))
    model_config = load_model_config(source, kwargs)
    if _is_quantized(model_config, source, kwargs):
        vars(model_config).pop("quantization_config", None)
    dtype = getattr(torch, config.engine.dtype, None) or model_config.dtype or torch.float32
    make = _maker(_model_class(task, model_config, source), model_config, source, kwargs)
    with torch.device("meta"):
        model = make(model_config, dtype=dtype)
    if model.can_generate():
        with contextlib.suppress(OSError):  # the model has no such file and keeps its config's values
            model.generation_config = GenerationConfig.from_pretrained(
                source.location, revision=source.revision, token=kwargs.access["token"], **kwargs.files
            )
    return model


def load_model_config(source: ModelSource, kwargs: ModelKwargs) -> PreTrainedConfig:
    """The model's config. Raises ModelError if it cannot be read, or if it needs its own code, which is not trusted."""
    from transformers import AutoConfig

    options = {**kwargs.access, **kwargs.files, **kwargs.config}
    try:
        return AutoConfig.from_pretrained(source.location, revision=source.revision, **options)
    except Exception as error:  # the model's own code may raise anything
        raise explained(error, source, kwargs) from None


def _model_class(task: Task, model_config: PreTrainedConfig, source: ModelSource) -> Any:  # noqa: ANN401  # an auto class
    own = getattr(model_config, "auto_map", None) or {}
    for auto_class in supported(task)["pt"]:
        models = models_of(auto_class, model_config)
        if models:
            is_decision = auto_class.__name__ == "AutoModelForDecision"  # its models make their own config
            return models[0] if is_decision else auto_class
        if auto_class.__name__ in own:
            return auto_class
    raise ModelError(f"model: {source.name} is a {type(model_config).__name__}, which does not serve this task")


def _maker(model_class: Any, model_config: PreTrainedConfig, source: ModelSource, kwargs: ModelKwargs) -> Any:  # noqa: ANN401
    """A function that makes a model from a config: of `model_class`, or of the model's own code if that is trusted."""
    own = (getattr(model_config, "auto_map", None) or {}).get(model_class.__name__)
    if own is None or not kwargs.access["trust_remote_code"]:
        return maker(model_class)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    access = {name: kwargs.access[name] for name in ("token", "code_revision")}
    code = get_class_from_dynamic_module(own, source.location, revision=source.revision, **access)
    return maker(add_generation_mixin_to_remote_model(code))


def _is_quantized(model_config: PreTrainedConfig, source: ModelSource, kwargs: ModelKwargs) -> bool:
    own = own_quantization(model_config)
    if own is not None:
        refuse_missing_bitsandbytes(own, f"model: {source.name}")
    return own is not None or kwargs.quantization is not None


def _folder_of_this_process(options: Kwargs) -> str | None:
    """Makes a new folder for offloaded weights and puts it in `options`: processes that shared one would overwrite files."""
    if options.get("offload_folder") is None:
        return None
    parent = Path(options["offload_folder"]).expanduser()
    parent.mkdir(parents=True, exist_ok=True)
    options["offload_folder"] = tempfile.mkdtemp(prefix="dray-", dir=parent)
    return str(options["offload_folder"])


def explained(error: Exception, source: ModelSource, kwargs: ModelKwargs, purpose: str = "") -> ModelError:
    """The ModelError for an error of transformers, with a message that says what to do."""
    text = str(error)
    if "trust_remote_code" in text and not kwargs.access["trust_remote_code"]:
        return refused_code(source.name)
    if "do not set `use_safetensors=True`" in text:
        return refused_pickle(source.name)
    return ModelError(f"model: cannot load {source.name}{purpose}: {first_line(error)}")
