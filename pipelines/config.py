"""The config of a job. `dray config` prints the descriptions of the fields as the manual."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from dray.pipelines.config_errors import explain
from dray.pipelines.errors import ConfigError

OPENAI = "openai"  # input.format of OpenAI's Batch files
RENAMED = {"engine.actors": "engine.copies"}  # keys of earlier versions, which still work -> their names now


class Section(BaseModel):
    """A section of the config. It is immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputConfig(Section):
    """The input of the job."""

    path: str | tuple[str, ...] = Field(description="folder, glob or file, or a list of them; local or any fsspec URL")
    format: Literal["parquet", "jsonl", "csv", "text", "files", "webdataset", "arrow", "openai"] | None = Field(
        None,
        description="parquet, jsonl, csv, text (a row per line), files (a row per audio, image or video file), webdataset "
        "(tars), arrow (Feather, or a folder saved by datasets), openai (OpenAI's Batch files); default: from the file suffix",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="pipeline argument -> column; default: the column with the name of the argument. "
        "Columns may also give other call arguments",
    )
    id: str | None = Field(
        None, description="column with the name of each row; default: file and position of the row, in Batch files custom_id"
    )
    storage_options: dict[str, JsonValue] = Field(default_factory=dict, description="options of the storage, passed to fsspec")
    changed: Literal["refuse", "redo"] = Field(
        "refuse",
        description="if an input file was changed after rows of it were finished: refuse the job, or redo these rows",
    )
    max_media_bytes: PositiveInt = Field(
        2 << 30,
        description="a row fails if its download or image file is larger than this; also if its decoded picture is, or its "
        "decoded recording where the whole recording must be in memory",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path


class OutputConfig(Section):
    """The output of the job."""

    path: str = Field(description="folder; local or any fsspec URL")
    format: Literal["parquet", "jsonl"] = Field("parquet", description="format of the files in data/")
    keep: tuple[str, ...] = Field((), description="input columns to copy to the output")
    subtitles: tuple[Literal["srt", "vtt"], ...] = Field(
        (), description="formats of subtitle files to write for each recording"
    )
    storage_options: dict[str, JsonValue] | None = Field(
        None, description="options of the storage, passed to fsspec; default: input.storage_options"
    )


class EngineConfig(Section):
    """How the model runs."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps ...; auto: an accelerator if there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="precision of the weights; auto: as the model was saved, but a job of several minutes uses bfloat16 "
        "instead of float32 if the hardware is faster with it and a trial on rows of the input gives the same results",
    )
    device_map: str | dict[str, JsonValue] | None = Field(
        None,
        description="instead of device, for a model on several devices: auto, or module -> device, cpu or disk, as in "
        "from_pretrained; see also model_kwargs.max_memory and model_kwargs.offload_folder",
    )
    batch: Literal["auto"] | PositiveInt = Field(
        "auto",
        description="model inputs per batch; auto: as many as fit a budget of padded elements (tokens, samples, pixels), which "
        "dray tune, or a job of several minutes itself, finds for each length of the data",
    )
    continuous_batching: Literal["auto"] | bool = Field(
        "auto", description="transformers' continuous batching for greedy text generation; auto: on accelerators"
    )
    copies: Literal["auto"] | PositiveInt = Field("auto", description="copies of the model; auto: as many as the cluster holds")
    layout: Literal["auto", "fused", "staged"] = Field(
        "auto", description="fused: one pool runs all phases; staged: a pool per phase; auto: staged with accelerators"
    )
    seed: int = Field(0, ge=0, description="seed of random numbers; each row has its own random numbers, the same in every run")
    compile: bool = Field(
        False,
        description="compile the model with torch.compile; texts are padded to one of a few lengths, and the first batch of "
        "each length waits for the compiler; useful for jobs of hours",
    )


class ErrorsConfig(Section):
    """How failed rows are handled."""

    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="the job exits with 1 if more than this fraction of the rows failed"
    )
    timeout_s: float = Field(
        600,
        gt=0,
        description="the most seconds for one phase of a row, or for the model with one batch; a worker that takes longer is "
        "stopped and replaced, and the row that causes it fails",
    )


class ServeConfig(Section):
    """The HTTP service, `dray serve`."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0: all addresses of this machine")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    min_replicas: PositiveInt = Field(1, description="the fewest copies of the service")
    max_replicas: PositiveInt = Field(1, description="the most copies of the service; their number depends on the requests")
    max_requests: PositiveInt = Field(
        256, description="the most unanswered requests in a copy; further ones are refused, to be sent again later (503)"
    )
    max_bytes: PositiveInt = Field(
        64 << 20, description="the most bytes of a request, or of a medium at a URL; larger ones are refused (413)"
    )
    max_seconds: PositiveFloat = Field(14_400.0, description="the most seconds of a recording; longer ones are refused (413)")
    max_pixels: PositiveInt = Field(64 << 20, description="the most pixels of a picture; larger ones are refused (413)")
    max_new_tokens: PositiveInt = Field(
        4096, description="the most new tokens of a request; requests for more are refused (422)"
    )
    urls: list[str] = Field(
        default_factory=list,
        description="prefixes of the URLs that clients may send instead of the medium, for example https://media.example.org/",
    )


