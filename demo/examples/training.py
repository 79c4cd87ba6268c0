"""Code that the examples share: a training loop, a tokenizer, the config of a small BERT, and files of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerFast


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ONSETS = ["", "", "y", *words("b c d f g h j k l m n p q r s t v w x z ch sh st tr br pr kl")]
CODAS = ["", "", "", *words("n r s l t k m h ng nd st x")]
IGNORED = -100  # the label that the loss ignores


def fit(model: PreTrainedModel, loss_of: Callable[[np.random.Generator], torch.Tensor], steps: int, rate: float) -> None:
    """Trains a model with AdamW. The learning rate rises for a tenth of the steps and then falls to zero.

    Args:
        model: the model.
        loss_of: draws a batch with the generator and returns the model's loss on it.
        steps: the number of batches.
        rate: the highest learning rate.
    """
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        loss = loss_of(rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def word_pieces(
    corpus: Iterable[str], normalizer: normalizers.Normalizer | None = None, size: int = 800
) -> PreTrainedTokenizerFast:
    """A tokenizer like BERT's: the most frequent words of the corpus are tokens, others are spelt letter by letter.

    The vocabulary is counted here because the trainer in `tokenizers` breaks ties at random.

    Args:
        corpus: texts like those that the model will get.
        normalizer: is applied to a text first; None: BERT's, which makes it lower case.
        size: the largest size of the vocabulary.
    """
    splitter, normalizer = pre_tokenizers.BertPreTokenizer(), normalizer or normalizers.BertNormalizer()
    counts = Counter(word for text in corpus for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted(set("".join(counts)))
    frequent = sorted((word for word in counts if counts[word] > 1), key=lambda word: (-counts[word], word))
    pieces = dict.fromkeys([*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters), *frequent])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate([*pieces][:size])}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, model_input_names=inputs, **SPECIAL)


def invented(rng: np.random.Generator) -> str:
    """A random invented word, so that a model learns to use the words around it."""
    parts = ((rng.choice(ONSETS), rng.choice(list("aeiouy")), rng.choice(CODAS)) for _ in range(rng.integers(1, 4)))
    return "".join("".join(part) for part in parts)


def bert(tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> BertConfig:
    """The config of a BERT with two layers and these labels."""
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )


def save(folder: Path, *parts: PreTrainedModel | PreTrainedTokenizerFast) -> str:
    """Saves a model and its tokenizer or processor into one folder; returns its path."""
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


def write_lines(folder: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes the rows to rows.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def share(right: Iterable[bool]) -> float:
    """The share of True."""
    return float(np.mean(list(right)))
