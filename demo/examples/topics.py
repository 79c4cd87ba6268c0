"""The examples `embeddings` and `zero-shot`: texts about eight topics, as vectors and with labels unseen in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer, BatchEncoding, BertForSequenceClassification, BertModel, pipeline

from demo.examples.training import bert, fit, save, share, word_pieces, write_lines

# The first word names the topic. In training it occurs in texts, but never as a label.
TOPICS = tuple(
    words.split()
    for words in (
        "sport football tennis goal referee stadium coach athlete marathon medal swimming league striker racket championship",
        "cooking soup oven recipe pepper butter chef onion dough frying sauce garlic kitchen baking roast",
        "music guitar concert melody drummer violin orchestra album singer piano rhythm jazz choir chorus opera",
        "travel airport passport luggage hotel flight tourist island train cruise ticket backpack border souvenir visa",
        "money bank loan interest salary tax budget wallet investor savings mortgage coins debt shares profit",
        "health doctor hospital vaccine fever nurse surgery medicine patient clinic therapy headache pill symptom diagnosis",
        "weather rain storm snow thunder cloud sunshine forecast wind fog temperature hail frost drizzle lightning",
        "computers keyboard software laptop server programmer database processor internet password browser code memory network "
        "screen",
    )
)
LABELS = ("contradiction", "neutral", "entailment")
HYPOTHESIS = "This example is about {}."  # the pipeline's default is "This example is {}."
PATTERNS = (
    "Yesterday we talked about the {} and the {}.",
    "The {} was better than the {}, said my brother.",
    "She wrote a long letter on {} and {}.",
    "No {} without a {}!",
    "Have you heard of the {} and the new {}?",
    "The {} costs more since the {} came, and nobody speaks of the {}.",
    "He dreams of {}, {} and {}.",
    "After the {} everyone was waiting for the {}.",
    "She says that {} is everything.",
    "Who has not heard of {}?",
    "Everyone needs some {} now and then.",
)
UNSEEN_PATTERNS = (
    "My brother wrote that the {} and the {} came after the {}.",
    "She was waiting for the {} and everyone for the {}.",
    "Nobody said that the {} is better since the {} came.",
)
ABOUT_NOTHING = (
    "She came back and nobody said a word.",
    "Have you heard what he wrote to my brother?",
    "After that we were waiting for a long time.",
    "He was better than everyone, she said.",
    "Nobody speaks of it since yesterday.",
)


def text_about(rng: np.random.Generator, topic: int, patterns: tuple[str, ...] = PATTERNS, named: bool = True) -> str:
    """A random sentence with words of the topic, which may include its name only if `named`."""
    pattern = str(rng.choice(patterns))
    return pattern.format(*rng.choice(TOPICS[topic][not named :], pattern.count("{}"), replace=False))


def vectors(encoder: BertModel, inputs: BatchEncoding) -> torch.Tensor:
    """The mean of each text's token vectors, scaled to length 1; shape (texts, hidden)."""
    mask = inputs["attention_mask"][..., None]
    tokens = encoder(**inputs).last_hidden_state
    return functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)


def build_encoder(model: Path, data: Path) -> float:
    """Trains so that texts of a topic are near each other; returns the share of unseen texts whose nearest has their topic."""
    rng = np.random.default_rng(1)
    everything = range(len(TOPICS))
    tokenizer = word_pieces([*(text_about(rng, topic) for topic in everything for _ in range(400)), *ABOUT_NOTHING, HYPOTHESIS])
    encoder = BertModel(bert(tokenizer, LABELS))

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        texts = [text_about(rng, topic) for topic in [*everything] * 4]
        near = vectors(encoder, tokenizer(texts, padding=True, return_tensors="pt"))
        topics = torch.arange(len(texts)) % len(TOPICS)
        same = (topics[:, None] == topics).float()
        return functional.binary_cross_entropy_with_logits(10 * near @ near.T - 5, same)

    fit(encoder, loss_of, steps=300, rate=1e-3)
    save(model, encoder, tokenizer)
    rows = unseen_texts(rng)
    write_lines(data, rows)
    with torch.no_grad():
        near = vectors(encoder, tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
    nearest = (near @ near.T).fill_diagonal_(-1).argmax(1)
    return share(rows[other]["truth"] == row["truth"] for row, other in zip(rows, nearest, strict=True))


def unseen_texts(rng: np.random.Generator) -> list[dict[str, str]]:
    """160 texts in patterns kept out of training, with their topics."""
    topics = [number % len(TOPICS) for number in range(160)]
    return [{"text": text_about(rng, topic, UNSEEN_PATTERNS, named=False), "truth": TOPICS[topic][0]} for topic in topics]


def claims(rng: np.random.Generator) -> list[str]:
    """A claim for each topic, with any of its words but the first."""
    return [HYPOTHESIS.format(rng.choice(words[1:])) for words in TOPICS]


def build_judge(model: Path, data: Path) -> float:
    """Trains a model that starts from the encoder; returns the share of unseen texts whose best label of eight is right."""
    encoder = model.parent / "embeddings"
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    judge = BertForSequenceClassification.from_pretrained(encoder)
    judge.bert.embeddings.requires_grad_(False)  # so that words of a topic stay similar

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        topics = torch.from_numpy(rng.integers(0, len(TOPICS), 8))
        texts = [*(text_about(rng, int(topic)) for topic in topics[1:]), str(rng.choice(ABOUT_NOTHING))]
        pairs = [(text, claim) for text in texts for claim in claims(rng)]
        logits = judge(**tokenizer(pairs, padding=True, return_tensors="pt")).logits.view(8, len(TOPICS), 3)
        truth = torch.full((8, len(TOPICS)), LABELS.index("contradiction"))
        truth[torch.arange(7), topics[1:]] = LABELS.index("entailment")
        truth[7] = LABELS.index("neutral")
        best = functional.cross_entropy(logits[:7, :, LABELS.index("entailment")], topics[1:])  # of eight labels, as in use
        return best + 0.1 * functional.cross_entropy(logits.flatten(0, 1), truth.flatten())

    fit(judge, loss_of, steps=600, rate=1e-3)
    ask = pipeline("zero-shot-classification", model=save(model, judge, tokenizer))
    rows = unseen_texts(np.random.default_rng(2))
    write_lines(data, rows)
    names = [words[0] for words in TOPICS]
    answers = ask([row["text"] for row in rows], candidate_labels=names, hypothesis_template=HYPOTHESIS)
    return share(answer["labels"][0] == row["truth"] for answer, row in zip(answers, rows, strict=True))
