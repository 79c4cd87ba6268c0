"""`huggingface_hub.InferenceClient` unchanged, with the network taken out: its requests, our answers, its reading of them."""

import asyncio
import functools
import io
import json

import numpy as np
import pytest
import soundfile
from huggingface_hub import InferenceClient
from PIL import Image
from support import builders, catalogue, tiny_text, tiny_vision
from support.comparing import differences
from support.loading import load_phases
from transformers import pipeline

from dray.pipelines.batching.parts import Limits
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import RequestError
from dray.pipelines.media.admission import Admission
from dray.pipelines.protocols import huggingface
from dray.pipelines.tasks.table import TASKS

PEOPLE = {"name": ["people", "water"], "age": ["12", "7"]}
LABELS = ["water", "time", "people"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Builder of a model -> its folder."""
    root = tmp_path_factory.mktemp("clients")
    return functools.cache(lambda build: build(root / build.__name__))


class Answering(InferenceClient):
    """Sends its requests to phases in this process."""

    def __init__(self, task, model, **parameters):
        super().__init__("http://service.test", token="none")
        raw = {"task": task, "model": model, "parameters": parameters, "input": {"path": "-"}, "output": {"path": "-"}}
        self.phases = load_phases(parse_config(raw), weights=True)

    def _inner_post(self, request, *, stream=False):
        if request.data is None:
            return respond(self.phases, json.dumps(request.json).encode())[0]
        return respond(self.phases, bytes(request.data), getattr(request.data, "mime_type", None) or "")[0]


def respond(phases, body, content_type="application/json"):
    request = asyncio.run(huggingface.read_request(phases.task, body, content_type, Admission()))
    outcomes = predict(phases, request.items, Limits.budget(1 << 20), Watchdog(60))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return huggingface.answer_of(phases.task, request, [outcome.prediction for outcome in outcomes])


def wav(seconds=1.3, seed=1):
    file = io.BytesIO()
    soundfile.write(file, builders.sound(seconds, seed), builders.RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def png(width=48, height=40, seed=0):
    file = io.BytesIO()
    tiny_vision.picture(width, height, seed=seed).save(file, "PNG")
    return file.getvalue()


def lengthened(vectors):
    """Of length 1 each."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


SOUND, PICTURE = builders.sound(1.3, 1), tiny_vision.picture(48, 40, seed=0)
CALLS = [
    ("automatic-speech-recognition", "ctc", lambda c: c.automatic_speech_recognition(wav()), lambda p: p(SOUND.copy())),
    (
        "automatic-speech-recognition", "ctc",
        lambda c: c.automatic_speech_recognition(wav(), extra_body={"return_timestamps": "word"}),
        lambda p: p(SOUND.copy(), return_timestamps="word"),
    ),
    ("audio-classification", "wav2vec2", lambda c: c.audio_classification(wav(), top_k=2), lambda p: p(SOUND.copy(), top_k=2)),
    ("text-classification", "text_classifier", lambda c: c.text_classification("the people who made this"),
     lambda p: p("the people who made this")),
    ("text-classification", "text_classifier", lambda c: c.text_classification("time and water", top_k=2),
     lambda p: p("time and water", top_k=2)),
    ("token-classification", "token_classifier", lambda c: c.token_classification("the people who made this"),
     lambda p: p("the people who made this")),
    (
        "token-classification", "token_classifier",
        lambda c: c.token_classification("the people", aggregation_strategy="simple"),
        lambda p: p("the people", aggregation_strategy="simple"),
    ),
    ("fill-mask", "masked", lambda c: c.fill_mask("the [MASK] who", top_k=2), lambda p: p("the [MASK] who", top_k=2)),
    (
        "zero-shot-classification", "entailment", lambda c: c.zero_shot_classification("time and water", LABELS),
        lambda p: ranked(p("time and water", LABELS)),
    ),
    ("feature-extraction", "text_encoder", lambda c: c.feature_extraction("time and water"), lambda p: p("time and water")),
    (
        "feature-extraction", "text_encoder", lambda c: c.feature_extraction("time and water", normalize=True, truncate=True),
        lambda p: lengthened(p("time and water")),
    ),
    (
        "feature-extraction", "text_encoder", lambda c: c.feature_extraction("time and water", dimensions=4),
        lambda p: lengthened(np.asarray(p("time and water"))[..., :4]),
    ),
    (
        "document-question-answering", "layoutlm",
        lambda c: c.document_question_answering(
            as_png(tiny_text.page("time and water")), "who",
            word_boxes=[["time", [0, 0, 100, 100]], ["water", [200, 0, 300, 100]]],
        ),
        lambda p: p(
            tiny_text.page("time and water"), "who", word_boxes=[("time", [0, 0, 100, 100]), ("water", [200, 0, 300, 100])]
        ),
    ),
    (
        "table-question-answering", "tapas", lambda c: c.table_question_answering(PEOPLE, "who", truncation=True),
        lambda p: p(table=PEOPLE, query="who", truncation=True),
    ),
    ("text-generation", "chat_model", lambda c: c.text_generation("time and", max_new_tokens=6, do_sample=False),
     lambda p: p("time and", max_new_tokens=6, do_sample=False)[0]["generated_text"]),
    ("image-classification", "vit", lambda c: c.image_classification(png(), top_k=2), lambda p: p(PICTURE, top_k=2)),
    ("object-detection", "yolos", lambda c: c.object_detection(png(), threshold=0.5), lambda p: p(PICTURE, threshold=0.5)),
    (
        "zero-shot-image-classification", "clip", lambda c: c.zero_shot_image_classification(png(), LABELS),
        lambda p: p(PICTURE, candidate_labels=LABELS),
    ),
]  # fmt: skip


def ranked(prediction):
    pairs = zip(prediction["labels"], prediction["scores"], strict=True)
    return [{"label": label, "score": score} for label, score in pairs]


def as_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def builder(name):
    for module in (builders, tiny_text, tiny_vision, catalogue.audio):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)


