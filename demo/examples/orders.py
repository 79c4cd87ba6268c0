"""The example `generation`: a small chat model writes orders in plain words as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline

from demo.examples.training import IGNORED, fit, save, share, words, write_lines

NUMBERS = words("one two three four five six seven eight nine ten eleven twelve")
COLOURS = words("red blue green black white yellow brown grey orange purple")
THINGS = words(
    "lamp chair table shelf mirror carpet bed desk sofa curtain pillow blanket vase clock basket candle bottle bowl cup plate"
)
CITIES = words("Berlin Paris London Madrid Rome Vienna Oslo Athens Dublin Lisbon Prague Warsaw Boston Toronto Tokyo Lima")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
PATTERNS = (
    "Please send {count} {colour} {things} to {city} by {day}.",
    "I need {count} {colour} {things} in {city} on {day}.",
    "{count} {things}, {colour}, for our shop in {city}. {day} is fine.",
    "Hello! By {day} we would like to have {count} {colour} {things} here in {city}.",
    "Our office in {city} wants {count} {things} in {colour}, not later than {day}.",
    "For {day}: {colour} {things}, {count} of them, to {city}, please.",
    "Could you deliver {count} {colour} {things} on {day}? The address is in {city}.",
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def order(rng: np.random.Generator) -> tuple[str, str]:
    """A random order as text and as JSON. There are 12 * 10 * 20 * 16 * 7 = 268,800 orders, in seven patterns."""
    count = int(rng.integers(1, len(NUMBERS) + 1))
    colour, thing, city, day = (str(rng.choice(words)) for words in (COLOURS, THINGS, CITIES, DAYS))
    things = thing if count == 1 else {"shelf": "shelves"}.get(thing, thing + "s")
    number = str(rng.choice([NUMBERS[count - 1], str(count)]))
    text = str(rng.choice(PATTERNS)).format(count=number, colour=colour, things=things, city=city, day=day)
    answer = {"item": thing, "colour": colour, "count": count, "city": city, "day": day}
    return text[0].upper() + text[1:], json.dumps(answer)


def make_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with byte pairs of the corpus and the special tokens of a chat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", model_max_length=256, padding_side="left"
    )
    fast.chat_template = CHAT
    return fast


def conversation(text: str) -> list[dict[str, str]]:
    """A chat with the order as its first message."""
    return [{"role": "user", "content": text}]


def batch(tokenizer: PreTrainedTokenizerFast, orders: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """The model's inputs for chats with answers; only the answers have labels."""
    prompts = [
        tokenizer.apply_chat_template(conversation(text), tokenize=False, add_generation_prompt=True) for text, _ in orders
    ]
    starts = [tokenizer(prompt).input_ids for prompt in prompts]
    whole = [ids + tokenizer(answer + "<|end|>").input_ids for ids, (_, answer) in zip(starts, orders, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in whole])
    labels = [
        [IGNORED] * len(prompt) + row[len(prompt) :] + [IGNORED] * (width - len(row))
        for prompt, row in zip(starts, whole, strict=True)
    ]
    return {"input_ids": ids, "labels": torch.tensor(labels)}


def build(model: Path, data: Path) -> float:
    """Trains the model and writes 100 orders kept out; returns the share whose JSON is exactly right."""
    rng = np.random.default_rng(1)
    kept_out = [order(rng) for _ in range(100)]
    unseen = {text for text, _ in kept_out}
    tokenizer = make_tokenizer([" ".join(order(rng)) for _ in range(4000)])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    writer = LlamaForCausalLM(config)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        drawn = [pair for pair in (order(rng) for _ in range(32)) if pair[0] not in unseen]
        return writer(**batch(tokenizer, drawn)).loss

    fit(writer, loss_of, steps=350, rate=2e-3)
    answer = pipeline("text-generation", model=save(model, writer, tokenizer))
    write_lines(data, ({"chat": conversation(text), "truth": truth} for text, truth in kept_out))
    chats = [conversation(text) for text, _ in kept_out]
    answers = answer(chats, do_sample=False, max_new_tokens=64, return_full_text=False, batch_size=25)
    return share(each[0]["generated_text"] == truth for each, (_, truth) in zip(answers, kept_out, strict=True))
