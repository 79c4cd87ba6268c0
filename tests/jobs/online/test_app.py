"""The service's HTTP interface, called in this process."""

import asyncio
import json
import logging
import threading

import pytest
from starlette.testclient import TestClient
from support import builders
from support.comparing import differences
from transformers import pipeline

from dray.jobs.online.app import make_app
from dray.pipelines.config import parse_config
from dray.pipelines.errors import BusyError, ConfigError, LimitError, RequestError, RowError
from dray.pipelines.online.service import Service
from dray.pipelines.phases.item import Item

NAME = "tests/classifier"
TEXT = "the people who made this"


def config_of(models, **serve):
    raw = {"task": "text-classification", "model": models.text_classifier, "serve": serve}
    return parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})


@pytest.fixture(scope="module")
def service(models):
    return Service(config_of(models))


@pytest.fixture(scope="module")
def client(models, service):
    return TestClient(make_app(service, config_of(models, max_bytes=5000), NAME), raise_server_exceptions=False)


def ask(client, inputs=TEXT, path="/", **parameters):
    return client.post(path, json={"inputs": inputs, "parameters": parameters})


def test_answers_are_the_pipelines(client, models):
    expected = pipeline("text-classification", model=models.text_classifier)(TEXT, top_k=None)
    assert not differences(ask(client, top_k=3).json(), [expected])
    assert not differences(ask(client, path=f"/models/{NAME}", top_k=3).json(), [expected])
    assert not differences(ask(client, [TEXT, "time"]).json()[0], ask(client).json()[0])


def test_more_texts_than_requests_may_be_under_way(models, service):
    client = TestClient(make_app(service, config_of(models), NAME))
    assert len(ask(client, [f"time {number}" for number in range(300)]).json()) == 300


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 5000}, {"min_new_tokens": 5000}, {"num_beams": 17}, {"generate_kwargs": {"max_length": 1.5}}]
)
def test_nobody_has_the_model_for_long(service, options):
    with pytest.raises(RequestError, match=r"at most|whole number"):
        asyncio.run(service.outcome(Item({"text": TEXT}, options)))


def test_the_model_has_one_name(client):
    answer = ask(client, path="/models/other")
    assert (answer.status_code, answer.json()) == (404, {"error": f"no such model here: other; there is {NAME}"})


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 422, "the body is not JSON"), (b'{"inputs": 3}', 422, "expected a text"), (b"", 422, "not JSON"),
        (b'{"inputs": "\\ud83d"}', 422, "half of a character"),
        (bytes(6000), 413, "larger than 5000 bytes"), (b'{"inputs": "a", "parameters": {"x": 1}}', 422, "takes no parameter x"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(client, body, status, said):
    answer = client.post("/", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert "/work" not in answer.text


def test_only_those_with_a_key_are_let_in(models, service):
    client = TestClient(make_app(service, config_of(models), NAME, keys=["first", "second"]))
    assert ask(client).status_code == 401
    for header, status in (
        ("Bearer second", 200),
        ("bearer first", 200),
        ("Bearer third", 401),
        ("first", 401),
        ("Bearer ", 401),
    ):
        assert client.post("/", json={"inputs": TEXT}, headers={"Authorization": header}).status_code == status
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/openapi.json").status_code == 401


def test_no_key_among_the_keys_lets_nobody_in(models, monkeypatch):
    from dray.jobs.online.deployment import build

    monkeypatch.setenv("DRAY_API_KEYS", " , ")
    with pytest.raises(ConfigError, match="holds no key"):
        build(config_of(models))


def test_requests_have_names_and_lines_in_the_log(client, caplog):
    with caplog.at_level(logging.INFO, "dray.requests"):
        mine = client.post("/", json={"inputs": TEXT}, headers={"X-Request-ID": "mine-1"})
        other = client.post("/", json={"inputs": TEXT}, headers={"X-Request-ID": 'bad"\x7fname'})
    assert mine.headers["x-request-id"] == "mine-1"
    assert len(other.headers["x-request-id"]) == 32
    line = json.loads(caplog.records[0].message)
    assert (line["id"], line["method"], line["path"], line["status"]) == ("mine-1", "POST", "/", 200)
    assert line["ms"] > 0


class Stuck(Service):
    """Answers when it is told to."""

    def __init__(self, service, error=None):
        self.task, self.phases, self.error, self.cancelled = service.task, service.phases, error, threading.Event()

    under_way = 0

    async def outcome(self, item):
        if self.error:
            raise self.error
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.mark.parametrize(
    ("error", "status"),
    [(MemoryError(), 413), (LimitError("longer than 3 s"), 413), (ValueError("no such label"), 422)],
)
def test_what_fits_nowhere_is_too_large(models, service, error, status):
    client = TestClient(make_app(Stuck(service, RowError.wrap("forward", error)), config_of(models), NAME))
    assert ask(client).status_code == status


def test_over_capacity_clients_are_told_when_to_come_again(models, service):
    app = make_app(Stuck(service, BusyError("256 requests are under way")), config_of(models), NAME)
    answer = ask(TestClient(app))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {"error": "256 requests are under way; come again later"}


def test_faults_of_the_service_tell_nothing(models, service, caplog):
    caplog.set_level(logging.INFO, "dray.requests")
    app = make_app(Stuck(service, KeyError("/secret/path")), config_of(models), NAME)
    answer = TestClient(app, raise_server_exceptions=False).post("/", json={"inputs": "a"}, headers={"X-Request-ID": "r7"})
    assert (answer.status_code, answer.json()) == (500, {"error": "the service has failed; its log knows more of request r7"})
    assert answer.headers["x-request-id"] == "r7"
    lines = [json.loads(record.message) for record in caplog.records if record.name == "dray.requests"]
    assert [line["status"] for line in lines] == [500]


def test_a_client_that_hangs_up_gives_its_place_to_others(models, service):
    stuck = Stuck(service)
    app = make_app(stuck, config_of(models), NAME)
    body = json.dumps({"inputs": "a"}).encode()
    incoming = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    headers = [(b"content-type", b"application/json")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/", "raw_path": b"/",
        "query_string": b"", "root_path": "", "scheme": "http", "headers": headers, "client": ("c", 1), "server": ("s", 80),
    }  # fmt: skip
    sent = []

    async def receive():
        await asyncio.sleep(0.01)
        return incoming.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    assert stuck.cancelled.is_set()
    assert sent[0]["status"] == 499


def test_sound_is_sent_as_it_is(models):
    raw = {"task": "automatic-speech-recognition", "model": models.ctc, "input": {"path": "-"}, "output": {"path": "-"}}
    config = parse_config(raw)
    client = TestClient(make_app(Service(config), config, "speech"))
    sound = builders.sound(1.0, 1)
    expected = pipeline("automatic-speech-recognition", model=models.ctc)(sound.copy())
    answer = client.post("/", content=wav(sound), headers={"content-type": "audio/wav"})
    assert answer.json() == expected
    broken = client.post("/", content=b"RIFFnothing", headers={"content-type": "audio/wav"})
    assert broken.status_code == 422
    assert "Traceback" not in broken.text


def wav(samples):
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, builders.RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()
