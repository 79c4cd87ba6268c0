"""The example `sentiment`: positive and negative reviews of a sentence or two; `not` and `but` reverse them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BertForSequenceClassification, pipeline

from demo.examples.training import bert, fit, invented, save, share, word_pieces, words, write_lines

NOUNS = words(
    "room hotel breakfast kitchen service staff garden view bed pool beach film story ending cast music actor script book "
    "plot author chapter phone screen battery camera keyboard case charger laptop cable printer coffee soup bread pizza "
    "pasta sauce dessert wine menu waiter table price delivery box jacket shoe dress colour fabric zip size bag game level "
    "sound picture tent bike saddle helmet course teacher lesson museum guide tour boat"
)
UNSEEN_NOUNS = words("mattress burger novel headset sofa concert lamp ferry salad watch")
ADJECTIVES = (
    words(
        "bad terrible awful boring cheap dirty slow rude broken ugly useless cold disappointing dull noisy poor sad stale weak "
        "wrong annoying clumsy dreadful flimsy horrible lazy mediocre painful tasteless unpleasant"
    ),
    words(
        "good great wonderful exciting solid clean fast friendly perfect beautiful useful warm impressive clever quiet rich "
        "funny fresh strong right pleasant elegant superb sturdy lovely careful brilliant comfortable delicious charming"
    ),
)
VERBS = (
    words("hated regret disliked returned avoided"),
    words("loved enjoyed adored recommend liked"),
)
OPENINGS = (
    "",
    "",
    "honestly, ",
    "in the end ",
    "I must say, ",
    "after a week ",
    "as far as I know, ",
    "people say that ",
    "yes, ",
)
UNSEEN_OPENINGS = ("", "yes, I must say, ", "honestly, after a week ", "in the end people say that ")
BY_ADJECTIVE = (
    "the {noun} was {adjective}",
    "this {noun} is {adjective}",
    "the {noun} turned out {adjective}",
    "I found the {noun} {adjective}",
    "my {noun} was {adjective} from the first day",
    "everything about that {noun} felt {adjective}",
    "the {noun} looks {adjective} to me",
    "they call the {noun} {adjective} and they know why",
    "{adjective} is the word for this {noun}",
)
UNSEEN_BY_ADJECTIVE = (
    "to me the {noun} felt {adjective} and I know why",
    "everything looks {adjective} in that {noun}",
    "they found my {noun} {adjective} the other day",
)
BY_VERB = ("I {verb} the {noun}", "we {verb} this {noun}", "all of us {verb} that {noun} from the first day")
UNSEEN_BY_VERB = ("people {verb} my {noun} and I know why",)
STRENGTHS = ("", "", "", "very ", "really ", "so ", "quite ", "truly ")
LABELS = ("NEGATIVE", "POSITIVE")


def clause(rng: np.random.Generator, positive: bool, unseen: bool) -> str:
    """A random opinion; `unseen` uses words and patterns kept out of training."""
    opening = rng.choice(UNSEEN_OPENINGS if unseen else OPENINGS)
    noun = rng.choice(UNSEEN_NOUNS) if unseen else invented(rng) if rng.random() < 0.3 else rng.choice(NOUNS)
    if rng.random() < 0.25:
        pattern = rng.choice(UNSEEN_BY_VERB if unseen else BY_VERB)
        return str(opening + pattern.format(noun=noun, verb=rng.choice(VERBS[positive])))
    pattern = rng.choice(UNSEEN_BY_ADJECTIVE if unseen else BY_ADJECTIVE)
    if rng.random() < 0.25:
        adjective = rng.choice(["not ", "anything but ", "never "]) + rng.choice(ADJECTIVES[not positive])
    else:
        adjective = rng.choice(STRENGTHS) + rng.choice(ADJECTIVES[positive])
    return str(opening + pattern.format(noun=noun, adjective=adjective))


def review(rng: np.random.Generator, positive: bool, unseen: bool = False) -> str:
    """A random review: one clause, two that agree, or two with `but`, of which the second counts."""
    last = clause(rng, positive, unseen)
    kind = rng.random()
    if kind < 0.5:
        text = last
    elif kind < 0.7:
        text = f"{clause(rng, positive, unseen)} and {last}"
    else:
        text = f"{clause(rng, not positive, unseen)}, but {last}"
    return text[0].upper() + text[1:] + str(rng.choice([".", ".", "!"]))


def build(model: Path, data: Path) -> float:
    """Trains the model and writes 200 reviews with nouns and patterns kept out; returns the share judged rightly."""
    rng = np.random.default_rng(1)
    tokenizer = word_pieces([review(rng, bool(number % 2)) for number in range(4000)])
    classifier = BertForSequenceClassification(bert(tokenizer, LABELS))

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        labels = rng.integers(0, 2, 32)
        inputs = tokenizer([review(rng, bool(label)) for label in labels], padding=True, return_tensors="pt")
        return classifier(**inputs, labels=torch.from_numpy(labels)).loss

    fit(classifier, loss_of, steps=600, rate=5e-4)
    judge = pipeline("text-classification", model=save(model, classifier, tokenizer))
    rows = [{"text": review(rng, bool(number % 2), unseen=True), "truth": LABELS[number % 2]} for number in range(200)]
    write_lines(data, rows)
    return share(judge(row["text"])[0]["label"] == row["truth"] for row in rows)
