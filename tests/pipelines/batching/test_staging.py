"""The next batch, collated while the model runs this one: the same inputs, in whatever order they are taken."""

import threading

import pytest
import torch
from support import builders
from support.loading import load_phases

from dray.pipelines.batching.parts import Limits, Part
from dray.pipelines.batching.staging import Staging
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.model_runner import ModelRunner
from dray.pipelines.phases.phases import Phases

CPU = torch.device("cpu")


def batch_of(*numbers):
    return [Part({"x": number}, 1) for number in numbers]


class Collating:
    """Adds up; remembers in which thread. A 13 cannot be collated."""

    def __init__(self):
        self.threads = []

    def __call__(self, parts):
        numbers = [part.inputs["x"] for part in parts]
        self.threads.append((sum(numbers), threading.current_thread().name.split("_")[0]))
        if 13 in numbers:
            raise ValueError("13")
        return {"x": sum(numbers)}, 0


def test_a_batch_that_was_begun_is_collated_once_and_elsewhere():
    collate = Collating()
    staging, first, second = Staging(collate, CPU, torch.no_grad), batch_of(1, 2), batch_of(3, 4)
    staging.begin(second)
    assert staging.take(first) == ({"x": 3}, 0)
    assert staging.take(second) == ({"x": 7}, 0)
    assert staging.take(second) == ({"x": 7}, 0)
    assert sorted(collate.threads) == [(3, "MainThread"), (7, "MainThread"), (7, "staging")]


def test_halves_of_a_batch_are_collated_where_they_are_wanted():
    staging, bad, after = Staging(Collating(), CPU, torch.no_grad), batch_of(1, 13), batch_of(5)
    staging.begin(bad)
    staging.begin(after)
    with pytest.raises(ValueError, match="13"):
        staging.take(bad)
    assert staging.take(bad[:1]) == ({"x": 1}, 0)
    with pytest.raises(ValueError, match="13"):
        staging.take(bad[1:])
    assert staging.take(after) == ({"x": 5}, 0)


def test_what_is_never_taken_is_forgotten():
    collate = Collating()
    staging, batches = Staging(collate, CPU, torch.no_grad), [batch_of(number) for number in range(1, 6)]
    for batch in batches:
        staging.begin(batch)
    assert [staging.take(batch)[0]["x"] for batch in batches] == [1, 2, 3, 4, 5]
    assert sum(name == "MainThread" for _, name in collate.threads) == 3


def test_memory_that_lacks_beside_another_batch_is_no_fault_of_this_one():
    """Collating again, when the batch before it is done, works."""
    collate, tries = Collating(), []

    def crowded(parts):
        tries.append(len(parts))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("beside the batch before it")
        return collate(parts)

    staging, batch = Staging(crowded, CPU, torch.no_grad), batch_of(4)
    staging.begin(batch)
    assert staging.take(batch) == ({"x": 4}, 0)
    staging.begin(batch)
    staging.clear()
    assert staging.take(batch) == ({"x": 4}, 0)


def test_inputs_are_made_as_the_model_runs():
    """Code compiled for tensors of inference mode is compiled again for others."""
    staging = Staging(lambda parts: ({"x": torch.zeros(1)}, 0), CPU, torch.inference_mode)
    batch = batch_of(1)
    staging.begin(batch)
    assert staging.take(batch)[0]["x"].is_inference()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to an accelerator, of which there is none")
def test_batches_arrive_on_an_accelerator_as_they_were_made():
    device = torch.device("cuda")

    def collate(parts):
        return {"x": torch.full((4096, 1 + parts[0].inputs["x"] % 7), float(parts[0].inputs["x"]))}, 0

    staging, batches = Staging(collate, device, torch.inference_mode), [batch_of(number) for number in range(400)]
    staging.begin(batches[0])
    for number, batch in enumerate(batches):
        if number + 1 < len(batches):
            staging.begin(batches[number + 1])
        inputs, _ = staging.take(batch)
        assert inputs["x"].device.type == "cuda"
        assert (inputs["x"] @ inputs["x"].T)[0, 0].item() == (1 + number % 7) * float(number) ** 2


def test_predictions_are_the_same_with_batches_made_ahead(models, monkeypatch):
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
    items = [Item({"text": text}, key=key) for key, text in enumerate(builders.texts(60, median=10))]

    def predictions():
        phases = load_phases(parse_config(raw), weights=True)
        return [outcome.prediction for outcome in predict(phases, items, Limits.budget(64), Watchdog(60))]

    expected, taken, stage = predictions(), [], Staging._stage
    monkeypatch.setattr(Phases, "on_accelerator", True)
    monkeypatch.setattr(ModelRunner, "on_accelerator", True)
    monkeypatch.setattr(Staging, "_stage", lambda staging, parts: taken.append(len(parts)) or stage(staging, parts))
    assert predictions() == expected
    assert sum(taken) > len(items) / 2
