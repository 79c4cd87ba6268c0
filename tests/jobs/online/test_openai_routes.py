"""The `openai` package unchanged, against the service in this process."""

import asyncio
import io
import json

import httpx2
import numpy as np
import pytest
import soundfile
from openai import AsyncOpenAI, BadRequestError, NotFoundError, UnprocessableEntityError
from support import builders, tiny_text
from transformers import pipeline

from dray.jobs.online.app import make_app
from dray.pipelines.config import parse_config
from dray.pipelines.media import subtitles
from dray.pipelines.online.service import Service

NAME = "tests/model"


class Client:
    """Calls the service as the package does."""

    def __init__(self, task, model, **parameters):
        raw = {"task": task, "model": model, "parameters": parameters, "input": {"path": "-"}, "output": {"path": "-"}}
        config = parse_config(raw)
        self.service = Service(config)
        self.app = make_app(self.service, config, NAME)

    def __call__(self, ask):
        async def call():
            http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app))
            client = AsyncOpenAI(api_key="none", base_url="http://service.test/v1", http_client=http, max_retries=0)
            return await ask(client)

        return asyncio.run(call())


@pytest.fixture(scope="module")
def ctc(models):
    return Client("automatic-speech-recognition", models.ctc)


@pytest.fixture(scope="module")
def whisper(models):
    return Client("automatic-speech-recognition", models.whisper, generate_kwargs={"max_new_tokens": 12})


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return tiny_text.chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chat(chat_model):
    return Client("text-generation", chat_model, do_sample=False)


SOUND = builders.sound(2.0, 1)


def wav():
    file = io.BytesIO()
    soundfile.write(file, SOUND, builders.RATE, format="WAV", subtype="FLOAT")
    return ("speech.wav", file.getvalue())


def transcribe(client, **options):
    return client(lambda c: c.audio.transcriptions.create(file=wav(), model=NAME, **options))


def test_transcriptions_are_the_pipelines(ctc, models):
    pipe = pipeline("automatic-speech-recognition", model=models.ctc)
    expected, words = pipe(SOUND.copy()), pipe(SOUND.copy(), return_timestamps="word")
    assert transcribe(ctc).text == expected["text"].strip()
    assert transcribe(ctc, response_format="text") == expected["text"].strip() + "\n"
    assert transcribe(ctc, response_format="srt") == subtitles.render(words["chunks"], "srt")
    assert transcribe(ctc, response_format="vtt").startswith("WEBVTT")
    found = transcribe(ctc, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert found.duration == pytest.approx(2.0)
    assert [(word.word, word.start, word.end) for word in found.words] == [
        (word["text"], *word["timestamp"]) for word in words["chunks"]
    ]
    assert found.segments[0].start == words["chunks"][0]["timestamp"][0]
    assert transcribe(ctc, response_format="verbose_json").words is None


def test_whisper_gives_segments_and_translates(whisper, models):
    pipe = pipeline("automatic-speech-recognition", model=models.whisper)
    options = {"generate_kwargs": {"max_new_tokens": 12, "task": "translate"}}
    assert (
        whisper(lambda c: c.audio.translations.create(file=wav(), model=NAME)).text
        == pipe(SOUND.copy(), **options)["text"].strip()
    )
    found = transcribe(whisper, response_format="verbose_json", language="en")
    assert (found.language, found.task) == ("en", "transcribe")
    with pytest.raises(UnprocessableEntityError, match="prompt"):
        transcribe(whisper, prompt="names: Ada")


def test_what_a_model_cannot_do_is_said(ctc):
    with pytest.raises(UnprocessableEntityError, match="takes no language"):
        transcribe(ctc, language="en")
    with pytest.raises(NotFoundError, match="no /v1/embeddings here: the task of tests/model is automatic-speech-recognition"):
        ctc(lambda c: c.embeddings.create(model=NAME, input="a"))
    with pytest.raises(NotFoundError, match="no such model here: whisper-1; there is tests/model"):
        ctc(lambda c: c.audio.transcriptions.create(file=wav(), model="whisper-1"))
    with pytest.raises((UnprocessableEntityError, BadRequestError)) as error:
        ctc(lambda c: c.audio.transcriptions.create(file=("x.wav", b"RIFFnothing"), model=NAME))
    assert error.value.body["type"] == "invalid_request_error"


def test_models(ctc):
    async def names(client):
        return [model.id async for model in client.models.list()]

    assert ctc(names) == [NAME]


def test_embeddings(models):
    client = Client("feature-extraction", models.text_encoder)
    texts = ["time and water", "people"]
    found = client(lambda c: c.embeddings.create(model=NAME, input=texts, encoding_format="float"))
    pipe = pipeline("feature-extraction", model=models.text_encoder)
    expected = [np.asarray(pipe(text))[0].mean(0) for text in texts]
    assert np.allclose([each.embedding for each in found.data], expected, atol=1e-4)
    assert found.usage.prompt_tokens == sum(len(pipe.tokenizer(text)["input_ids"]) for text in texts)
    packed = client(lambda c: c.embeddings.create(model=NAME, input=texts))  # the package asks for base64, and unpacks it
    assert np.allclose([each.embedding for each in packed.data], expected, atol=1e-4)
    short = client(lambda c: c.embeddings.create(model=NAME, input="time", dimensions=4))
    assert len(short.data[0].embedding) == 4
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    tokens = pipe.tokenizer("time", add_special_tokens=False)["input_ids"]
    by_tokens, by_text = (client(lambda c, each=each: c.embeddings.create(model=NAME, input=each)) for each in (tokens, "time"))
    assert np.allclose(by_tokens.data[0].embedding, by_text.data[0].embedding, atol=1e-5)


MESSAGES = [{"role": "user", "content": "time and water"}]


def test_a_chat_is_answered(chat, chat_model):
    pipe = pipeline("text-generation", model=chat_model)
    expected = pipe(MESSAGES, max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    found = chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=8, temperature=0))
    assert found.choices[0].message.content == expected
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens > 8
    several = chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=8, n=3, temperature=1.5))
    assert len(several.choices) == 3


