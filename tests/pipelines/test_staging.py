"""The next batch, collated while the model runs this one: the same inputs, in whatever order they are taken."""

import threading

import builders
import pytest
import torch

from pipelines.batching import Limits, Part
from pipelines.config import parse_config
from pipelines.engine import predict
from pipelines.models.loading import load_phases
from pipelines.phases import Item, Phases
from pipelines.staging import Staging
from pipelines.watch import Watch

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
    staging, first, second = Staging(collate, CPU), batch_of(1, 2), batch_of(3, 4)
    staging.begin(second)
    assert staging.take(first) == ({"x": 3}, 0)
    assert staging.take(second) == ({"x": 7}, 0)
    assert staging.take(second) == ({"x": 7}, 0)
    assert sorted(collate.threads) == [(3, "MainThread"), (7, "MainThread"), (7, "staging")]


def test_halves_of_a_batch_are_collated_where_they_are_wanted():
    staging, bad, after = Staging(Collating(), CPU), batch_of(1, 13), batch_of(5)
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
    staging, batches = Staging(collate, CPU), [batch_of(number) for number in range(1, 6)]
    for batch in batches:
        staging.begin(batch)
    assert [staging.take(batch)[0]["x"] for batch in batches] == [1, 2, 3, 4, 5]
    assert sum(name == "MainThread" for _, name in collate.threads) == 3


def test_predictions_are_the_same_with_batches_made_ahead(models, monkeypatch):
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
    items = [Item({"text": text}, key=key) for key, text in enumerate(builders.texts(60, median=10))]

    def predictions():
        phases = load_phases(parse_config(raw), weights=True)
        return [outcome.prediction for outcome in predict(phases, items, Limits.budget(64), Watch(60))]

    expected, taken, stage = predictions(), [], Staging._stage
    monkeypatch.setattr(Phases, "on_accelerator", True)
    monkeypatch.setattr(Staging, "_stage", lambda staging, parts: taken.append(len(parts)) or stage(staging, parts))
    assert predictions() == expected
    assert sum(taken) > len(items) / 2
