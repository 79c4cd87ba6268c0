"""Whatever a client sends, with the OpenAPI document or against it: no answer is a 5xx, and none shows what is inside."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from support import builders, tiny_text

from dray.jobs.online.app import make_app
from dray.pipelines.config import parse_config
from dray.pipelines.online.service import Service

EXAMPLES = 30  # of each route and mode
TASKS = {
    "text-classification": builders.text_classifier,
    "automatic-speech-recognition": builders.ctc,
    "feature-extraction": builders.text_encoder,
    "text-generation": tiny_text.chat_model,
}


def ask_all(operation, mode, seen):
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def holds(case):
        answer = case.call()
        seen.append((operation.path, answer.status_code))
        assert answer.status_code < 500, answer.text
        assert "Traceback" not in answer.text

    holds()


@pytest.mark.parametrize("task", TASKS)
def test_no_request_makes_the_service_fail(tmp_path, task):
    raw = {"task": task, "model": TASKS[task](tmp_path / "model"), "serve": {"max_new_tokens": 4}}
    if task == "text-generation":
        raw["parameters"] = {"max_new_tokens": 4}
    config = parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})
    app = make_app(Service(config), config, "tests/model")
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen = []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:  # what takes nothing cannot be sent wrong
            ask_all(operation, mode, seen)
    assert {"/", "/healthz", "/v1/models"} <= {path for path, _ in seen}
    assert {200, 422} <= {status for _, status in seen}
