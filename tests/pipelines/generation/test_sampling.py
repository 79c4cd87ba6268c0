"""Text generation: random numbers of each row's own, batches of any size, lengths and stops of each row's own."""

import collections

import pytest
import torch
import transformers
from support import builders, tiny_text
from support.generating import PROMPTS, generate, items, phases_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return tiny_text.chat_model(tmp_path_factory.mktemp("chat"))


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 40, "max_new_tokens": 10}


def test_a_row_samples_the_same_text_in_every_batch_and_run(chat_model):
    phases = phases_of(chat_model, **SAMPLED)
    first = generate(phases, items(), batch=1)
    torch.manual_seed(99)
    assert generate(phases, items(), batch=3) == first
    backwards = generate(phases_of(chat_model, **SAMPLED), items()[::-1])
    assert backwards[::-1] == first
    assert first[-1] != first[-2]  # equal prompts, different rows


def test_sequences_of_a_row_differ_from_each_other(chat_model):
    phases = phases_of(chat_model, **SAMPLED, num_return_sequences=3)
    for records in generate(phases, items(), batch=4):
        assert len({record["generated_text"] for record in records}) == 3


def test_tokens_are_drawn_with_the_models_probabilities(chat_model):
    phases = phases_of(chat_model, do_sample=True, temperature=0.8, top_p=0.9, max_new_tokens=1, return_tensors=True)
    count = 3000
    drawn = generate(phases, items(["who"] * count), batch=500)
    found = collections.Counter(prediction[0]["generated_token_ids"][-1] for prediction in drawn)
    torch.manual_seed(0)
    prompt = phases.pipe.tokenizer(["who"] * count, return_tensors="pt", return_token_type_ids=False)
    own = phases.pipe.model.generate(**prompt, do_sample=True, temperature=0.8, top_p=0.9, max_new_tokens=1)
    wanted = collections.Counter(own[:, -1].tolist())
    distance = sum(abs(found[token] - wanted[token]) for token in found.keys() | wanted.keys()) / 2 / count
    assert len(wanted) > 5
    assert distance < 0.1


def test_greedy_rows_with_lengths_and_stops_of_their_own(chat_model):
    phases = phases_of(chat_model, do_sample=False, return_full_text=False)
    pipe = transformers.pipeline("text-generation", model=chat_model)
    lengths = [index % 4 + 1 for index in range(len(PROMPTS))]
    greedy = {"do_sample": False, "return_full_text": False}
    expected = [pipe(text, max_new_tokens=length, **greedy) for text, length in zip(PROMPTS, lengths, strict=True)]
    for batch in (1, 3, "auto"):
        assert generate(phases, items(max_new_tokens=lengths), batch) == expected


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A model of single bytes, for strings that lie across tokens."""
    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([*letters, "</s>"])}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, eos_token_id=256,
        pad_token_id=256,
    )  # fmt: skip
    torch.manual_seed(0)
    return builders.save(transformers.LlamaForCausalLM(config), folder, fast)


def test_stop_strings_of_each_row(byte_model):
    pipe = transformers.pipeline("text-generation", model=byte_model)
    greedy = {"do_sample": False, "max_new_tokens": 12, "return_full_text": False}
    whole = [pipe(text, **greedy)[0]["generated_text"] for text in PROMPTS]
    stops = [text[3:5] for text in whole]
    expected = [pipe(text, stop_sequence=stop, **greedy) for text, stop in zip(PROMPTS, stops, strict=True)]
    assert generate(phases_of(byte_model, **greedy), items(stop_sequence=stops)) == expected
    assert any(len(got[0]["generated_text"]) < len(text) for got, text in zip(expected, whole, strict=True))


def test_a_tokenizer_without_padding_token(chat_model, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    transformers.AutoModelForCausalLM.from_pretrained(chat_model).save_pretrained(tmp_path)
    greedy = {"do_sample": False, "max_new_tokens": 6}
    assert generate(phases_of(str(tmp_path), **greedy), items()) == generate(phases_of(chat_model, **greedy), items(), batch=1)


@pytest.mark.parametrize("limits", [{}, {"batch": 4}])
def test_continuous_batching_gives_the_same(chat_model, limits, monkeypatch):
    greedy = {"do_sample": False, "max_new_tokens": 7}
    phases = phases_of(chat_model, engine={"continuous_batching": True, **limits}, **greedy)
    calls = []
    run = phases.pipe.model.generate_batch
    monkeypatch.setattr(phases.pipe.model, "generate_batch", lambda *a, **k: calls.append(len(a[0])) or run(*a, **k))
    assert generate(phases, items(), limits.get("batch", "auto")) == generate(phases_of(chat_model, **greedy), items(), 1)
    assert sum(calls) == len(PROMPTS)


def test_where_continuous_batching_fails_ordinary_batches_go_on(chat_model, monkeypatch, caplog):
    phases = phases_of(chat_model, engine={"continuous_batching": True}, do_sample=False, max_new_tokens=3)

    def broken(*arguments, **options):
        raise NotImplementedError("no paged attention")

    monkeypatch.setattr(phases.pipe.model, "generate_batch", broken)
    assert len(generate(phases, items())) == len(PROMPTS)
    assert "ordinary batches: no paged attention" in caplog.text


def test_sampling_is_never_left_to_continuous_batching(chat_model):
    phases = phases_of(chat_model, engine={"continuous_batching": True}, **SAMPLED)
    assert generate(phases, items()) == generate(phases_of(chat_model, **SAMPLED), items(), batch=1)


def test_speech_is_synthesised_from_a_seed(tmp_path):
    model = transformers.VitsModel.from_pretrained(tiny_text.vits(tmp_path))
    model.config.noise_scale = 0.7
    model.save_pretrained(tmp_path)
    phases = phases_of(str(tmp_path), "text-to-audio")
    first = generate(phases, items())
    again = generate(phases, items()[::-1])[::-1]
    assert [one["audio"] for one in first] == [one["audio"] for one in again]
    assert first[-1]["audio"] != first[-2]["audio"]