def as_plain(value):
    """The client's own classes as dicts, without what the service has left out."""
    if isinstance(value, list):
        return [as_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: as_plain(one) for key, one in value.items() if one is not None}
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(("task", "build", "ask", "call"), CALLS, ids=[f"{call[0]}-{n}" for n, call in enumerate(CALLS)])
def test_the_client_is_told_what_the_pipeline_says(folders, task, build, ask, call):
    model = folders(builder(build))
    expected = call(pipeline(task, model=model))
    got = as_plain(ask(Answering(task, model)))
    assert not differences(got, expected)


def test_masks_come_as_pictures(folders):
    model = folders(tiny_vision.segformer)
    got = Answering("image-segmentation", model).image_segmentation(png())
    expected = pipeline("image-segmentation", model=model)(PICTURE)
    assert [segment.label for segment in got] == [segment["label"] for segment in expected]
    assert isinstance(got[0].mask, Image.Image)
    assert np.array_equal(np.asarray(got[0].mask), np.asarray(expected[0]["mask"]))


def test_speech_comes_as_sound(folders):
    samples, rate = soundfile.read(io.BytesIO(Answering("text-to-audio", folders(tiny_text.vits)).text_to_speech("time")))
    assert rate > 0
    assert len(samples) > 100


def test_several_texts_at_once(folders):
    phases = Answering("text-classification", folders(builders.text_classifier)).phases
    texts = ["time", "the people who made this", "water"]
    body, kind = respond(phases, json.dumps({"inputs": texts, "parameters": {"top_k": 1}}).encode())
    one_by_one = [json.loads(respond(phases, json.dumps({"inputs": text}).encode())[0])[0] for text in texts]
    assert kind == "application/json"
    assert not differences(json.loads(body), one_by_one)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt_name": "query"}, "takes no prompt_name"), ({"normalize": "yes"}, "normalize must be true or false"),
        ({"dimensions": 2.5}, "dimensions must be a whole number"), ({"truncate": 1}, "truncate must be true or false"),
        ({"truncation_direction": "left"}, '"right" is what there is'),
        ({"encoding_format": "base64"}, '"float" is what there is'),
    ],
)  # fmt: skip
def test_what_an_embedding_cannot_be(asked, message):
    body = json.dumps({"inputs": "a", **asked}).encode()
    with pytest.raises(RequestError) as error:
        asyncio.run(huggingface.read_request(TASKS["feature-extraction"], body, "application/json", Admission()))
    assert message in str(error.value)


def test_what_the_config_cuts_off_a_client_does_not_bring_back():
    for sent, options in (({"truncate": True}, {"truncation": True}), ({"truncate": False}, {})):
        body = json.dumps({"inputs": "a", **sent}).encode()
        request = asyncio.run(huggingface.read_request(TASKS["feature-extraction"], body, "application/json", Admission()))
        assert request.items[0].options == options


@pytest.mark.parametrize("dimensions", [0, -1, 1000])
def test_an_embedding_has_only_so_many_dimensions(folders, dimensions):
    phases = Answering("feature-extraction", folders(builders.text_encoder)).phases
    with pytest.raises(RequestError, match="dimensions: the model gives"):
        respond(phases, json.dumps({"inputs": "a", "dimensions": dimensions}).encode())