class JobConfig(Section):
    """One job: task, model, input, output."""

    task: str | None = Field(
        None, description="transformers task or alias; default: pipeline_tag of the model card, or from the architecture"
    )
    model: str | None = Field(
        None,
        validate_default=True,
        description="hub id, local folder, or folder in an object store (s3://bucket/model), which is fetched once per node "
        "to DRAY_CACHE or ~/.cache/dray with input.storage_options; default: the task's default model in transformers",
    )
    revision: str | None = Field(
        None, description="branch, tag or commit of a hub model; of a model in an object store, the version it must have"
    )
    input: InputConfig
    output: OutputConfig
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="call arguments of the transformers pipeline")
    model_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="arguments of from_pretrained: quantization_config, attn_implementation ...; a model's own code is run "
        "only with trust_remote_code: true, pickled weights are loaded only with use_safetensors: false",
    )
    engine: EngineConfig = EngineConfig()
    errors: ErrorsConfig = ErrorsConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def model_name(self) -> str:
        """The name of the model for people: as the config gives it, or else the task, whose default model is meant."""
        return self.model or str(self.task)

    @field_validator("model")
    @classmethod
    def _model_or_task(cls, model: str | None, info: ValidationInfo) -> str | None:
        if not model and not info.data.get("task"):
            raise ValueError("name a model, or a task, whose default model is then used")
        return model

    @field_validator("model_kwargs", mode="before")
    @classmethod
    def _text_keys(cls, value: object) -> object:
        """Integer keys, which YAML allows for instance in max_memory, as text."""
        if isinstance(value, Mapping):
            return {str(key): cls._text_keys(inner) for key, inner in value.items()}
        return value


def load_config(path: str | PathLike[str], overrides: Sequence[str] | Mapping[str, object] = ()) -> JobConfig:
    """The config in a YAML file.

    Args:
        path: the file.
        overrides: as in `with_overrides`, or a list of "key.key=value"; the value is YAML, as in the file.

    Raises:
        ConfigError: there is no such file, it is not YAML, or has an unknown key (the nearest known one is named) or a wrong
            value.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no keys; a config needs at least model, input.path and output.path")
    values = overrides if isinstance(overrides, Mapping) else dict(map(_assignment, overrides))
    return parse_config(with_overrides(raw, values))


def parse_config(raw: Mapping[str, object]) -> JobConfig:
    """The config in nested dicts. Raises ConfigError with one sentence for the first mistake."""
    try:
        return JobConfig.model_validate(_with_new_names(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, JobConfig)) from None


def _with_new_names(raw: Mapping[str, object]) -> Mapping[str, object]:
    """The config with keys of earlier versions renamed, which it reports on stderr."""
    for old, new in RENAMED.items():
        section, name = old.split(".")
        keys = raw.get(section)
        if isinstance(keys, Mapping) and name in keys:
            renamed = new.split(".")[1]
            if renamed in keys:
                raise ConfigError(f"{old} is the earlier name of {new}; leave it out")
            print(f"dray: {old} is now called {new}; the earlier name still works", file=sys.stderr)
            raw = {**raw, section: {renamed if key == name else key: value for key, value in keys.items()}}
    return raw


def with_overrides(raw: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """A config with other values for some keys, as {"engine.batch": 16}. Raises ConfigError if a key's section is a value."""
    changed = dict(raw)
    for key, value in overrides.items():
        *parents, last = key.split(".")
        section = changed
        for parent in parents:
            inner = section.get(parent, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"{key}: {parent} is a value, not a section")
            section[parent] = section = dict(inner)
        section[last] = value
    return changed


def _assignment(text: str) -> tuple[str, object]:
    """(key, value) of "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write key=value, for example --set engine.batch=16")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.strip(), value
