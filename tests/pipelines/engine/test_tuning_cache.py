"""Tuning with a real pipeline on a simulated clock: what is found is as good as the best of a sweep, and is remembered."""

from types import SimpleNamespace

import pytest
import torch
from support import builders
from support.loading import load_phases

from dray.pipelines.batching.packing import pack
from dray.pipelines.config import parse_config
from dray.pipelines.engine import tuning_cache
from dray.pipelines.engine.block import predict, sample_parts
from dray.pipelines.engine.tuning_cache import Tuner, TuningKey, recall, recall_threads, remember_threads
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

TEXTS = builders.texts(150, sigma=1.0)
ITEMS = [Item({"text": text}, key=index) for index, text in enumerate(TEXTS)]
WATCH = Watchdog(600)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAY_CACHE", str(tmp_path / "cache"))


class Clocked:
    """A pipeline whose model takes simulated seconds: 20 ms, more above `free` padded tokens; above `memory` it fails."""

    def __init__(self, phases, monkeypatch, free: int, memory: int) -> None:
        self.now, self.batches = 0.0, []
        forward = phases.forward

        def timed(parts):
            elements = len(parts) * max(part.cost for part in parts)
            self.batches.append(elements)
            if elements > memory:
                raise torch.OutOfMemoryError("simulated")
            self.now += 0.02 * max(1.0, elements / free)
            return forward(parts)

        monkeypatch.setattr(phases, "forward", timed)
        monkeypatch.setattr(tuning_cache, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def phases(models):
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "in"}, "output": {"path": "out"}}
    return load_phases(parse_config(raw), weights=True)


@pytest.mark.parametrize(("free", "memory"), [(256, 1 << 30), (2048, 1 << 30), (8192, 1 << 30), (8192, 3000)])
def test_auto_is_as_good_as_the_best_of_a_sweep(phases, monkeypatch, free, memory):
    clock = Clocked(phases, monkeypatch, free, memory)

    def seconds(limits) -> float:
        started = clock.now
        outcomes = predict(phases, ITEMS, limits, WATCH)
        assert all(outcome.error is None for outcome in outcomes)
        return clock.now - started

    sweep = {parts: seconds(phases.limits(parts)) for parts in (1, 2, 4, 8, 16, 32, 64, 128)}
    tuner = Tuner(phases, "auto", "model", seconds=60)
    assert not tuner.is_done
    assert tuner.learn(sample_parts(phases, ITEMS, WATCH, 60), WATCH)
    clock.batches.clear()
    assert seconds(tuner.limits) <= 1.1 * min(sweep.values())
    assert max(clock.batches) <= memory


def test_what_was_found_is_remembered(phases, monkeypatch):
    Clocked(phases, monkeypatch, 2048, 1 << 30)
    first = Tuner(phases, "auto", "model", seconds=60)
    buckets = first.learn(sample_parts(phases, ITEMS, WATCH, 60), WATCH)
    again = Tuner(phases, "auto", "model", seconds=60)
    assert again.is_done
    assert again.limits == first.limits
    assert recall(TuningKey.of(phases, "model")) == buckets
    assert not Tuner(phases, "auto", "another model", seconds=60).is_done


def test_other_hardware_is_tuned_again(phases, monkeypatch):
    Clocked(phases, monkeypatch, 2048, 1 << 30)
    Tuner(phases, "auto", "model", seconds=60).learn(sample_parts(phases, ITEMS, WATCH, 60), WATCH)
    monkeypatch.setattr(tuning_cache, "device_name", lambda device: "another")
    assert not Tuner(phases, "auto", "model", seconds=60).is_done


def test_a_damaged_file_is_no_answer(phases, monkeypatch):
    subject = TuningKey.of(phases, "model")
    subject.path.parent.mkdir(parents=True)
    for content in ("", "{", '{"buckets": [{"longest": 1}]}', "[]"):
        subject.path.write_text(content)
        assert recall(subject) == []


def test_without_a_place_to_remember_it_tunes_all_the_same(phases, monkeypatch, tmp_path):
    Clocked(phases, monkeypatch, 2048, 1 << 30)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DRAY_CACHE", str(tmp_path / "file"))
    tuner = Tuner(phases, "auto", "model", seconds=60)
    assert tuner.learn(sample_parts(phases, ITEMS, WATCH, 60), WATCH)
    assert tuner.limits.by_length


def test_a_fixed_batch_and_no_time_are_left_alone(phases):
    assert Tuner(phases, 8, "model", seconds=60).is_done
    assert Tuner(phases, 8, "model", seconds=60).learn(sample_parts(phases, ITEMS, WATCH, 60), WATCH) == []
    assert Tuner(phases, "auto", "model", seconds=0).is_done
    assert Tuner(phases, "auto", "model", seconds=0).limits == phases.limits("auto")


def test_rows_that_the_model_refuses_leave_the_limits(phases, monkeypatch):
    def refuse(parts):
        raise ValueError("no")

    monkeypatch.setattr(phases, "forward", refuse)
    tuner = Tuner(phases, "auto", "model", seconds=60)
    parts = sample_parts(phases, ITEMS, WATCH, 60)
    assert tuner.learn([], WATCH) == []  # of a damaged file, for example
    assert tuner.learn(parts, WATCH) == []
    assert not tuner.is_done
    assert tuner.learn(parts, WATCH) == []
    assert tuner.is_done
    assert tuner.limits == phases.limits("auto")


def test_after_a_row_that_the_model_refuses_the_next_block_is_tried(phases, monkeypatch):
    Clocked(phases, monkeypatch, 2048, 1 << 30)
    tuner, good = Tuner(phases, "auto", "model", seconds=60), phases.forward
    monkeypatch.setattr(phases, "forward", lambda parts: parts[0].inputs["missing"])
    parts = sample_parts(phases, ITEMS, WATCH, 60)
    assert tuner.learn(parts, WATCH) == []
    monkeypatch.setattr(phases, "forward", good)
    assert tuner.learn(parts, WATCH)
    assert tuner.is_done


def test_limits_that_were_found_shape_the_batches(phases, monkeypatch):
    Clocked(phases, monkeypatch, 2048, 1 << 30)
    tuner = Tuner(phases, "auto", "model", seconds=60)
    parts = sample_parts(phases, ITEMS, WATCH, 60)
    tuner.learn(parts, WATCH)
    sizes = [len(batch) * max(parts[index].cost for index in batch) for batch in pack(parts, tuner.limits)]
    assert max(sizes) <= max(elements for _, elements in tuner.limits.by_length)
    assert max(sizes) > 1024


def test_threads_are_remembered():
    assert recall_threads("model", "text-classification") is None
    remember_threads("model", "text-classification", 4)
    assert recall_threads("model", "text-classification") == 4
    assert recall_threads("model", "text-generation") is None
