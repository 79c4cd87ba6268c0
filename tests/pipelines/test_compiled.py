"""engine.compile: texts of a few lengths only, for each of which torch makes code, and the same answers."""

import builders
import conformance
import pytest
import torch
from catalogue import CASES
from comparing import differences

from pipelines.compiled import LENGTHS, has_buckets
from pipelines.config import parse_config
from pipelines.models.loading import load_phases
from pipelines.phases import Item

TEXTS = ("text-classification", "feature-extraction", "token-classification", "fill-mask", "zero-shot-classification")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return conformance.Reference(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture
def uncompiled(monkeypatch):
    """The shapes without the compiler, which takes long."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model, **settings: None)


def phases_of(model, task="text-classification"):
    return load_phases(
        parse_config(
            {"task": task, "model": model, "engine": {"compile": True}, "input": {"path": "-"}, "output": {"path": "-"}}
        ),
        weights=True,
    )


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


def test_only_models_that_read_texts_have_buckets(models, uncompiled):
    assert has_buckets(phases_of(models.text_classifier).pipe)
    assert not has_buckets(phases_of(models.ctc, "automatic-speech-recognition").pipe)


@pytest.mark.slow
def test_one_compilation_per_length(models):
    """With the compiler itself."""
    torch._dynamo.reset()
    phases = phases_of(models.text_classifier)
    parts = [next(iter(phases.preprocess(Item({"text": text})))) for text in builders.texts(24, seed=3, median=12, longest=60)]
    plain = load_phases(
        parse_config(
            {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
        ),
        weights=True,
    )
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    lengths = set()
    for start in range(0, 24, 5):
        batch = parts[start : start + 5]
        for got, expected in zip(phases.forward(batch), plain.forward(batch), strict=True):
            torch.testing.assert_close(got["logits"], expected["logits"], rtol=1e-4, atol=1e-5)
        lengths.add(min(length for length in LENGTHS if length >= max(part.cost for part in batch)))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert 1 < len(lengths) <= graphs <= 2 * len(lengths), (
        f"{graphs} graphs for {len(lengths)} lengths"
    )  # torch may take one apart
