"""A model's own code runs only where the config says so."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import transformers
from support import builders
from support.loading import identity_of, load_phases, task_of

from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ModelError
from dray.pipelines.phases.item import Item

CONFIGURATION = """
from transformers import BertConfig

class OwnConfig(BertConfig):
    model_type = "own-bert"
"""
MODELING = """
from transformers import BertForSequenceClassification
from .configuration_own import OwnConfig

class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 0
        return output
"""
TOKENIZATION = """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    def __call__(self, text, **kwargs):
        return super().__call__("water", **kwargs)
"""
REFUSED = (
    "^model: .* comes with code of its own, which would run on your machines; "
    "read it, then allow it with model_kwargs.trust_remote_code: true$"
)
ITEMS = [Item({"text": text}) for text in builders.texts(3)]


@pytest.fixture(autouse=True)
def own_modules(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)  # of other tests
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("transformers asked"))


def change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.fixture
def own_model(models, tmp_path) -> Path:
    """A model whose config and model classes are its own."""
    folder = tmp_path / "own_model"
    shutil.copytree(models.text_classifier, folder)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING)
    own = {"AutoConfig": "configuration_own.OwnConfig"}
    own |= {"AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification"}
    change(folder / "config.json", auto_map=own, model_type="own-bert", architectures=["OwnForSequenceClassification"])
    return folder


@pytest.fixture
def own_tokenizer(models, tmp_path) -> Path:
    """A model whose tokenizer alone is its own."""
    folder = tmp_path / "own_tokenizer"
    shutil.copytree(models.text_classifier, folder)
    (folder / "tokenization_own.py").write_text(TOKENIZATION)
    own = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", "tokenization_own.OwnTokenizer"]}
    change(folder / "tokenizer_config.json", auto_map=own, tokenizer_class="OwnTokenizer")
    return folder


def config(model, trust=None, **keys):
    raw = {"model": str(model), "input": {"path": "in.parquet"}, "output": {"path": "out"}, **keys}
    return parse_config({**raw, "model_kwargs": {} if trust is None else {"trust_remote_code": trust}})


def predictions(phases) -> list:
    return [outcome.prediction for outcome in predict(phases, ITEMS, phases.limits(2), Watchdog(60))]


@pytest.mark.parametrize("trust", [None, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("kind", ["own_model", "own_tokenizer"])
def test_own_code_is_refused(request, kind, weights, trust):
    job = config(request.getfixturevalue(kind), trust, task="text-classification")
    with pytest.raises(ModelError, match=REFUSED):
        load_phases(job, weights)


def test_the_task_is_not_inferred_by_running_it(own_model):
    with pytest.raises(ModelError, match=REFUSED):
        task_of(config(own_model))


def test_a_trusted_model_runs(own_model):
    job = config(own_model, True)
    assert task_of(job).name == "text-classification"
    phases = load_phases(job, weights=True)
    assert [best["score"] for (best,) in predictions(phases)] == pytest.approx([1 / 3] * 3)
    empty = load_phases(job, weights=False).pipe.model
    assert (type(empty).__name__, empty.device.type) == ("OwnForSequenceClassification", "meta")


@pytest.mark.parametrize("weights", [True, False])
def test_a_trusted_tokenizer_runs(own_tokenizer, weights):
    phases = load_phases(config(own_tokenizer, True), weights)
    parts = [part for item in ITEMS for part in phases.preprocess(item)]
    assert {part.inputs["input_ids"].shape for part in parts} == {(1, 3)}


def test_code_that_transformers_has_itself_needs_no_trust(models, tmp_path):
    folder = tmp_path / "known"
    shutil.copytree(models.text_classifier, folder)
    (folder / "modeling_own.py").write_text("raise RuntimeError")
    change(folder / "config.json", auto_map={"AutoModelForSequenceClassification": "modeling_own.Own"})
    known = transformers.BertForSequenceClassification
    assert all(isinstance(load_phases(config(folder), weights).pipe.model, known) for weights in (True, False))


def test_trusted_code_counts_as_part_of_the_model(own_model):
    trusting, careful = config(own_model, True), config(own_model, task="text-classification")
    before = [identity_of(job) for job in (trusting, careful)]
    (own_model / "modeling_own.py").write_text(MODELING + "\n")
    after = [identity_of(job) for job in (trusting, careful)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]


def test_what_is_not_true_is_no_trust(own_model):
    job = config(own_model, "yes", task="text-classification")
    with pytest.raises(ModelError, match=REFUSED):
        load_phases(job, weights=False)
