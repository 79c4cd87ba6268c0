"""The page at /ui, made with Gradio: a field for each argument of the task, and a readable view of the prediction."""

from __future__ import annotations

import hmac
import io
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from dray.jobs.online.ui_guard import PATH, UiGuard
from dray.pipelines.errors import DrayError
from dray.pipelines.media import subtitles
from dray.pipelines.media.values import image, images, recording, samples, video
from dray.pipelines.online.service import Service
from dray.pipelines.phases.item import Item
from dray.pipelines.protocols.huggingface import plain_json

if TYPE_CHECKING:
    from PIL import Image

LABELS = "candidate_labels"
MEDIA_FIELDS: Mapping[object, str] = {
    recording: "audio", samples: "audio", image: "image", images: "image", video: "video"
}  # fmt: skip
KINDS = "srt", "vtt"  # of subtitles
SHOWN = 10  # most labels
CACHED_S = 3600  # how long Gradio keeps uploads and results
KEPT_S = 600.0  # how long files made for the page are kept

Values = Mapping[str, Any]  # argument -> value of the page's field


@dataclass(frozen=True)
class View:
    """How predictions are shown.

    Attributes:
        components: the components that show a prediction.
        show: (prediction, the fields' values) -> a value for each component.
    """

    components: Sequence[Any]
    show: Callable[[Any, Values], Sequence[object]]


def add(app: FastAPI, service: Service, name: str, keys: Sequence[str], most: int) -> None:
    """Adds the page; if Gradio is not installed, one that says so. With `keys` a user needs one, as the password.

    `most`: most bytes of an uploaded file.
    """
    try:
        import gradio
    except ImportError:

        @app.get(PATH, include_in_schema=False)
        async def missing() -> PlainTextResponse:
            return PlainTextResponse("this page needs Gradio: pip install 'dray[ui]' where the service runs\n", 501)

        return

    def is_known(user: str, password: str) -> bool:
        matches = [hmac.compare_digest(password.encode(), key.encode()) for key in keys]  # compares all, to take the same time
        return any(matches)

    lock = {"auth": is_known, "auth_message": "Any name; the password is an API key."} if keys else {}
    # Without root_path the URLs of files lack the /ui.
    app.add_middleware(UiGuard)
    gradio.mount_gradio_app(app, make_page(service, name), PATH, root_path=PATH, max_file_size=most, **lock)


def make_page(service: Service, name: str) -> Any:  # noqa: ANN401  # gradio.Blocks
    """The page, as a Blocks of Gradio."""
    import gradio as gr

    fields = {argument: _field(service, argument) for argument in _shown(service)}
    view = view_of(service)

    async def answer(*entered: Any) -> Sequence[object]:  # noqa: ANN401  # values of fields
        values = dict(zip(fields, entered, strict=True))
        try:
            prediction = (await service.outcome(item_of(service, values))).prediction
        except DrayError as error:
            raise gr.Error(str(error), print_exception=False) from None
        shown = view.show(prediction, values)
        return shown if len(view.components) > 1 else shown[0]  # type: ignore[return-value]

    with gr.Blocks(title=f"dray: {name}", analytics_enabled=False, delete_cache=(CACHED_S, CACHED_S)) as page:
        gr.Markdown(
            f"# {service.task.name}\n{name}, served by dray. Programs send requests to `/`, see [the interface](/docs)."
        )
        with gr.Row():
            with gr.Column():
                for field in fields.values():
                    field.render()
                button = gr.Button("Run", variant="primary", elem_id="run")
            with gr.Column():
                for component in view.components:
                    component.render()
        button.click(answer, list(fields.values()), list(view.components), queue=False, api_visibility="private")
    page.has_launched = True  # Gradio opens any file until this is set, and sets it only if it runs the server itself
    return page


def item_of(service: Service, values: Values) -> Item:
    """The values of the fields as an item. Reads media from Gradio's uploads. Raises DrayError if all fields are empty."""
    arguments: dict[str, object] = {}
    options: dict[str, object] = {}
    for argument, value in values.items():
        if argument == LABELS:
            options[LABELS] = [label.strip() for label in str(value).split(",") if label.strip()]
        elif value not in (None, ""):
            arguments[argument] = Path(value).read_bytes() if _kind(service, argument) != "text" else str(value)
    if not arguments:
        raise DrayError("there is nothing to work on yet")
    if service.task.transcribes:
        options |= _timestamps(service)
    return Item(arguments, options)


def _timestamps(service: Service) -> dict[str, object]:
    pipe = service.phases.pipe
    if pipe.type == "seq2seq" or "return_timestamps" in service.config.parameters:  # other models give no times
        return {}
    return {"return_timestamps": True if pipe.type == "seq2seq_whisper" else "word"}


def _shown(service: Service) -> list[str]:
    names = [name for name in service.task.inputs if name not in ("text_pair", "word_boxes")]
    return [*names, LABELS] if service.task.takes_labels else names


def _kind(service: Service, argument: str) -> str:
    """The kind of an argument: audio, image, video or text."""
    return MEDIA_FIELDS.get(service.task.arguments[argument], "text")


