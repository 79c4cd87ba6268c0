"""Rows that have ended leave their batch, and what is generated stays the same."""

import pytest
import torch
import transformers
from support import builders, tiny_text
from support.generating import generate, items, phases_of

from dray.pipelines.generation import shrinking
from dray.pipelines.internals.generation import knows_cached_tokens

PAIRS = pytest.mark.skipif(
    not knows_cached_tokens(), reason="this version of transformers asks the mask, which pairs do not keep"
)
PROMPTS = builders.texts(24, seed=31, median=9.0)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """Its answers end by chance, early or late."""
    folder = tmp_path_factory.mktemp("writer")
    model = tiny_text.create(transformers.LlamaForCausalLM, tiny_text.llama_config())
    model.generation_config.eos_token_id = list(range(3, 10))
    return tiny_text.keep(model, folder, tiny_text.chat_tokenizer())


@pytest.fixture
def sizes(monkeypatch):
    """Rows of each call of transformers' own loop, and tokens after it."""
    seen = []
    original = transformers.GenerationMixin._sample

    def spy(model, input_ids, *args, **kwargs):
        output = original(model, input_ids, *args, **kwargs)
        seen.append((len(input_ids), output.shape[1]))
        return output

    monkeypatch.setattr(transformers.GenerationMixin, "_sample", spy)
    return seen


def plain(phases, monkeypatch, prompts):
    """The same batches without shrinking."""
    with monkeypatch.context() as patch:
        patch.setattr(shrinking, "with_shrinking", lambda pipe, during: during)
        return generate(phases, items(prompts), batch=len(prompts))


@pytest.mark.parametrize(
    "parameters",
    [
        {"do_sample": False},
        {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        {"do_sample": True, "temperature": 1.3, "top_k": 40},
        {"do_sample": True, "num_return_sequences": 2},
    ],
)
def test_what_is_generated_stays_the_same(writer, monkeypatch, sizes, parameters):
    phases = phases_of(writer, max_new_tokens=60, **parameters)
    expected = plain(phases, monkeypatch, PROMPTS)
    assert len(sizes) == 1
    sizes.clear()
    assert generate(phases, items(PROMPTS), batch=len(PROMPTS)) == expected
    rows = [count for count, _ in sizes]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]
    assert [length for _, length in sizes] == sorted(length for _, length in sizes)


def test_it_is_what_each_prompt_alone_gives(writer, sizes):
    phases = phases_of(writer, max_new_tokens=60, do_sample=False)
    assert generate(phases, items(PROMPTS), batch=len(PROMPTS)) == generate(phases, items(PROMPTS), batch=1)
    assert len(sizes) > len(PROMPTS) + 1


def test_ended_rows_cost_no_steps(writer, sizes):
    phases = phases_of(writer, max_new_tokens=60, do_sample=False)
    generate(phases, items(PROMPTS), batch=len(PROMPTS))
    lengths = [length for _, length in sizes]
    taken = sum(rows * (now - before) for (rows, now), before in zip(sizes[1:], lengths, strict=False))
    assert taken < 0.6 * len(PROMPTS) * (lengths[-1] - lengths[0])


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_beams": 2},
        {"eos_token_id": None},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"guidance_scale": 1.5},
    ],
)
def test_what_cannot_be_taken_apart_stays_whole(writer, monkeypatch, sizes, parameters):
    few = PROMPTS[:4]
    phases = phases_of(writer, max_new_tokens=8, do_sample=False, **parameters)
    expected = plain(phases, monkeypatch, few)
    before = len(sizes)
    assert generate(phases, items(few), batch=len(few)) == expected
    assert len(sizes) == 2 * before


@PAIRS
def test_a_pair_of_encoder_and_decoder_shrinks(sizes):
    config = transformers.BartConfig(
        vocab_size=60, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, init_std=1.0, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(config).eval()
    inputs = {"input_ids": torch.randint(4, 60, (8, 12)), "attention_mask": torch.ones(8, 12, dtype=torch.long)}
    inputs["attention_mask"][:4, 8:] = 0
    arguments = {**inputs, "max_new_tokens": 40, "do_sample": False, "eos_token_id": list(range(5, 20))}
    expected = model.generate(**arguments)
    assert len(sizes) == 1
    found = model.generate(**arguments, custom_generate=shrinking.decode)
    assert torch.equal(found, expected)
    rows = [count for count, _ in sizes[1:]]
    assert rows[0] == 8 > rows[-1]


@pytest.mark.parametrize("given", [{"custom_generate": "somebody/way-of-decoding"}, {"num_beams": 2}, {"streamer": object()}])
def test_what_is_asked_for_is_not_replaced(writer, given):
    phases = phases_of(writer, max_new_tokens=8, do_sample=False)
    assert shrinking.with_shrinking(phases.pipe, given) is given


@PAIRS
def test_speech_to_text_decodes_so(tmp_path):
    phases = phases_of(builders.whisper(tmp_path / "model"), task="automatic-speech-recognition")
    assert shrinking.with_shrinking(phases.pipe, {"max_new_tokens": 40})["custom_generate"] is shrinking.decode


@pytest.mark.parametrize("rope", [{"rope_type": "dynamic", "factor": 2.0}, {"full_attention": {"rope_type": "longrope"}}, None])
def test_positions_that_depend_on_the_longest_row_stay_whole(writer, rope):
    phases = phases_of(writer, max_new_tokens=8, do_sample=False)
    during = {"max_new_tokens": 8}
    phases.pipe.model.config.rope_parameters = rope
    assert (shrinking.with_shrinking(phases.pipe, during) is during) == (rope is not None)


def test_a_generate_of_the_models_own_is_left_alone(writer):
    phases = phases_of(writer, max_new_tokens=8, do_sample=False)
    kind = type(phases.pipe.model)
    phases.pipe.model.__class__ = type("Own", (kind,), {"generate": lambda self, input_ids: input_ids})
    during = {"max_new_tokens": 8}
    assert shrinking.with_shrinking(phases.pipe, during) is during
