"""What is easily lost in batches: padding on the wrong side, limits that count it, ends of one's own, items without tokens."""

import numpy as np
import pyarrow as pa
import pytest
import transformers
from support import builders, conformance, tiny_text
from support.arrow import table_of
from support.comparing import differences
from support.loading import load_phases, model_of
from transformers import pipeline

from dray.jobs.batch.preflight import _try_out
from dray.jobs.batch.stages import Fused
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT, ERROR, ERROR_TYPE, KEY
from dray.pipelines.config import parse_config
from dray.pipelines.errors import ModelError
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases

pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [*builders.texts(5, seed=31, median=9.0), "who"]


def config_of(task, model, parameters, **engine):
    raw = {"task": task, "model": model, "parameters": parameters, "engine": {"batch": 3, **engine}}
    return parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})


def both_layouts(config, items):
    """Predictions and messages of errors, the same from both layouts."""
    table = table_of(items)
    columns = {column.removeprefix(ARGUMENT): table[column].type for column in table.column_names}
    worker = WorkerSpec(model_of(config), load_phases(config, weights=False).schema(columns), threads=1, accelerator=False)
    fused, staged = Fused(worker)(table), conformance.staged(worker, table)
    assert not differences(fused["prediction"].to_pylist(), staged["prediction"].to_pylist())
    return fused["prediction"].to_pylist(), [error and error["message"] for error in fused["error"].to_pylist()]