def _field(service: Service, argument: str) -> Any:  # noqa: ANN401  # a component
    import gradio as gr

    label = argument.replace("_", " ").capitalize()
    if argument == LABELS:
        known: Any = service.config.parameters.get(LABELS) or ()
        return gr.Textbox(", ".join(known), label=f"{label}, with commas between them", render=False)
    kind = _kind(service, argument)
    if kind == "audio":
        return gr.Audio(type="filepath", label=label, render=False)
    if kind == "image":
        return gr.Image(type="filepath", label=label, render=False)
    if kind == "video":
        return gr.Video(label=label, render=False)
    return gr.Textbox(label=label, lines=4, render=False)


def view_of(service: Service) -> View:
    """The view of predictions of the service's task; JSON for tasks without a view of their own."""
    make = VIEWS.get(service.task.view)
    if make:
        return make()
    return View([_component("JSON", "Prediction")], lambda prediction, values: [json.loads(plain_json(prediction))])


def _component(kind: str, label: str, name: str = "found", **options: object) -> Any:  # noqa: ANN401  # a component
    """A component of Gradio, to be placed later."""
    import gradio as gr

    return getattr(gr, kind)(label=label, render=False, elem_id=name, **options)


def _transcript_view() -> View:
    components = [
        _component("Textbox", "Text", "text", lines=4),
        _component("Audio", "With subtitles", "player", interactive=False),
        _component("Dataframe", "Timestamps", "times", headers=["from", "to", "text"]),
        _component("File", "Subtitles", "subtitles", file_count="multiple"),
    ]
    return View(components, _speech)


def _scores_view() -> View:
    return View([_labels()], lambda prediction, values: [_scores(prediction)])


def _ranking_view() -> View:
    return View([_labels()], lambda ranking, values: [dict(zip(ranking["labels"], ranking["scores"], strict=True))])


def _boxes_view() -> View:
    return View([_component("AnnotatedImage", "Objects")], _boxes)


def _segments_view() -> View:
    return View([_component("AnnotatedImage", "Segments")], _segments)


def _entities_view() -> View:
    component = _component("HighlightedText", "Entities")
    return View([component], lambda entities, values: [{"text": values["text"], "entities": list(map(_entity, entities))}])


def _text_view() -> View:
    return View([_component("Textbox", "Text", "text", lines=8)], lambda prediction, values: [_generated(prediction)])


def _sound_view() -> View:
    return View([_component("Audio", "Sound", "player")], lambda prediction, values: [_file(prediction["audio"], "sound.flac")])


def _depth_view() -> View:
    return View([_component("Image", "Depth")], lambda prediction, values: [_picture(prediction["depth"])])


VIEWS: Mapping[str, Callable[[], View]] = {
    "transcript": _transcript_view,
    "scores": _scores_view,
    "ranking": _ranking_view,
    "boxes": _boxes_view,
    "segments": _segments_view,
    "entities": _entities_view,
    "text": _text_view,
    "sound": _sound_view,
    "depth": _depth_view,
}


def _labels() -> Any:  # noqa: ANN401  # a component
    return _component("Label", "Labels", num_top_classes=SHOWN)


def _scores(prediction: Any) -> dict[str, float]:  # noqa: ANN401  # records
    return {str(each["label"]): float(each["score"]) for each in prediction}


def _speech(prediction: Any, values: Values) -> Sequence[object]:  # noqa: ANN401  # a transcript
    chunks = prediction.get("chunks") or ()
    cues = subtitles.cues(chunks)
    table = [[round(cue.start, 2), round(cue.stop, 2), cue.text] for cue in cues]
    files = [_file(subtitles.render(chunks, kind).encode(), f"{Path(values['audio']).stem}.{kind}") for kind in KINDS if cues]
    return [prediction["text"].strip(), _player(values["audio"], files), table, files]


def _player(audio: str, files: Sequence[str]) -> object:
    import gradio as gr

    captions = next((file for file in files if file.endswith("vtt")), None)
    return gr.Audio(audio, subtitles=captions) if captions else audio


def _boxes(prediction: Any, values: Values) -> Sequence[object]:  # noqa: ANN401  # records
    boxes = [
        (tuple(round(each["box"][side]) for side in ("xmin", "ymin", "xmax", "ymax")), f"{each['label']} {each['score']:.2f}")
        for each in prediction
    ]
    return [(values["image"], boxes)]


def _segments(prediction: Any, values: Values) -> Sequence[object]:  # noqa: ANN401  # records
    import numpy as np

    return [(values["image"], [(np.asarray(_picture(each["mask"])) > 0, str(each["label"])) for each in prediction])]


def _entity(entity: Mapping[str, Any]) -> dict[str, object]:
    return {"entity": entity.get("entity_group", entity.get("entity")), "start": entity["start"], "end": entity["end"]}


def _generated(prediction: Any) -> str:  # noqa: ANN401  # records
    text = prediction[0]["generated_text"]
    return str(text[-1]["content"] if isinstance(text, list) else text)


def _picture(value: Any) -> Image.Image:  # noqa: ANN401  # a picture, or encoded as one
    from PIL import Image

    return Image.open(io.BytesIO(value)) if isinstance(value, (bytes, bytearray)) else value


def _file(content: bytes, name: str) -> str:
    """The path of a new file for Gradio, which copies it at once. Deletes files that are older than KEPT_S."""
    folder = Path(tempfile.gettempdir()) / f"dray-ui-{os.getpid()}"
    for old in folder.glob("*"):
        if time.time() - old.stat().st_mtime > KEPT_S:
            shutil.rmtree(old, ignore_errors=True)
    path = folder / uuid.uuid4().hex / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return str(path)
