"""Texts that are longer than the model's table of positions."""

import pytest
import transformers
from support import builders, tiny_text
from support.loading import load_phases

from dray.pipelines.batching.parts import Limits
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def phases_of(folder, config_class, positions, **parameters):
    tokenizer = builders.word_tokenizer()
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=0, **SIZES)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    tiny_text.keep(model, folder, tokenizer)
    raw = {"task": "text-classification", "model": str(folder), "parameters": parameters}
    return load_phases(parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}}), weights=True)


def outcome(phases, words):
    (found,) = predict(phases, [Item({"text": " ".join(["time"] * words)})], Limits.fixed(1), Watchdog(60))
    return found


@pytest.mark.parametrize(
    ("config_class", "positions", "tokens"),
    [(transformers.BertConfig, 32, 32), (transformers.RobertaConfig, 34, 33), (transformers.ElectraConfig, 32, 32)],
)
def test_the_longest_text_runs_and_a_longer_one_is_refused_in_a_sentence(tmp_path, config_class, positions, tokens):
    phases = phases_of(tmp_path, config_class, positions)
    special = len(phases.pipe.tokenizer("")["input_ids"])
    assert outcome(phases, tokens - special).error is None
    longer = outcome(phases, tokens - special + 1).error
    assert longer.stage == "preprocess"
    assert f"the text has {tokens + 1} tokens, and the model knows {tokens} positions" in str(longer)


def test_models_without_a_table_take_any_length(tmp_path):
    assert outcome(phases_of(tmp_path, transformers.ModernBertConfig, 32), 100).error is None
