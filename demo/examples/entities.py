"""The example `entities`: people, organisations, places and dates in sentences like those of a newspaper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import normalizers
from transformers import BertForTokenClassification, pipeline

from demo.examples.training import IGNORED, bert, fit, invented, save, share, word_pieces, words, write_lines

KINDS = ("PER", "ORG", "LOC", "DATE")
LABELS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BI"))
FIRST = words("Anna Ben Carla David Elena Frank Grace Henry Irene Jonas Luis Maria Nina Oscar Paula Robert Sofia Thomas Vera")
LAST = words("Adams Becker Costa Dubois Evans Fischer Garcia Hansen Ito Jansen Keller Lopez Meyer Novak Olsen Peters Rossi")
TOWNS = words("London Paris Madrid Vienna Oslo Tokyo Lima Cairo Dublin Athens Boston Geneva Hamburg Mumbai Seoul Kenya Spain")
TRADES = words("Bank Motors University Airlines Systems Foods Group Institute Energy Software")
UNSEEN = {
    "first": words("Linda Marco Priya Stefan Yusuf Astrid"),
    "last": words("Lindqvist Moreau Okafor Tanaka Weber Zhang"),
    "town": words("Lisbon Prague Nairobi Toronto Warsaw Chile"),
}
MONTHS = words("January February March April May June July August September October November December")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
SUBJECTS = (
    "{PER}",
    "{PER} and {PER}",
    "{PER} of {ORG}",
    "the head of {ORG}",
    "the head of {ORG} , {PER} ,",
    "the mayor of {LOC} , {PER} ,",
    "{ORG}",
    "the company {ORG}",
    "someone from {LOC}",
    "the train from {LOC} to {LOC}",
    "nobody",
)
VERBS = (
    "worked for {ORG}",
    "joined {ORG}",
    "met {PER}",
    "moved from {LOC} to {LOC}",
    "arrived late",
    "opened a new office",
    "was born",
    "has bought {ORG} and {ORG}",
    "was thanked by {PER}",
    "has been led by {PER}",
    "said little about {PER}",
    "spoke of {LOC}",
)
PLACES = ("", "in {LOC}", "near {LOC}")
TIMES = ("", "on {DATE}", "since {DATE}", "until {DATE}")

Span = tuple[str, str]  # text, kind; the kind is empty for other words


def named(rng: np.random.Generator, kind: str, unseen: bool) -> str:
    """A random entity of a kind; `unseen` chooses from names kept out of training."""

    def pick(group: str, known: list[str]) -> str:
        if unseen:
            return str(rng.choice(UNSEEN[group]))
        return str(rng.choice(known)) if rng.random() < 0.3 else invented(rng).capitalize()

    if kind == "PER":
        return pick("first", FIRST) + (f" {pick('last', LAST)}" if rng.random() < 0.7 else "")
    if kind == "LOC":
        return pick("town", TOWNS)
    if kind == "ORG":
        return f"{pick('last', LAST)} {rng.choice(TRADES)}"
    date = f"{rng.integers(1, 32)} {rng.choice(MONTHS)}"
    return str(rng.choice([date, f"{date} {rng.integers(1950, 2030)}", str(rng.choice(DAYS))]))


def sentence(rng: np.random.Generator, unseen: bool = False) -> list[Span]:
    """The spans of a random sentence: one for each entity, and one for each other word, some of which are invented.

    One in six combinations of subject and verb is kept out of training; `unseen` draws from these.
    """
    subject, verb = int(rng.integers(len(SUBJECTS))), int(rng.integers(len(VERBS)))
    if ((subject + verb) % 6 == 0) != unseen:
        return sentence(rng, unseen)
    parts = [SUBJECTS[subject], VERBS[verb], str(rng.choice(PLACES))]
    parts.insert(int(rng.choice([0, 3])), str(rng.choice(TIMES)))
    words = " ".join([*parts, "."]).split()
    words[0] = words[0] if words[0].startswith("{") else words[0].capitalize()
    spans = []
    for word in words:
        kind = word.strip("{}") if word.startswith("{") else ""
        replaced = not unseen and word.islower() and rng.random() < 0.1
        spans.append((named(rng, kind, unseen) if kind else invented(rng) if replaced else word, kind))
    return spans


def joined(spans: list[Span]) -> str:
    """The sentence as text."""
    return " ".join(text for text, _ in spans).replace(" ,", ",").replace(" .", ".")


def entities(spans: list[Span]) -> list[dict[str, str]]:
    """The entities of a sentence, in order."""
    return [{"entity_group": kind, "word": text} for text, kind in spans if kind]


def label_ids(spans: list[Span], text: str, offsets: list[tuple[int, int]]) -> list[int]:
    """The label id of each token, by its place in the text; IGNORED for special tokens."""
    labels, end = ["O"] * len(text), 0
    for word, kind in spans:
        start = text.index(word, end)
        end = start + len(word)
        if kind:
            labels[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (len(word) - 1)
    return [LABELS.index(labels[start]) if end > start else IGNORED for start, end in offsets]


def build(model: Path, data: Path) -> float:
    """Trains the model and writes 200 sentences with unseen patterns and names; returns the share with exactly the entities."""
    rng = np.random.default_rng(1)
    tokenizer = word_pieces([joined(sentence(rng)) for _ in range(4000)], normalizers.BertNormalizer(lowercase=False))
    tagger = BertForTokenClassification(bert(tokenizer, LABELS))

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        drawn = [sentence(rng) for _ in range(32)]
        texts = [joined(spans) for spans in drawn]
        inputs = tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
        offsets = inputs.pop("offset_mapping").tolist()
        labels = [label_ids(*each) for each in zip(drawn, texts, offsets, strict=True)]
        return tagger(**inputs, labels=torch.tensor(labels)).loss

    fit(tagger, loss_of, steps=1000, rate=1e-3)
    tag = pipeline("token-classification", model=save(model, tagger, tokenizer), aggregation_strategy="simple")
    drawn = [sentence(rng, unseen=True) for _ in range(200)]
    write_lines(data, ({"text": joined(spans), "truth": entities(spans)} for spans in drawn))
    found = tag([joined(spans) for spans in drawn])
    return share(
        [(each["entity_group"], joined(spans)[each["start"] : each["end"]]) for each in answer]
        == [(each["entity_group"], each["word"]) for each in entities(spans)]
        for answer, spans in zip(found, drawn, strict=True)
    )
