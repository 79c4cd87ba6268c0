"""Where weights are put, in which form, and which are refused."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from support import builders, tiny_text
from support.loading import for_workers as pinned
from support.loading import identity_of, load_phases

from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ConfigError, ModelError
from dray.pipelines.models.model_kwargs import sort_kwargs
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases

TEXTS = [Item({"text": text}, key=seed) for seed, text in enumerate(builders.texts(6, 3, 8.0, 0.6, 30))]
GREEDY = {"do_sample": False, "max_new_tokens": 6, "return_full_text": False}
BERT = {"bert.embeddings": "cpu", "bert.encoder.layer.0": "disk", "bert.encoder.layer.1": "cpu", "bert.pooler": "cpu"}
LLAMA = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
LLAMA |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}


def config(model, **keys):
    return parse_config({"model": str(model), "input": {"path": "in.parquet"}, "output": {"path": "out"}, **keys})


def predictions(phases: Phases) -> list:
    outcomes = predict(phases, TEXTS, phases.limits(3), Watchdog(60))
    assert not [outcome.error for outcome in outcomes if outcome.error]
    return [outcome.prediction for outcome in outcomes]


def scores(phases: Phases) -> list[float]:
    return [best["score"] for prediction in predictions(phases) for best in prediction]


MAPS = [{"": "cpu"}, {"": "disk"}, {**BERT, "classifier": "cpu"}, {"bert": "disk", "classifier": "cpu"}, "auto"]


@pytest.mark.parametrize("places", MAPS, ids=str)
def test_predictions_do_not_depend_on_where_the_weights_are(models, tmp_path, places):
    plain = predictions(load_phases(config(models.text_classifier), weights=True))
    offload = {"offload_folder": str(tmp_path / "off")}
    job = config(models.text_classifier, engine={"device_map": places}, model_kwargs=offload)
    phases = load_phases(job, weights=True)
    assert phases.pipe.device == torch.device("cpu")
    assert not phases.on_accelerator
    assert predictions(phases) == plain
    assert load_phases(job, weights=False).pipe.model.device.type == "meta"


def test_devices_are_numbers_in_yaml_and_for_accelerate():
    job = config("model", model_kwargs={"max_memory": {0: "1GiB", "1": "2GiB", "cpu": "3GiB"}})
    assert sort_kwargs(job).weights["max_memory"] == {0: "1GiB", 1: "2GiB", "cpu": "3GiB"}


def test_a_model_that_generates_from_disk(models_of_text, tmp_path):
    plain = predictions(load_phases(config(models_of_text, parameters=GREEDY), weights=True))
    engine = {"device_map": LLAMA, "dtype": "float32"}
    offload = {"offload_folder": str(tmp_path / "off")}
    phases = load_phases(config(models_of_text, parameters=GREEDY, engine=engine, model_kwargs=offload), weights=True)
    assert phases.pipe.model.hf_device_map == LLAMA
    assert next(phases.pipe.model.parameters()).device.type == "meta"
    assert predictions(phases) == plain


@pytest.fixture(scope="module")
def models_of_text(tmp_path_factory) -> str:
    return tiny_text.chat_model(tmp_path_factory.mktemp("chat") / "model")


def test_what_does_not_fit_into_memory_goes_to_disk(models, tmp_path):
    kwargs = {"max_memory": {"cpu": "60KiB"}, "offload_folder": str(tmp_path / "off")}
    job = config(models.text_classifier, engine={"device_map": "auto", "dtype": "bfloat16"}, model_kwargs=kwargs)
    phases = load_phases(job, weights=True)
    assert "disk" in phases.pipe.model.hf_device_map.values()
    predictions(phases)


def test_processes_do_not_share_the_folder_of_offloaded_weights(models, tmp_path):
    kwargs = {"offload_folder": str(tmp_path / "off")}
    job = config(models.text_classifier, engine={"device_map": {"": "disk"}, "dtype": "bfloat16"}, model_kwargs=kwargs)
    first, second = (load_phases(job, weights=True) for _ in range(2))
    assert len(list((tmp_path / "off").iterdir())) == 2
    assert predictions(first) == predictions(second)


def test_a_model_is_compiled_wherever_it_is(models, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda forward, **settings: compiled.append(type(forward.__self__).__name__) or forward
    )
    for engine in ({}, {"device_map": {"": "cpu"}}):
        load_phases(config(models.text_classifier, engine={"compile": True, **engine}), weights=True)
        load_phases(config(models.text_classifier, engine={"compile": True, **engine}), weights=False)
    assert compiled == ["BertForSequenceClassification"] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_is_the_same_with_and_without_weights(models, dtype):
    job = config(models.text_classifier, engine={"dtype": dtype})
    assert {load_phases(job, weights).pipe.model.dtype for weights in (True, False)} == {getattr(torch, dtype)}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> str:
    return builders.text_classifier(tmp_path_factory.mktemp("wide") / "model", hidden=64)


EIGHT, FOUR = {"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("quantization", "tolerance"), [(EIGHT, 0.02), (FOUR, 0.15)], ids=["8-bit", "4-bit"])
def test_quantized_weights_predict_about_the_same(wide, quantization, tolerance):
    pytest.importorskip("bitsandbytes")
    full = scores(load_phases(config(wide, parameters={"top_k": None}), weights=True))
    job = config(wide, parameters={"top_k": None}, model_kwargs={"quantization_config": quantization})
    phases = load_phases(job, weights=True)
    assert "Linear8bitLt" in str(phases.pipe.model) or "Linear4bit" in str(phases.pipe.model)
    small = scores(phases)
    assert small != full
    assert len(small) == len(full)
    assert sorted(small) == pytest.approx(sorted(full), abs=tolerance)
    assert "bit" not in str(load_phases(job, weights=False).pipe.model)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_was_saved_quantized(wide, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantization = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(wide, quantization_config=quantization)
    shutil.copytree(wide, tmp_path / "small")
    model.save_pretrained(tmp_path / "small")
    phases = load_phases(config(tmp_path / "small"), weights=True)
    assert "Linear4bit" in str(phases.pipe.model)
    assert len(predictions(phases)) == len(TEXTS)
    assert load_phases(config(tmp_path / "small"), weights=False).pipe.model.device.type == "meta"


@pytest.mark.parametrize("weights", [True, False])
def test_bitsandbytes_may_be_missing(models, monkeypatch, weights):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else found(name, *more))
    message = (
        r"^model_kwargs.quantization_config: 8-bit and 4-bit weights need bitsandbytes; pip install 'dray\[quantization\]'$"
    )
    with pytest.raises(ModelError, match=message):
        load_phases(config(models.text_classifier, model_kwargs={"quantization_config": EIGHT}), weights)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"load_in_8bits": True}, "bitsandbytes does not know load_in_8bits; set load_in_8bit: true or load_in_4bit: true"),
        ({}, "no width is chosen; set load_in_8bit: true"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "load_in_4bit and load_in_8bit are both True"),
        ({"quant_method": "magic"}, "Unknown quantization type, got magic"),
        ({"quant_method": "quanto", "weights": "int3"}, "Only support weights in"),
    ],
)
def test_quantization_that_makes_no_sense(models, quantization, message):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match=f"^model_kwargs.quantization_config: .*{message}"):
        load_phases(config(models.text_classifier, model_kwargs={"quantization_config": quantization}), weights=False)


@pytest.mark.parametrize(
    ("key", "elsewhere"),
    [("dtype", "engine.dtype"), ("device_map", "engine.device_map"), ("revision", "revision")],
)
def test_arguments_with_a_key_of_their_own(models, key, elsewhere):
    with pytest.raises(ConfigError, match=f"^model_kwargs.{key}: set {elsewhere} instead$"):
        load_phases(config(models.text_classifier, model_kwargs={key: "auto"}), weights=False)


def test_pickled_weights_are_refused_unless_asked_for(models, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(models.text_classifier, folder)
    torch.save(transformers.BertForSequenceClassification.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for weights in (True, False):
        with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\), and unpickling runs any code .*use_safetensors"):
            load_phases(config(folder), weights)
    trusting = load_phases(config(folder, model_kwargs={"use_safetensors": False}), weights=True)
    assert predictions(trusting) == predictions(load_phases(config(models.text_classifier), weights=True))


def test_other_bin_files_are_no_weights(models, tmp_path):
    shutil.copy(Path(models.text_classifier) / "config.json", tmp_path)
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(ModelError, match=r"holds no weights \(\*.safetensors\)"):
        load_phases(config(tmp_path), weights=False)


def test_workers_get_the_folder_by_its_absolute_path(models, monkeypatch):
    folder = Path(models.text_classifier)
    monkeypatch.chdir(folder.parent)
    job = config(folder.name)
    identity = identity_of(job)
    for_workers = pinned(job)
    assert (for_workers.model, for_workers.task, for_workers.revision) == (str(folder), "text-classification", None)
    assert identity == identity_of(for_workers)


def test_a_model_of_another_task(models):
    with pytest.raises(ModelError, match=r"is a Wav2Vec2Config, which does not serve this task$"):
        load_phases(config(models.ctc, task="text-classification"), weights=True)


def test_speech_that_is_generated_has_large_batches_on_cpus(models):
    """Each step of a batch takes nearly as long as that of one recording."""
    config = {"task": "automatic-speech-recognition", "input": {"path": "-"}, "output": {"path": "-"}}
    capacities = []
    for model in (models.whisper, models.ctc):
        phases = load_phases(parse_config({**config, "model": model}), weights=True)
        capacities.append(phases.limits("auto").capacity(80 * 3000))
    assert capacities == [8, 1]
