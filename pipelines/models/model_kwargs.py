"""Sorts `model_kwargs` by what takes them: all components of a pipeline, or only its model and config."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ConfigError, ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OWN_KEYS = {
    "dtype": "engine.dtype",
    "torch_dtype": "engine.dtype",
    "device_map": "engine.device_map",
    "revision": "revision",
    "load_in_8bit": "model_kwargs.quantization_config.load_in_8bit",
    "load_in_4bit": "model_kwargs.quantization_config.load_in_4bit",
}
OF_ACCESS = ("token", "code_revision", "trust_remote_code")
OF_FILES = ("cache_dir", "force_download", "proxies", "subfolder")
OF_WEIGHTS = (
    "attn_implementation",
    "experts_implementation",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
    "use_safetensors",
    "variant",
    "weights_only",
)
QUANTIZATION = "model_kwargs.quantization_config"

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class ModelKwargs:
    """The keyword arguments of from_pretrained, sorted.

    Attributes:
        access: for all components: token, trust_remote_code (False by default), code_revision.
        files: for all components: where their files are in the repository and in the cache.
        config: for the model: changes of its config.
        weights: for the model: how weights are loaded; not used for a model without weights.
    """

    access: Kwargs
    files: Kwargs
    config: Kwargs
    weights: Kwargs

    @property
    def quantization(self) -> Any | None:  # noqa: ANN401  # one of many classes
        """The quantization config, if there is one."""
        return self.weights.get("quantization_config")


def sort_kwargs(config: JobConfig) -> ModelKwargs:
    """The `model_kwargs` of a config, sorted.

    Raises:
        ConfigError: one of them has its own key in the config.
        ModelError: the quantization config is not valid, or its package is missing.
    """
    given: Kwargs = dict(config.model_kwargs)
    for name, key in OWN_KEYS.items():
        if name in given:
            raise ConfigError(f"model_kwargs.{name}: set {key} instead")
    access = {"token": None, "code_revision": None, **_take(given, OF_ACCESS)}
    access["trust_remote_code"] = access.get("trust_remote_code") is True
    weights = {"use_safetensors": True, **_take(given, OF_WEIGHTS)}
    if weights.get("quantization_config") is not None:
        weights["quantization_config"] = quantization(weights["quantization_config"])
    if "max_memory" in weights:
        weights["max_memory"] = {int(key) if key.isdigit() else key: most for key, most in weights["max_memory"].items()}
    return ModelKwargs(access, _take(given, OF_FILES), given, weights)


def _take(kwargs: Kwargs, names: tuple[str, ...]) -> Kwargs:
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def quantization(given: Mapping[str, Any]) -> Any:  # noqa: ANN401  # one of many classes
    """The quantization config of transformers, made from the dict in the YAML file.

    Raises:
        ModelError: it names no known method, or bitsandbytes is missing.
    """
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.auto import AutoQuantizationConfig

    refuse_missing_bitsandbytes(given, QUANTIZATION)
    try:
        if uses_bitsandbytes(given):
            known = set(BitsAndBytesConfig().to_dict()) | {"load_in_8bit", "load_in_4bit"}
            unknown = sorted(set(given) - known)
            if unknown or not (given.get("load_in_8bit") or given.get("load_in_4bit")):
                problem = f"bitsandbytes does not know {', '.join(unknown)}" if unknown else "no width is chosen"
                raise ValueError(f"{problem}; set load_in_8bit: true or load_in_4bit: true, and what belongs to it")
            return BitsAndBytesConfig(**{key: value for key, value in given.items() if key != "quant_method"})
        return AutoQuantizationConfig.from_dict(dict(given))
    except Exception as error:  # each method raises its own errors
        raise ModelError(f"{QUANTIZATION}: {first_line(error)}") from None


def uses_bitsandbytes(given: Mapping[str, Any]) -> bool:
    """Whether bitsandbytes quantizes the weights; it does if no method is named."""
    return str(given.get("quant_method", "bitsandbytes")).startswith("bitsandbytes")


def refuse_missing_bitsandbytes(given: Mapping[str, Any], where: str) -> None:
    """Raises ModelError, which names the key `where`, if bitsandbytes is needed and missing."""
    if uses_bitsandbytes(given) and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"{where}: 8-bit and 4-bit weights need bitsandbytes; pip install 'dray[quantization]'")


def own_quantization(model_config: PreTrainedConfig) -> Mapping[str, Any] | None:
    """The quantization with which a model was saved; None if it was not quantized."""
    own = getattr(model_config, "quantization_config", None)
    return own if own is None or isinstance(own, Mapping) else own.to_dict()
