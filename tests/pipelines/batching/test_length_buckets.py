"""engine.compile: texts of a few lengths only, for each of which torch makes code, and the same answers."""

import pytest
import torch
from support import builders, conformance
from support.catalogue import CASES
from support.comparing import differences
from support.loading import load_phases
from transformers import Pipeline

from dray.pipelines.batching.length_buckets import LENGTHS, has_buckets
from dray.pipelines.batching.packing import pack
from dray.pipelines.batching.parts import Limits
from dray.pipelines.config import parse_config
from dray.pipelines.engine.forward import forward_parts
from dray.pipelines.engine.tuning_cache import Tuner
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

TEXTS = ("text-classification", "feature-extraction", "token-classification", "fill-mask", "zero-shot-classification")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return conformance.Reference(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture
def uncompiled(monkeypatch):
    """The shapes without the compiler, which takes long."""
    monkeypatch.setattr(torch, "compile", lambda forward, **settings: forward)


def phases_of(model, task="text-classification", compile=True):
    raw = {"task": task, "model": model, "engine": {"compile": compile}, "input": {"path": "-"}, "output": {"path": "-"}}
    return load_phases(parse_config(raw), weights=True)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.task in TEXTS])
def test_padding_to_few_lengths_changes_no_answer(reference, uncompiled, monkeypatch, name, batch):
    shapes, forward = [], torch.nn.Module.__call__

    def watched(module, *args, **kwargs):
        if "input_ids" in kwargs and "attention_mask" in kwargs:
            shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(module, *args, **kwargs)

    folder, items, expected = reference.of(name)
    monkeypatch.setattr(torch.nn.Module, "__call__", watched)
    got = conformance.predicted(name, folder, items, "fused", batch, compile=True)
    assert [error["message"] for error in got["error"].to_pylist() if error] == []
    assert not differences(got["prediction"].to_pylist(), expected)
    assert {length for _, length in shapes} <= set(LENGTHS)
    assert max(rows for rows, _ in shapes) >= batch


def test_texts_longer_than_the_largest_bucket_keep_their_length(models, uncompiled):
    phases = phases_of(models.text_classifier)
    phases.pipe.model.config.max_position_embeddings = 40
    (part,) = phases.preprocess(Item({"text": builders.texts(1, median=34, sigma=0.01)[0]}))
    seen = []
    phases.pipe.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    phases.forward([part])
    assert seen == [part.cost]
    assert part.cost not in LENGTHS


def test_only_models_that_read_texts_padded_at_their_end_have_buckets(models, uncompiled):
    text = phases_of(models.text_classifier)
    assert has_buckets(text.pipe)
    assert not has_buckets(phases_of(models.ctc, "automatic-speech-recognition").pipe)
    text.pipe.tokenizer.padding_side = "left"
    assert not has_buckets(text.pipe)


def test_batches_hold_as_many_texts_as_the_padded_lengths_allow(models, uncompiled):
    phases = phases_of(models.text_classifier)
    parts = [part for text in ["time"] * 40 for part in phases.preprocess(Item({"text": text}))]
    assert {(part.cost, part.space) for part in parts} == {(3, 8)}
    assert [len(batch) for batch in pack(parts, Limits.budget(64))] == [8] * 5
    ((_, meter), *_) = forward_parts(phases, parts, Limits.budget(64), Watchdog(60))
    assert (meter.elements, meter.padded_elements) == (3, 8)


def test_a_compiled_model_is_not_tuned(models, uncompiled):
    assert Tuner(phases_of(models.text_classifier), "auto", "x", seconds=60).is_done


@pytest.mark.slow
def test_one_compilation_per_length(models, monkeypatch):
    """With the compiler itself; the inputs are copied on their way, as they are to an accelerator."""
    monkeypatch.setattr(Pipeline, "_ensure_tensor_on_device", lambda pipe, inputs, device: copied(inputs))
    torch._dynamo.reset()
    phases, plain = phases_of(models.text_classifier), phases_of(models.text_classifier, compile=False)
    parts = [part for text in builders.texts(60, 3, median=12, longest=60) for part in phases.preprocess(Item({"text": text}))]
    before, start, lengths = torch._dynamo.utils.counters["stats"]["unique_graphs"], 0, set()
    for size in (2, 3, 4, 5, 6, 7, 8, 9, 10):
        batch, start = parts[start : start + size], start + size - 1
        for got, expected in zip(phases.forward(batch), plain.forward(batch), strict=True):
            torch.testing.assert_close(got["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
        lengths.add(max(part.space for part in batch))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert 1 < len(lengths) < 9
    assert graphs == len(lengths), f"{graphs} graphs for {len(lengths)} lengths"


def copied(value):
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)({name: copied(each) for name, each in value.items()}) if isinstance(value, dict) else value
