"""Prompts, and what a model generates of them."""

from __future__ import annotations

from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item
from support import builders
from support.loading import load_phases

PROMPTS = [*builders.texts(7, seed=21, median=9.0), "who", "who"]


def phases_of(model, task="text-generation", engine=None, **parameters):
    raw = {"task": task, "model": model, "parameters": parameters, "engine": engine or {}}
    return load_phases(parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}}), weights=True)


def generate(phases, items, batch="auto"):
    outcomes = predict(phases, items, phases.limits(batch), Watchdog(60))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.prediction for outcome in outcomes]


def items(prompts=PROMPTS, **options):
    rows = [dict(zip(options, values, strict=True)) for values in zip(*options.values(), strict=True)] or [{}] * len(prompts)
    return [Item({"text": prompt}, own, seed) for seed, (prompt, own) in enumerate(zip(prompts, rows, strict=True))]