def assert_parity(
    task, model, parameters, items, call=lambda pipe, item, parameters: pipe(item["text"], **parameters), **engine
):
    pipe = pipeline(task, model=model)
    main = {"text", "audio"}
    own = [{key: value for key, value in item.items() if key not in main and value is not None} for item in items]
    expected = [call(pipe, item, {**parameters, **more}) for item, more in zip(items, own, strict=True)]
    got, errors = both_layouts(config_of(task, model, parameters, **engine), items)
    assert not any(errors)
    assert not differences(got, expected)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return tiny_text.chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def left_padded(tmp_path_factory):
    """A GPT-2, which counts positions from the first token on, with a tokenizer that pads on the left."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = builders.word_tokenizer(padding_side="left")
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=512, num_labels=3, pad_token_id=0
    )
    return builders.save(transformers.GPT2ForSequenceClassification(config), folder, tokenizer)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction"])
def test_padding_on_the_left(left_padded, task):
    assert_parity(task, left_padded, {}, [{"text": text} for text in TEXTS])


def test_times_of_words_do_not_depend_on_the_batch(models):
    lengths = (3.1, 29.5, 0.7, 12.0, 21.3)
    items = [{"audio": builders.sound(seconds, seed)} for seed, seconds in enumerate(lengths)]
    parameters = {"return_timestamps": "word", "generate_kwargs": {"max_new_tokens": 8}}
    call = lambda pipe, item, parameters: pipe(item["audio"].copy(), **parameters)  # noqa: E731
    assert_parity("automatic-speech-recognition", models.whisper, parameters, items, call)


@pytest.mark.parametrize(
    ("parameters", "own"),
    [
        ({"eos_token_id": 85, "max_new_tokens": 40}, {}),
        ({"max_length": 24}, {}),
        ({"min_length": 30, "max_new_tokens": 30}, {}),
        ({"num_beams": 3}, {"max_new_tokens": [3, 9, 5, 7, 4, 8]}),
        ({"forced_eos_token_id": 7}, {"max_new_tokens": [3, 9, 5, 7, 4, 8]}),
        ({}, {"max_new_tokens": [3, None, 5, 7, None, 8]}),
        ({"max_new_tokens": 6, "return_tensors": True}, {}),
        ({"max_new_tokens": 6, "num_return_sequences": 2, "num_beams": 2}, {}),
    ],
)
def test_lengths_and_ends(chat_model, parameters, own):
    rows = [dict(zip(own, values, strict=True)) for values in zip(*own.values(), strict=True)] or [{}] * len(TEXTS)
    items = [{"text": text, **row} for text, row in zip(TEXTS, rows, strict=True)]
    assert_parity("text-generation", chat_model, {"do_sample": False, **parameters}, items)


def test_counts_that_a_column_with_nulls_holds_as_floats(chat_model):
    items = [{"text": text, "max_new_tokens": float(number)} for text, number in zip(TEXTS, (3, 2, 5, 1, 4, 2), strict=True)]
    whole = [{**item, "max_new_tokens": int(item["max_new_tokens"])} for item in items]
    config = config_of("text-generation", chat_model, {"do_sample": False})
    assert both_layouts(config, items) == both_layouts(config, whole)


def test_continuous_batching_leaves_what_it_would_drop(chat_model, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(chat_model)
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    items = [{"text": text} for text in TEXTS]
    greedy = {"do_sample": False, "max_new_tokens": 8}
    assert_parity("text-generation", str(tmp_path), greedy, items, continuous_batching=True)


def test_words_given_as_lists(tmp_path):
    model = tiny_text.token_classifier(tmp_path)
    items = [{"text": text.split()} for text in TEXTS]
    call = lambda pipe, item, parameters: pipe(item["text"], **parameters)[0]  # noqa: E731  # it nests a single list of words
    assert_parity("token-classification", model, {"is_split_into_words": True}, items, call)


def test_messages_without_content(chat_model):
    calls = [{"role": "user", "content": "who"}, {"role": "assistant", "content": None}, {"role": "user", "content": "now"}]
    items = [{"text": calls}, {"text": calls[:1]}]
    got, errors = both_layouts(config_of("text-generation", chat_model, {"do_sample": False, "max_new_tokens": 3}), items)
    pipe = pipeline("text-generation", model=chat_model)
    assert not differences(got[0], pipe(calls, do_sample=False, max_new_tokens=3))
    assert not any(errors)


def test_texts_without_tokens_take_nobody_with_them(models):
    config = config_of("feature-extraction", models.text_encoder, {"tokenize_kwargs": {"add_special_tokens": False}})
    got, errors = both_layouts(config, [{"text": text} for text in ["the", "", "a of", ""]])
    assert [np.shape(row)[1] if row is not None and np.ndim(row) == 3 else None for row in (got[0], got[2])] == [1, 2]
    assert all(errors[index] or np.size(got[index]) == 0 for index in (1, 3))


@pytest.mark.parametrize(
    ("task", "model", "parameters", "message"),
    [
        ("text-generation", "chat", {"max_new_token": 5}, "max_new_token"),
        ("text-generation", "chat", {"max_new_tokens": "five"}, "parameters: the text-generation pipeline does not take them"),
        ("text-generation", "chat", {"return_dict_in_generate": True}, "return_dict_in_generate"),
        ("text-generation", "chat", {"num_return_sequences": 3, "do_sample": False}, "num_return_sequences"),
        ("text-generation", "chat", {"batch_size": 8}, "parameters.batch_size: dray makes the batches itself"),
        ("text-generation", "chat", {"text": "hello"}, "parameters.text: that is what every row gives"),
        ("automatic-speech-recognition", "ctc", {"chunk_length_s": 1, "stride_length_s": 2}, "stride"),
    ],
)
def test_wrong_arguments_are_refused_before_the_job(models, chat_model, task, model, parameters, message):
    config = config_of(task, chat_model if model == "chat" else models.ctc, parameters)
    with pytest.raises(ModelError, match=message):
        tried_out(config)


def tried_out(config):
    phases = load_phases(config, weights=False)
    cell = "who" if config.task == "text-generation" else {"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}
    columns = {ARGUMENT + phases.task.inputs[0]: pa.array([cell]), ERROR: pa.nulls(1, ERROR_TYPE)}
    _try_out(phases, pa.table({KEY: pa.array([0], pa.uint64()), **columns}))


def test_caches_of_keys_and_values_do_not_travel(left_padded):
    phases: Phases = load_phases(config_of("feature-extraction", left_padded, {}), weights=True)
    (part,) = phases.preprocess(Item({"text": "who"}))
    assert "past_key_values" not in phases.forward([part])[0]
