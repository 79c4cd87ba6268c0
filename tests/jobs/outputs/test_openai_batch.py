"""OpenAI's Batch files in and out: what its clients send, and read again."""

import asyncio
import base64
import io
import json

import httpx2
import openai
import pytest
import soundfile
from openai.types.chat import ChatCompletion
from support import builders, tiny_text
from support.comparing import differences
from support.loading import load_phases, task_of

from dray.jobs.batch.job import run
from dray.jobs.online.app import make_app
from dray.jobs.verification.verify import verify
from dray.pipelines.batching.parts import Limits
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ConfigError
from dray.pipelines.online.service import Service
from dray.pipelines.phases.item import Item

NAME = "served"


def line(custom_id: str, url: str, **body) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "any", **body}})


def config_of(folder, task, model, lines, **sections):
    (folder / "in").mkdir()
    (folder / "in/requests.jsonl").write_text("\n".join(lines) + "\n")
    raw = {"task": task, "model": model, "input": {"path": str(folder / "in"), "format": "openai"}}
    raw |= {"output": {"path": str(folder / "out")}, "errors": {"max_failed_fraction": 1}, **sections}
    raw["engine"] = {"dtype": "float32", **sections.get("engine", {})}
    return parse_config(raw)


def answers(folder) -> tuple[dict, dict]:
    """custom_id -> line, of answers and of errors."""
    files = [(folder / "out" / name).read_text().splitlines() for name in ("batch_output.jsonl", "batch_errors.jsonl")]
    return tuple({each["custom_id"]: each for each in map(json.loads, file)} for file in files)


def asked(config, ask) -> object:
    """What the service answers to OpenAI's client."""

    async def run() -> object:
        transport = httpx2.ASGITransport(make_app(Service(config), config, NAME))
        http = httpx2.AsyncClient(transport=transport, base_url="http://testserver/v1")
        async with openai.AsyncOpenAI(api_key="none", base_url="http://testserver/v1", http_client=http) as client:
            return await ask(client)

    return asyncio.run(run())


def test_embeddings_and_what_is_wrong(ray_session, models, tmp_path):
    texts = builders.texts(3)
    lines = [
        line("one", "/v1/embeddings", input=texts[0]),
        line("several", "/v1/embeddings", input=texts[1:]),
        line("other", "/v1/chat/completions", messages=[{"role": "user", "content": "hello"}]),
        line("none", "/v1/embeddings", input=[]),
        '{"custom_id": "broken", "url"',
    ]
    config = config_of(tmp_path, "feature-extraction", models.text_encoder, lines, engine={"layout": "staged"})
    summary = run(config)
    assert (summary["rows_ok"], summary["rows_failed"]) == (2, 3)
    done, failed = answers(tmp_path)
    assert done.keys() == {"one", "several"}
    assert done["one"]["response"]["status_code"] == 200
    assert failed.keys() == {"other", "none", None}
    assert "feature-extraction answers /v1/embeddings" in failed["other"]["error"]["message"]
    assert "expected 1 to" in failed["none"]["error"]["message"]
    assert "not JSON" in failed[None]["error"]["message"]
    expected = asked(
        config, lambda client: client.embeddings.create(model=NAME, input=texts[1:], encoding_format="float")
    ).model_dump()
    got = done["several"]["response"]["body"]
    assert [len(each["embedding"]) for each in got["data"]] == [32, 32]
    assert not differences(got["data"], expected["data"], 1e-4)
    assert got["usage"] == expected["usage"]
    assert verify(config, sample=2).problems == []


def test_chats_and_completions(ray_session, tmp_path):
    messages = [{"role": "user", "content": "the people who made this"}]
    lines = [
        line("chat", "/v1/chat/completions", messages=messages, max_tokens=6, temperature=0),
        line("completions", "/v1/completions", prompt=["the people", "this time"], max_tokens=5, temperature=0),
        line("stream", "/v1/chat/completions", messages=messages, stream=True),
    ]
    config = config_of(tmp_path, "text-generation", tiny_text.chat_model(tmp_path / "model"), lines)
    assert run(config)["rows_failed"] == 1
    done, failed = answers(tmp_path)
    assert "not streamed" in failed["stream"]["error"]["message"]
    body = done["chat"]["response"]["body"]
    assert ChatCompletion.model_validate(body).id.startswith("chatcmpl-")

    async def both(client):
        chat = await client.chat.completions.create(model=NAME, messages=messages, max_tokens=6, temperature=0)
        prompts = ["the people", "this time"]
        return chat, await client.completions.create(model=NAME, prompt=prompts, max_tokens=5, temperature=0)

    chat, completions = asked(config, both)
    assert body["choices"][0]["message"]["content"] == chat.choices[0].message.content
    assert body["usage"] == chat.usage.model_dump(exclude_none=True)
    texts = [choice["text"] for choice in done["completions"]["response"]["body"]["choices"]]
    assert texts == [choice.text for choice in completions.choices]


@pytest.mark.parametrize("response_format", ["json", "verbose_json", "srt"])
def test_transcriptions(models, tmp_path, response_format):
    buffer = io.BytesIO()
    soundfile.write(buffer, builders.sound(4.0), builders.RATE, format="FLAC")
    sent = {"response_format": response_format, "file": base64.b64encode(buffer.getvalue()).decode()}
    if response_format == "verbose_json":
        sent["timestamp_granularities"] = ["word", "segment"]
    parameters = {"generate_kwargs": {"max_new_tokens": 12}}
    request = line("speech", "/v1/audio/transcriptions", **sent)
    config = config_of(tmp_path, "automatic-speech-recognition", models.whisper, [request], parameters=parameters)
    phases = load_phases(config, weights=True)
    item = Item({"request": request}, {"request": request})
    (outcome,) = predict(phases, [item], Limits.budget(1 << 20), Watchdog(60))
    assert outcome.error is None, outcome.error
    got = json.loads(outcome.prediction)

    async def ask(client):
        options = {key: value for key, value in sent.items() if key != "file"}
        return await client.audio.transcriptions.create(model=NAME, file=("a.flac", buffer.getvalue()), **options)

    expected = asked(config, ask)
    expected = {"text": expected} if isinstance(expected, str) else expected.model_dump(exclude_none=True)
    assert not differences({key: got[key] for key in expected if key in got}, {k: v for k, v in expected.items() if k in got})
    assert got["text"] == expected["text"]


def test_other_tasks_have_no_such_files(models, tmp_path):
    config = config_of(tmp_path, "text-classification", models.text_classifier, [line("a", "/v1/embeddings", input="a")])
    with pytest.raises(ConfigError, match="openai is for the tasks"):
        task_of(config)
