"""Call arguments of each row's own: a row's value overrides the config's, a null leaves the config's."""

import copy

import pytest
from support import arrow, catalogue, conformance
from support.comparing import differences
from support.loading import load_phases, model_of
from transformers import pipeline

from dray.jobs.batch.stages import Fused
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT
from dray.pipelines.config import parse_config

pytestmark = pytest.mark.filterwarnings("ignore")

# case of the catalogue, parameters of the config, what the rows say themselves (None: nothing)
OWN = {
    "labels": ("text-classification", {"top_k": 2}, {"top_k": [1, None, 3], "function_to_apply": [None, "sigmoid", "none"]}),
    "templates": (
        "zero-shot-classification",
        {"candidate_labels": ["time", "people"]},
        {"hypothesis_template": ["about {}", None, "{} it is"], "multi_label": [True, False, None]},
    ),
    "thresholds": ("object-detection", {"threshold": 0.9}, {"threshold": [0.1, None, 0.5]}),
    "groups": ("token-classification", {}, {"aggregation_strategy": ["simple", None, "max"]}),
    "languages": (
        "automatic-speech-recognition-whisper",
        {"generate_kwargs": {"max_new_tokens": 9}},
        {
            "generate_kwargs": [{"language": "de", "max_new_tokens": 4}, None, {"task": "translate", "max_new_tokens": 6}],
            "return_timestamps": [True, None, None],
        },
    ),
    "stops": (
        "image-text-to-text",
        {"generate_kwargs": {"do_sample": False}, "max_new_tokens": 5},
        {"max_new_tokens": [2, None, 7], "return_full_text": [False, None, True]},
    ),
    "targets": ("fill-mask", {}, {"targets": [["time", "way"], None, ["people"]], "top_k": [None, 2, None]}),
}


@pytest.mark.parametrize("own", OWN)
def test_rows_override_the_config(own, tmp_path):
    name, parameters, options = OWN[own]
    case = catalogue.CASES[name]
    folder = case.build(tmp_path / "model")
    pipe = pipeline(case.task, model=folder)
    rows = [{key: value for key, value in zip(options, values, strict=True) if value is not None}
            for values in zip(*options.values(), strict=True)]  # fmt: skip
    items = [{**item, **row} for item, row in zip(case.items(), rows, strict=False)]
    expected = [
        arrow.expected(case.task, case.call(pipe, copy.deepcopy(item), copy.deepcopy({**parameters, **row})))
        for item, row in zip(items, rows, strict=True)
    ]
    raw = {"task": case.task, "model": folder, "parameters": parameters, "engine": {"batch": 3}}
    config = parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})
    table = arrow.table_of(items)
    columns = {column.removeprefix(ARGUMENT): table[column].type for column in table.column_names}
    worker = WorkerSpec(model_of(config), load_phases(config, weights=False).schema(columns), threads=1, accelerator=False)
    for got in (Fused(worker)(table), conformance.staged(worker, table)):
        assert [error["message"] for error in got["error"].to_pylist() if error] == []
        assert not differences(got["prediction"].to_pylist(), expected)