def test_an_answer_that_the_config_cuts_off_says_so(chat_model):
    short = Client("text-generation", chat_model, max_new_tokens=3, do_sample=False)
    found = short(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, temperature=0))
    assert found.usage.completion_tokens == 3
    assert found.choices[0].finish_reason == "length"


def test_who_hangs_up_while_text_is_streamed_frees_the_model(chat):
    sent, steps = [], []
    service, model = chat.service, chat.service.phases.pipe.model
    body = json.dumps({"model": NAME, "messages": MESSAGES, "max_tokens": 2000, "temperature": 0, "stream": True}).encode()
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/chat/completions",
        "raw_path": b"", "query_string": b"", "root_path": "", "scheme": "http", "client": ("c", 1), "server": ("s", 80),
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip

    async def receive():
        while not incoming and len(sent) < 4:
            await asyncio.sleep(0.01)
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    forward = model.forward
    model.forward = lambda *args, **options: steps.append(1) or forward(*args, **options)
    try:
        asyncio.run(asyncio.wait_for(chat.app(scope, receive, send), 60))
        assert service.under_way == 0
        chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=3, temperature=0))
    finally:
        del model.forward
    assert sent[0]["status"] == 200
    assert len(steps) < 500


def test_a_chat_is_streamed(chat):
    async def pieces(client):
        stream = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        return [chunk async for chunk in stream]

    chunks = chat(pieces)
    whole = chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=12, temperature=0))
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told.split() == whole.choices[0].message.content.split()
    assert chunks[-1].usage.completion_tokens > 0
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")


def test_an_answer_ends_where_a_stop_begins(chat):
    whole = chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=12, temperature=0))
    text = whole.choices[0].message.content
    stop = text.split()[2]
    cut = chat(lambda c: c.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=12, temperature=0, stop=stop))
    assert cut.choices[0].message.content == text[: text.find(stop)]
    assert cut.choices[0].finish_reason == "stop"

    async def pieces(client):
        stream = await client.chat.completions.create(
            model=NAME, messages=MESSAGES, max_tokens=12, temperature=0, stop=[stop], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert chat(pieces).split() == cut.choices[0].message.content.split()


def test_texts_are_completed(chat, chat_model):
    pipe = pipeline("text-generation", model=chat_model)
    expected = pipe("time and", max_new_tokens=6, do_sample=False, return_full_text=False)[0]["generated_text"]
    found = chat(lambda c: c.completions.create(model=NAME, prompt=["time and", "water"], max_tokens=6, temperature=0))
    assert found.choices[0].text == expected
    assert len(found.choices) == 2

    async def pieces(client):
        stream = await client.completions.create(model=NAME, prompt="time and", max_tokens=6, temperature=0, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    assert chat(pieces).split() == expected.split()


def looking_at(url):
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


WRONG = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"n": 99}, "n: "),
    ({"temperature": 9}, "temperature"),
    (looking_at("/etc/passwd"), "base64"),
    (looking_at("file:///etc/passwd"), "media"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(chat, options, said):
    with pytest.raises(UnprocessableEntityError, match=said):
        chat(lambda c: c.chat.completions.create(**{"model": NAME, "messages": MESSAGES, **options}))
