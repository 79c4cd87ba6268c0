"""The task table: what each transformers task is given, what it costs, and what its predictions look like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pipelines import speech
from pipelines.config import nearest
from pipelines.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import Pipeline

Options = Mapping[str, object]
Streamed = Iterator[tuple[dict[str, object], float]]


@dataclass(frozen=True)
class Task:
    """One transformers task.

    Attributes:
        name: as transformers names it.
        inputs: the pipeline argument that is the item, and others that make a dict of it where they are given.
        schema: postprocessing options -> Arrow type of a prediction.
        elements: padded elements (tokens, samples) of a batch on a CPU; an accelerator takes ACCELERATOR times that.
        fans_out: whether an item can have many parts that are worth spreading over the pool.
        preprocess: replaces the pipeline's own where that would hold a whole recording in memory.
        trim: (pipeline, model inputs, output) -> output without what stands for padding.
        equal_lengths: whether only parts of equal length may share a batch.
        present: what `pipeline.__call__` does to a prediction after `postprocess`, given the call's options.
    """

    name: str
    inputs: tuple[str, ...]
    schema: Callable[[Options], pa.DataType]
    elements: int
    fans_out: bool = False
    preprocess: Callable[..., Streamed] | None = None
    trim: Callable[[Pipeline, Mapping[str, torch.Tensor], dict[str, object]], dict[str, object]] | None = None
    equal_lengths: Callable[[Pipeline], bool] = lambda pipe: False
    present: Callable[[object, Options], object] = lambda prediction, options: prediction


ACCELERATOR = 32  # times Task.elements


def _transcript(options: Options) -> pa.DataType:
    import pyarrow as pa

    fields = [("text", pa.string())]
    if options.get("return_timestamps") or options.get("return_language"):
        chunk = [("text", pa.string()), ("timestamp", pa.list_(pa.float64()))]
        if options.get("return_language"):
            chunk.insert(0, ("language", pa.string()))
        fields.append(("chunks", pa.list_(pa.struct(chunk))))
    return pa.struct(fields)


def _labels(options: Options) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))


def _ranking(options: Options) -> pa.DataType:
    import pyarrow as pa

    fields = [("sequence", pa.string()), ("labels", pa.list_(pa.string())), ("scores", pa.list_(pa.float64()))]
    return pa.struct(fields)


def _features(options: Options) -> pa.DataType:
    import pyarrow as pa

    return pa.list_(pa.list_(pa.list_(pa.float32())))


def _as_list(prediction: object, options: Options) -> object:
    """Text classification gives a bare dict for its single best label only inside, never to its caller."""
    return [prediction] if isinstance(prediction, dict) else prediction


def _trim_tokens(pipe: Pipeline, inputs: Mapping[str, torch.Tensor], output: dict[str, object]) -> dict[str, object]:
    """Cuts the first tensor, (1, tokens, ...), to the tokens of this item."""
    key, length = next(iter(output)), inputs["input_ids"].shape[1]
    states = cast("torch.Tensor", output[key])
    output[key] = states[:, -length:] if pipe.tokenizer.padding_side == "left" else states[:, :length]
    return output


TASKS = {
    task.name: task
    for task in (
        Task(
            "automatic-speech-recognition",
            inputs=("audio",),
            schema=_transcript,
            elements=320_000,
            fans_out=True,
            preprocess=speech.preprocess,
            trim=speech.trim,
            equal_lengths=speech.needs_equal_lengths,
        ),
        Task("text-classification", ("text", "text_pair"), _labels, elements=512, present=_as_list),
        Task("zero-shot-classification", ("text",), _ranking, elements=512),
        Task("feature-extraction", ("text",), _features, elements=512, trim=_trim_tokens),
    )
}

ALIASES = {"sentiment-analysis": "text-classification"}

# What transformers 5 has removed, and the way to go now.
REMOVED = {
    "question-answering": "text-generation with a chat model",
    "summarization": "text-generation with a chat model",
    "text2text-generation": "text-generation with a chat model",
    "translation": "text-generation with a chat model",
    "visual-question-answering": "image-text-to-text with a vision-language model",
    "vqa": "image-text-to-text with a vision-language model",
}


def find_task(name: str) -> Task:
    """The task of that name or alias.

    Raises:
        ConfigError: no such task; removed tasks are told what replaces them, others the nearest name.
    """
    name = ALIASES.get(name, name)
    if name in TASKS:
        return TASKS[name]
    removed = "translation" if name.startswith("translation_") else name
    if removed in REMOVED:
        raise ConfigError(f"task: transformers has removed {name}; use {REMOVED[removed]}")
    raise ConfigError(f"task: dray does not run {name}{nearest(name, [*TASKS, *ALIASES])}")
