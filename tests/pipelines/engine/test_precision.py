"""bfloat16 is taken where it is fast and says the same."""

import numpy as np
import pytest
import torch
from support.loading import load_phases

from dray.pipelines.config import parse_config
from dray.pipelines.engine import precision
from dray.pipelines.engine.block import Outcome
from dray.pipelines.engine.precision import choose, difference
from dray.pipelines.errors import RowError
from dray.pipelines.phases.item import Item

ITEMS = [Item({"text": text}) for text in ("water", "the water of the people", "a long way down", "who made it")]
VECTOR = [float(value) for value in np.random.default_rng(0).standard_normal(64)]


def of(*predictions: object) -> list[Outcome]:
    return [Outcome(prediction) for prediction in predictions]


@pytest.mark.parametrize(
    ("full", "half"),
    [
        ({"label": "good", "score": 0.91}, {"label": "good", "score": 0.9}),
        (
            [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.2}],
            [{"label": "a", "score": 0.5}, {"label": "c", "score": 0.2}],
        ),
        ({"text": "a word"}, {"text": "a word"}),
        (VECTOR, [value * 1.004 for value in VECTOR]),
        ([VECTOR, VECTOR], [VECTOR, VECTOR]),
        (np.array(VECTOR), np.array(VECTOR)),
        (torch.tensor([[VECTOR, VECTOR[::-1]]]), torch.tensor([[VECTOR, VECTOR[::-1]]]).bfloat16()),
        (torch.tensor([[0.5, 2.0]]), torch.tensor([[0.51, 2.02]]).bfloat16()),
        (torch.zeros(1, 64), torch.zeros(1, 64).bfloat16()),
        (torch.tensor(0.5), torch.tensor(0.5).bfloat16()),
        (torch.zeros(1, 0), torch.zeros(1, 0)),
    ],
)
def test_these_agree(full, half):
    assert difference(of(full), of(half)) is None


@pytest.mark.parametrize(
    ("full", "half", "why"),
    [
        ({"label": "good", "score": 0.5}, {"label": "bad", "score": 0.5}, "bad instead of good"),
        ({"label": "good", "score": 0.9}, {"label": "good", "score": 0.6}, "0.6 instead of 0.9"),
        ({"text": "a word"}, {"text": "a world"}, "a world instead of a word"),
        (VECTOR, VECTOR[::-1], "vectors of cosine"),
        (VECTOR, [float("nan")] * 64, "vectors of cosine nan"),
        ([VECTOR], [VECTOR, VECTOR], "instead of"),
        (np.array(VECTOR), np.array(VECTOR[:3]), "instead of"),
        (torch.tensor([[VECTOR, VECTOR]]), torch.tensor([[VECTOR, VECTOR[::-1]]]), "vectors of cosine"),
        (torch.tensor([[VECTOR, VECTOR]]), torch.tensor([[VECTOR]]), "(1, 1, 64) numbers instead of (1, 2, 64)"),
        (torch.tensor([[0.01], [0.5]]), torch.tensor([[9.0], [0.5]]), "9 instead of 0.01"),
        (torch.tensor([101, 2023, 7]), torch.tensor([101, 2024, 7]), "2024 instead of 2023"),
        (torch.zeros(1, 64, dtype=torch.bool), torch.ones(1, 64, dtype=torch.bool), "True instead of False"),
        (torch.zeros(1, 64), torch.ones(1, 64), "vectors of cosine 0"),
    ],
)
def test_these_do_not(full, half, why):
    assert why in difference(of(full), of(half))


def test_rows_that_fail_in_full_precision_are_no_evidence():
    failed = Outcome(error=RowError("forward", "ValueError", "no"))
    assert difference([failed, Outcome("a")], [failed, Outcome("a")]) is None
    assert difference([failed], [Outcome("a")]) == "no row to compare"
    assert "no" in difference([Outcome("a")], [failed])


def loaded(model: str, task: str = "text-classification"):
    raw = {"task": task, "model": model, "input": {"path": "in"}, "output": {"path": "out"}}
    return load_phases(parse_config(raw), weights=True)


def test_without_the_hardware_the_precision_stays(models, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda device: False)
    phases = loaded(models.text_classifier)
    assert choose(phases, ITEMS, 60) == ("auto", "bfloat16 is not faster on this hardware")
    assert phases.pipe.dtype == torch.float32


def test_with_the_hardware_rows_decide(models, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda device: True)
    monkeypatch.setattr(precision, "GAIN", 0.0)  # here it may well be slower
    dtype, why = choose(loaded(models.text_classifier), ITEMS, 60)
    assert dtype == "bfloat16", why
    assert "4 rows agree with float32" in why


def test_embeddings_decide_by_their_cosine(models, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda device: True)
    monkeypatch.setattr(precision, "GAIN", 0.0)
    dtype, why = choose(loaded(models.text_encoder, "feature-extraction"), ITEMS, 60)
    assert dtype == "bfloat16", why
    monkeypatch.setattr(precision, "COSINE", 1.0)
    dtype, why = choose(loaded(models.text_encoder, "feature-extraction"), ITEMS, 60)
    assert dtype == "auto"
    assert "vectors of cosine" in why


def test_a_model_that_answers_differently_stays(models, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda device: True)
    monkeypatch.setattr(precision, "GAIN", 0.0)
    phases = loaded(models.text_classifier)
    whole = phases.pipe._forward

    def coarse(inputs, **options):
        outputs = whole(inputs, **options)
        if phases.pipe.dtype == torch.bfloat16:
            outputs.logits = -outputs.logits
        return outputs

    monkeypatch.setattr(phases.pipe, "_forward", coarse)
    dtype, why = choose(phases, ITEMS, 60)
    assert dtype == "auto"
    assert why.startswith("bfloat16 gives another result:")


def test_what_gains_nothing_is_not_done(models, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda device: True)
    monkeypatch.setattr(precision, "GAIN", 1e6)
    dtype, why = choose(loaded(models.text_classifier), ITEMS, 60)
    assert dtype == "auto"
    assert "not worth it" in why


def test_flags_of_processors(monkeypatch, tmp_path):
    for flags, known in (("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)):
        file = tmp_path / "cpuinfo"
        file.write_text(f"model name\t: X\nflags\t\t: {flags}\n")
        monkeypatch.setattr(precision, "Path", lambda path, file=file: file)
        assert precision.processor_has_bfloat16() is known
