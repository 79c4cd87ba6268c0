"""The config of a job. The field descriptions are the manual: `dray config` prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
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

from dray.pipelines.errors import ConfigError, nearest

OPENAI = "openai"  # input.format of OpenAI's Batch files
RENAMED = {"engine.actors": "engine.copies"}  # keys of earlier versions, which keep working


class Section(BaseModel):
    """A part of the config: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputConfig(Section):
    """What is read."""

    path: str | tuple[str, ...] = Field(description="folder, glob or file, or a list of them; local or any fsspec URL")
    format: Literal["parquet", "jsonl", "csv", "text", "files", "webdataset", "arrow", "openai"] | None = Field(
        None,
        description="parquet, jsonl, csv, text (a row per line), files (a row per audio, image or video file), webdataset "
        "(tars), arrow (Feather, or a folder saved by datasets), openai (OpenAI's Batch files); default: by the files' suffix",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="pipeline argument -> column; default: the column named as the argument. "
        "Other call arguments may come from columns too",
    )
    id: str | None = Field(
        None, description="column that names a row; default: source file and row position, in Batch files custom_id"
    )
    storage_options: dict[str, JsonValue] = Field(default_factory=dict, description="as fsspec takes them")
    changed: Literal["refuse", "redo"] = Field(
        "refuse",
        description="what becomes of a file that was changed after rows of it were finished: the job is refused, or "
        "they are done again",
    )
    max_media_bytes: PositiveInt = Field(
        2 << 30,
        description="a row fails whose download or image file is larger, or whose picture, or recording that is needed as a "
        "whole, is larger when decoded",
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a list."""
        return (self.path,) if isinstance(self.path, str) else self.path


class OutputConfig(Section):
    """Where the results go."""

    path: str = Field(description="folder; local or any fsspec URL")
    format: Literal["parquet", "jsonl"] = Field("parquet", description="format of the files under data/")
    keep: tuple[str, ...] = Field((), description="input columns copied to the output")
    subtitles: tuple[Literal["srt", "vtt"], ...] = Field((), description="subtitle files written for each recording")
    storage_options: dict[str, JsonValue] | None = Field(None, description="default: the input's")


class EngineConfig(Section):
    """How the model runs."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps ...; auto: an accelerator where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: as the model was saved; in a job of some minutes bfloat16 instead of float32 where the hardware is "
        "faster with it and a trial on rows of the input gives the same results",
    )
    device_map: str | dict[str, JsonValue] | None = Field(
        None,
        description="instead of device: auto, or module -> device, cpu or disk, as from_pretrained takes it; "
        "with model_kwargs.max_memory and offload_folder",
    )
    batch: Literal["auto"] | PositiveInt = Field(
        "auto",
        description="model inputs per batch; auto: as many as fit a budget of padded elements, which dray tune, or a worker of "
        "a job of some minutes, finds for each length of the data",
    )
    continuous_batching: Literal["auto"] | bool = Field(
        "auto", description="transformers' continuous batching for greedy text generation; auto: on accelerators"
    )
    copies: Literal["auto"] | PositiveInt = Field("auto", description="copies of the model; auto: from the cluster")
    layout: Literal["auto", "fused", "staged"] = Field(
        "auto", description="fused: one pool does all phases; staged: a pool per phase; auto: staged with accelerators"
    )
    seed: int = Field(0, ge=0, description="of random numbers; each row draws its own, the same in every run")
    compile: bool = Field(
        False,
        description="torch.compile the model; texts are padded to one of a few lengths, and the first batch of each waits for "
        "the compiler: for jobs of hours",
    )


class ErrorsConfig(Section):
    """When rows fail."""

    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="more failed rows than this: the job exits with 1")
    timeout_s: float = Field(
        600,
        gt=0,
        description="seconds that one phase of a row, or the model with one batch, may take; a worker that takes longer is "
        "stopped and replaced, and the row that is to blame fails",
    )


