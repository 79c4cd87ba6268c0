"""What a task says of itself: its arguments, its batches, its predictions, and what clients may ask of it."""

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
    """The prediction as it is."""
    return prediction


@dataclass(frozen=True)
class Task:
    """One transformers task.

    Attributes:
        name: as transformers names it.
        modality: of its main input.
        arguments: what a row gives: argument of the pipeline -> how the value in its cell becomes what the pipeline takes.
        schema: Arrow type of a prediction.
        call: calls the pipeline with (arguments, options) as a user would.
        generates: whether its answer is text that continues a prompt.
        transcribes: whether it makes text of recordings of any length.
        embeds: whether its prediction is one vector, or a vector for each token, of a text.
        optional: whether a row may lack the first argument, having others.
        fans_out: whether an item can have many parts that are worth spreading over the pool.
        preprocess: replaces the pipeline's own where that would hold a whole recording in memory.
        forwards_whole: whether `preprocess` needs the weights, so that the forward phase does both.
        shares: (pipeline, model inputs, forward's arguments) -> what parts of a batch have in common; ALONE: nothing.
        trim: (pipeline, model inputs, output, forward's arguments) -> output without what stands for padding.
        postprocess_defaults: postprocessing arguments that are always set, because what they give is cheaper to carry.
        to_output: what becomes of the pipeline's prediction on its way to the schema.
        needs: packages that dray itself does without.
        continuous: whether transformers' continuous batching does the task.
        postprocess_arguments: arguments of the item that postprocessing is given as well, among the options.
        hints: text in an error of preprocessing -> what the user can do about it.
        bounded_by_positions: whether its models count positions from the first token to the last.
        general: whether its pipeline takes the models of more special tasks too; its rank among those, 0 for others.
        view: how a page shows its predictions.
        client_parameters: call arguments that clients of a service may set; others open files or run code.
        endpoints: paths of OpenAI's API below /v1 that it answers.
        to_client: a stored prediction -> what Hugging Face's inference API answers.
        answers_with_list: whether that API answers a single input with a list of one answer.
        phases: the class that runs it, where that is not `Phases`.
    """

    name: str
    modality: Modality
    arguments: Mapping[str, Callable[[object, MediaOptions], object]]
    schema: Callable[[Shape], pa.DataType]
    call: Callable[[Pipeline, dict[str, object], dict[str, object]], object] = calling.first_and_named
    generates: bool = False
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
        """Those of its arguments that only preprocessing is given."""
        return tuple(name for name in self.arguments if name not in self.postprocess_arguments)

    @property
    def elements(self) -> int:
        """Padded elements (tokens, samples, pixels) of a batch on a CPU."""
        return GENERATED_ELEMENTS if self.generates else ELEMENTS[self.modality]

    @property
    def runs_alone(self) -> bool:
        """Whether every item is a batch by itself: its pipeline cannot batch, or padding would change its results."""
        return self.shares is padding.nothing

    @property
    def makes_sound(self) -> bool:
        """Whether its prediction is a recording."""
        return self.view == "sound"

    @property
    def takes_labels(self) -> bool:
        """Whether the labels to choose from come with each call."""
        return "candidate_labels" in self.client_parameters
