"""Hub ids, revisions and default models: out of a cache filled by hand, without a network."""

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from support import builders
from support.loading import for_workers as pinned
from support.loading import identity_of, load_phases, task_of

from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ModelError
from dray.pipelines.phases.item import Item

HUB, OLD, NEW = "somebody/classifier", "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, which is out of reach."""
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download", "huggingface_hub.utils._http"):
        monkeypatch.setattr(f"{module}.is_offline_mode", lambda: True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, name: str, commit: str, source: str, *references: str, hidden: int = 32) -> Path:
    """Adds a commit of a model, and what refers to it."""
    folder = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    for reference in references:
        (folder / "refs" / reference).write_text(commit)
    return folder / "snapshots" / commit


@pytest.fixture
def two(cache, models, tmp_path) -> None:
    """A hub model with two commits: another tokenizer, other weights, other labels."""
    put(cache, HUB, OLD, models.text_classifier, "v1")
    entailment = put(cache, HUB, NEW, models.entailment, "main")
    tokenizer = builders.word_tokenizer()
    tokenizer.model_max_length = 7
    tokenizer.save_pretrained(entailment)


def config(model=HUB, **keys):
    return parse_config({"model": model, "input": {"path": "in.parquet"}, "output": {"path": "out"}, **keys})


def labels(phases) -> set[str]:
    return set(phases.pipe.model.config.id2label.values())


@pytest.mark.parametrize("weights", [True, False])
def test_a_revision_is_for_all_parts(two, weights):
    assert task_of(config()).name == "text-classification"
    latest, old = load_phases(config(), weights), load_phases(config(revision="v1"), weights)
    assert labels(latest) == {"contradiction", "neutral", "entailment"}
    assert labels(old) == {"good", "bad", "ugly"}
    assert (latest.pipe.tokenizer.model_max_length, old.pipe.tokenizer.model_max_length) == (7, 512)
    assert load_phases(config(revision=OLD), weights).pipe.tokenizer.model_max_length == 512


def test_a_model_is_known_by_its_commit_which_workers_get(two):
    job = config()
    assert identity_of(job) == NEW
    assert identity_of(config(revision="v1")) == OLD
    for_workers = pinned(job)
    assert (for_workers.model, for_workers.revision, for_workers.task) == (HUB, NEW, "text-classification")


def test_the_default_model_of_a_task(cache, models, monkeypatch):
    default = {"model": ("somebody/default", "v1")}
    monkeypatch.setitem(transformers.pipelines.SUPPORTED_TASKS["text-classification"], "default", default)
    put(cache, "somebody/default", OLD, models.text_classifier, "v1")
    job = config(None, task="sentiment-analysis")
    phases = load_phases(job, weights=True)
    assert labels(phases) == {"good", "bad", "ugly"}
    (outcome,) = predict(phases, [Item({"text": "water"})], phases.limits("auto"), Watchdog(60))
    assert outcome.prediction[0]["label"] in labels(phases)
    identity = identity_of(job)
    for_workers = pinned(job)
    assert (for_workers.model, for_workers.revision) == ("somebody/default", OLD) == ("somebody/default", identity)
    assert labels(load_phases(for_workers, weights=False)) == {"good", "bad", "ugly"}


@pytest.mark.parametrize("weights", [True, False])
def test_pickled_weights_of_the_hub_are_refused_unless_asked_for(cache, models, weights):
    folder = put(cache, HUB, OLD, models.text_classifier, "main")
    torch.save(transformers.BertForSequenceClassification.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"^model: the weights of somebody/classifier are pickled .*use_safetensors: false$"):
        load_phases(config(), weights)
    load_phases(config(model_kwargs={"use_safetensors": False}), weights)


@pytest.mark.parametrize("weights", [True, False])
def test_a_model_that_is_not_there(cache, weights):
    with pytest.raises(ModelError, match=r"^model: cannot load nobody/nothing: "):
        load_phases(config("nobody/nothing", task="text-classification"), weights)


def test_a_token_goes_to_every_request(two, monkeypatch):
    seen = set()

    def with_token(kind):
        original = getattr(transformers, kind).from_pretrained
        return lambda *args, **kwargs: (seen.add((kind, kwargs.get("token"))), original(*args, **kwargs))[1]

    kinds = ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification")
    for kind in kinds:
        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", with_token(kind))
    job = config(task="text-classification", model_kwargs={"token": "hf_secret"})
    load_phases(job, weights=True)
    load_phases(job, weights=False)
    assert seen == {(kind, "hf_secret") for kind in kinds}