class ServeConfig(Section):
    """The model behind HTTP."""

    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0: every one of this machine")
    port: int = Field(8000, ge=0, le=65535, description="port to listen at")
    min_replicas: PositiveInt = Field(1, description="copies of the service at least")
    max_replicas: PositiveInt = Field(1, description="copies at most; between the two as many as the requests need")
    max_requests: PositiveInt = Field(256, description="requests under way in a copy; more are told to come again (503)")
    max_bytes: PositiveInt = Field(64 << 20, description="of a request, or of a medium that it names; more is refused (413)")
    max_seconds: PositiveFloat = Field(14_400.0, description="of a recording; longer ones are refused (413)")
    max_pixels: PositiveInt = Field(64 << 20, description="of a picture; larger ones are refused (413)")
    max_new_tokens: PositiveInt = Field(4096, description="that a client may ask for; more is refused (422)")
    urls: list[str] = Field(
        default_factory=list,
        description="beginnings of the URLs that clients may name instead of sending the medium, as https://media.example.org/",
    )


class JobConfig(Section):
    """One job: task, model, input, output."""

    task: str | None = Field(
        None, description="any transformers task or alias; default: the model card's pipeline_tag, or by the architecture"
    )
    model: str | None = Field(
        None,
        validate_default=True,
        description="hub id, local folder, or folder in an object store (s3://bucket/model), which is fetched once per node "
        "to DRAY_CACHE or ~/.cache/dray with input.storage_options; default: the task's default model in transformers",
    )
    revision: str | None = Field(
        None, description="branch, tag or commit of a hub model; in an object store: the version it must have"
    )
    input: InputConfig
    output: OutputConfig
    parameters: dict[str, JsonValue] = Field(default_factory=dict, description="exactly the pipeline's own call arguments")
    model_kwargs: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="exactly from_pretrained's: quantization_config, attn_implementation ...; a model's own code is run only "
        "with trust_remote_code: true, pickled weights are loaded only with use_safetensors: false",
    )
    engine: EngineConfig = EngineConfig()
    errors: ErrorsConfig = ErrorsConfig()
    serve: ServeConfig = ServeConfig()

    @field_validator("model")
    @classmethod
    def _model_or_task(cls, model: str | None, info: ValidationInfo) -> str | None:
        if not model and not info.data.get("task"):
            raise ValueError("name a model, or a task, whose default model is then used")
        return model

    @field_validator("model_kwargs", mode="before")
    @classmethod
    def _text_keys(cls, value: object) -> object:
        """YAML's integer keys, as in max_memory, as text."""
        if isinstance(value, Mapping):
            return {str(key): cls._text_keys(inner) for key, inner in value.items()}
        return value


def load_config(path: str | PathLike[str], overrides: Sequence[str] | Mapping[str, object] = ()) -> JobConfig:
    """Reads a YAML file.

    Args:
        path: the file.
        overrides: as of `with_overrides`; or "key.key=value" each, whose value is YAML: numbers, lists and null mean what they
            mean in the file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest known one is named) or a wrong value.
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
    """Checks a config given as nested dicts. Raises ConfigError with one sentence for the first mistake."""
    try:
        return JobConfig.model_validate(_with_new_names(raw))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _with_new_names(raw: Mapping[str, object]) -> Mapping[str, object]:
    """The config with keys of earlier versions under their new names; says so on stderr."""
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
    """A config with other values for some keys, as {"engine.batch": 16}. Raises ConfigError for a key below a value."""
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
    """Key and value of "key=value"."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write key=value, for example --set engine.batch=16")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.strip(), value


def _explain(error: ValidationError) -> str:
    """The first mistake as a sentence; unknown keys first, for a misspelt key is also a missing one."""
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    location = [str(part) for part in detail["loc"]]
    name = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name}{nearest(location[-1], _known_keys(location[:-1]))}"
    if detail["type"] == "missing":
        return f"{name} is missing"
    got = detail["input"]
    return f"{_public_name(location)}: {detail['msg'].removeprefix('Value error, ')}, got {got!r}"


def _public_name(location: list[str]) -> str:
    """The key's path without the names pydantic adds for the members of a union."""
    model: type[BaseModel] = JobConfig
    name: list[str] = []
    for part in location:
        field = model.model_fields.get(part)
        if field is None:
            break
        name.append(part)
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
    return ".".join(name) or ".".join(location)


def _known_keys(parents: Iterable[str]) -> list[str]:
    model: type[BaseModel] = JobConfig
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
