"""The task table: what each transformers task is given, what it costs, and what its predictions look like."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching import padding
from dray.pipelines.config import nearest
from dray.pipelines.errors import ConfigError
from dray.pipelines.generation import sampling
from dray.pipelines.media import values
from dray.pipelines.media.opening import MediaOptions
from dray.pipelines.tasks import postprocess, schemas, speech
from dray.pipelines.tasks.arguments import first_and_named, named, pair, request
from dray.pipelines.tasks.schemas import Shape

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import Pipeline

Options = Mapping[str, object]

TEXT, GENERATED, IMAGE, AUDIO = 1024, 2048, 1 << 20, 320_000  # elements of a batch on a CPU
ACCELERATOR = 32  # times as many on an accelerator
DICTATED = 6  # times as many on a CPU of speech whose text is generated: 8 of Whisper's parts of 30 s, of 80 x 3,000 elements
CONTINUED = 2  # times as many on a CPU of prompts, whose batches shrink
CPU_OVERHEAD = 1 / 16  # what a batch costs there beside its elements, as a share of a full one; more where media become text

OCR = (
    "words are read from images with tesseract: apt install tesseract-ocr (or your system's package) and "
    "pip install 'dray[ocr]', on every node; or give the words in a column word_boxes"
)


@dataclass(frozen=True)
class Task:
    """One transformers task.

    Attributes:
        name: as transformers names it.
        arguments: what a row gives: argument of the pipeline -> how its cell becomes what the pipeline takes.
        schema: Arrow type of a prediction.
        elements: padded elements (tokens, samples, pixels) of a batch on a CPU; ACCELERATOR times that elsewhere.
        call: calls the pipeline with (arguments, options) as a user would.
        optional: whether a row may lack the first argument, having others.
        fans_out: whether an item can have many parts that are worth spreading over the pool.
        preprocess: replaces the pipeline's own where that would hold a whole recording in memory.
        forwards_whole: whether `preprocess` needs the weights, so that the forward phase does both.
        shares: (pipeline, model inputs, forward's arguments) -> what parts of a batch have in common; ALONE: nothing.
        trim: (pipeline, model inputs, output, forward's arguments) -> output without what stands for padding.
        forced: postprocessing arguments that are always set, because what they give is cheaper to carry.
        to_output: what becomes of the pipeline's prediction on its way to the schema.
        needs: packages that dray itself does without.
        continuous: whether transformers' continuous batching does the task.
        late: arguments that postprocessing is given as well, among the options.
        hints: text in an error of preprocessing -> what the user can do about it.
    """

    name: str
    arguments: Mapping[str, Callable[[object, MediaOptions], object]]
    schema: Callable[[Shape], pa.DataType]
    elements: int
    call: Callable[[Pipeline, dict[str, object], dict[str, object]], object] = first_and_named
    optional: bool = False
    fans_out: bool = False
    preprocess: Callable[..., Iterator[tuple[dict[str, object], float]]] | None = None
    forwards_whole: bool = False
    shares: Callable[[Pipeline, Mapping[str, Any], Options], Hashable] = padding.equal_but_for_padding
    trim: Callable[[Pipeline, Mapping[str, Any], dict[str, Any], Options], dict[str, Any]] | None = None
    forced: Options = field(default_factory=dict)
    to_output: Callable[[Any], object] = lambda prediction: prediction
    needs: tuple[str, ...] = ()
    continuous: bool = False
    late: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its arguments, the main one first."""
        return tuple(self.arguments)

    @property
    def early(self) -> tuple[str, ...]:
        """Those of its arguments that only preprocessing is given."""
        return tuple(name for name in self.arguments if name not in self.late)


def _type(kind: pa.DataType) -> Callable[[Shape], pa.DataType]:
    return lambda shape: kind


TASKS = {
    task.name: task
    for task in (
        Task(
            "automatic-speech-recognition",
            {"audio": values.recording},
            schemas.transcript,
            AUDIO,
            fans_out=True,
            preprocess=speech.preprocess,
            shares=speech.shares,
            trim=speech.trim,
        ),
        Task("audio-classification", {"audio": values.samples}, _type(schemas.SCORED), AUDIO, shares=speech.shares),
        Task(
            "zero-shot-audio-classification",
            {"audio": values.samples},
            _type(schemas.SCORED),
            AUDIO,
            shares=padding.same_texts,
        ),
        Task(
            "text-to-audio",
            {"text": values.chat},
            _type(schemas.SOUND),
            TEXT,
            shares=padding.nothing,
            to_output=postprocess.sound,
        ),
        Task(
            "text-classification",
            {"text": values.as_it_is, "text_pair": values.as_it_is},
            _type(schemas.SCORED),
            TEXT,
            call=pair,
            to_output=postprocess.as_list,
        ),
        Task("token-classification", {"text": values.as_it_is}, schemas.entities, TEXT),
        Task("fill-mask", {"text": values.as_it_is}, _type(schemas.FILLED), TEXT, to_output=postprocess.flat_masks),
        Task("zero-shot-classification", {"text": values.as_it_is}, _type(schemas.RANKED), TEXT),
        Task(
            "table-question-answering",
            {"table": values.table, "query": values.as_it_is},
            _type(schemas.CELLS),
            TEXT,
            shares=padding.nothing,
        ),
        Task(
            "document-question-answering",
            {"image": values.image, "question": values.as_it_is, "word_boxes": values.word_boxes},
            _type(schemas.SPANS),
            TEXT,
            optional=True,
            trim=padding.trim_tokens("start_logits", "end_logits", "attention_mask"),
            hints={"esseract": OCR},
        ),
        Task(
            "text-generation",
            {"text": values.chat},
            schemas.generated,
            GENERATED,
            trim=sampling.trim,
            to_output=postprocess.messages,
            continuous=True,
        ),
        Task(
            "image-text-to-text",
            {"images": values.images, "text": values.chat},
            schemas.answered,
            GENERATED,
            call=named,
            optional=True,
            trim=sampling.trim,
            to_output=postprocess.messages,
        ),
        Task(
            "any-to-any",
            {"text": values.chat, "images": values.images, "videos": values.video, "audio": values.samples},
            schemas.answered,
            GENERATED,
            call=named,
            optional=True,
            trim=sampling.trim,
            to_output=postprocess.messages,
        ),
        Task(
            "decision",
            {"state": values.chat, "questions": values.parsed},
            _type(schemas.DECISIONS),
            TEXT,
            call=request,
            shares=padding.nothing,
            to_output=postprocess.answers,
        ),
        Task("image-classification", {"image": values.image}, _type(schemas.SCORED), IMAGE),
        Task(
            "zero-shot-image-classification",
            {"image": values.image},
            _type(schemas.SCORED),
            IMAGE,
            shares=padding.same_texts,
        ),
        Task("object-detection", {"image": values.image}, _type(schemas.BOXES), IMAGE),
        Task("zero-shot-object-detection", {"image": values.image}, _type(schemas.BOXES), IMAGE),
        Task("image-segmentation", {"image": values.image}, _type(schemas.SEGMENTS), IMAGE),
        Task("depth-estimation", {"image": values.image}, _type(schemas.DEPTH), IMAGE),
        Task(
            "mask-generation",
            {"image": values.image},
            schemas.masks,
            IMAGE,
            forwards_whole=True,
            shares=padding.nothing,
            to_output=postprocess.masks,
            needs=("torchvision",),
        ),
        Task("keypoint-matching", {"images": values.images}, _type(schemas.MATCHES), IMAGE, shares=padding.nothing),
        Task("video-classification", {"video": values.video}, _type(schemas.SCORED), IMAGE),
        Task(
            "image-feature-extraction",
            {"image": values.image},
            schemas.features,
            IMAGE,
            forced={"return_tensors": True},
        ),
        Task(
            "feature-extraction",
            {"text": values.as_it_is},
            schemas.features,
            TEXT,
            trim=padding.trim_tokens(),
            forced={"return_tensors": True},
        ),
    )
}

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification", "text-to-speech": "text-to-audio"}

# What transformers 5 has removed, and the way to go now.
REMOVED = {
    "question-answering": "text-generation with a chat model",
    "summarization": "text-generation with a chat model",
    "text2text-generation": "text-generation with a chat model",
    "translation": "text-generation with a chat model",
    "visual-question-answering": "image-text-to-text with a vision-language model",
    "vqa": "image-text-to-text with a vision-language model",
    "image-to-text": "image-text-to-text with a vision-language model",
    "image-to-image": "the diffusers library",
}


def find_task(name: str) -> Task:
    """The task of that name or alias.

    Raises:
        ConfigError: no such task (removed ones are told what replaces them, others the nearest name), or a package that
            it needs is missing.
    """
    name = ALIASES.get(name, name)
    if name in TASKS:
        _refuse_missing(TASKS[name])
        return TASKS[name]
    removed = "translation" if name.startswith("translation_") else name
    if removed in REMOVED:
        raise ConfigError(f"task: transformers has removed {name}; use {REMOVED[removed]}")
    raise ConfigError(f"task: dray does not run {name}{nearest(name, [*TASKS, *ALIASES])}")


def _refuse_missing(task: Task) -> None:
    missing = [package for package in task.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"task: {task.name} needs {missing[0]}, which is not installed; pip install {missing[0]}")
