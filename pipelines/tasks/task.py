"""The definition of a task: its arguments, its batches, its predictions, and what clients may set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dray.pipelines.batching import padding
from dray.pipelines.media.opening import MediaOptions
from dray.pipelines.tasks import calling
from dray.pipelines.tasks.schemas import Shape

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import Pipeline

Options = Mapping[str, object]
Modality = Literal["text", "image", "audio", "video"]
View = Literal["json", "transcript", "scores", "ranking", "boxes", "segments", "entities", "text", "sound", "depth"]

ELEMENTS: Mapping[Modality, int] = {"text": 1024, "image": 1 << 20, "audio": 320_000, "video": 1 << 20}
GENERATED_ELEMENTS = 2048  # of prompts that are continued


def unchanged(prediction: Any) -> Any:  # noqa: ANN401  # whatever a pipeline gives
    """The prediction, unchanged."""
    return prediction


@dataclass(frozen=True)
class Task:
    """One transformers task.

    Attributes:
        name: as transformers names it.
        modality: of its main input.
        arguments: argument of the pipeline that a row gives -> function from the value of its cell to that argument.
        schema: returns the Arrow type of a prediction.
        call: calls the pipeline with (arguments, options) as a user would.
        answers_prompts: whether its answer is text that continues a prompt.
        transcribes: whether it turns recordings of any length into text.
        embeds: whether its prediction is one vector, or a vector for each token, of a text.
        optional: whether a row may lack the first argument if it has others.
        fans_out: whether an item can have so many parts that several workers should share them.
        preprocess: replaces the pipeline's own, which would hold a whole recording in memory.
        forwards_whole: whether `preprocess` needs the weights, so that the forward phase does both.
        shares: (pipeline, model inputs, forward's arguments) -> group of the part; parts of one group may share a batch.
        trim: (pipeline, model inputs, output, forward's arguments) -> output without padding.
        postprocess_defaults: postprocessing arguments that are always set, because their results are cheaper to send.
        to_output: turns the pipeline's prediction into a value of the schema.
        needs: packages that the task needs and dray does not.
        continuous: whether transformers' continuous batching can run the task.
        postprocess_arguments: arguments of the item that postprocessing takes too, among the options.
        hints: text in an error of preprocessing -> what the user can do about it.
        bounded_by_positions: whether a model's table of positions limits the number of tokens.
        general: above 0 if its pipeline also takes models of more special tasks; the higher, the more general.
        view: how a page shows its predictions.
        client_parameters: call arguments that clients of a service may set; others open files or run code.
        endpoints: paths of OpenAI's API below /v1 that it answers.
        to_client: a stored prediction -> the answer of Hugging Face's inference API.
        answers_with_list: whether that API answers a single input with a list of one answer.
        phases: the class that runs it; None: `Phases`.
    """

    name: str
    modality: Modality
    arguments: Mapping[str, Callable[[object, MediaOptions], object]]
    schema: Callable[[Shape], pa.DataType]
    call: Callable[[Pipeline, dict[str, object], dict[str, object]], object] = calling.first_and_named
    answers_prompts: bool = False
    transcribes: bool = False
    embeds: bool = False
    optional: bool = False
    fans_out: bool = False
    preprocess: Callable[..., Iterator[tuple[dict[str, object], float]]] | None = None
    forwards_whole: bool = False
    shares: Callable[[Pipeline, Mapping[str, Any], Options], Hashable] = padding.equal_but_for_padding
    trim: Callable[[Pipeline, Mapping[str, Any], dict[str, Any], Options], dict[str, Any]] | None = None
    postprocess_defaults: Options = field(default_factory=dict)
    to_output: Callable[[Any], object] = unchanged
    needs: tuple[str, ...] = ()
    continuous: bool = False
    postprocess_arguments: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    bounded_by_positions: bool = False
    general: int = 0
    view: View = "json"
    client_parameters: Collection[str] = ()
    endpoints: tuple[str, ...] = ()
    to_client: Callable[[Any], Any] = unchanged
    answers_with_list: bool = False
    phases: Callable[..., Any] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its arguments, the main one first."""
        return tuple(self.arguments)

    @property
    def preprocess_only(self) -> tuple[str, ...]:
        """The names of the arguments that only preprocessing takes."""
        return tuple(name for name in self.arguments if name not in self.postprocess_arguments)

    @property
    def elements(self) -> int:
        """The padded elements (tokens, samples, pixels) of a batch on a CPU."""
        return GENERATED_ELEMENTS if self.answers_prompts else ELEMENTS[self.modality]

    @property
    def runs_alone(self) -> bool:
        """Whether every item is a batch by itself: its pipeline cannot batch, or padding would change its results."""
        return self.shares is padding.share_nothing

    @property
    def makes_sound(self) -> bool:
        """Whether its prediction is a recording."""
        return self.view == "sound"

    @property
    def takes_labels(self) -> bool:
        """Whether each call gives the labels to choose from."""
        return "candidate_labels" in self.client_parameters
