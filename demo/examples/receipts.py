"""The example `documents`: printed receipts with their words and places, and questions about them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Regex, normalizers
from transformers import LayoutLMConfig, LayoutLMForQuestionAnswering, PreTrainedTokenizerFast, pipeline

from demo.examples.training import fit, save, share, word_pieces, words

WIDTH, HEIGHT, MARGIN = 600, 560, 40  # pixels
FONT = ImageFont.load_default(26)
SHOPS = words("Becker Novak Olsen Garcia Moreau Tanaka Weber Rossi Hansen Keller Lopez Fischer Jansen Evans Costa")
TRADES = words("Foods Books Garden Market Bakery Tools Shoes Coffee")
GOODS = words("Bread Milk Apples Coffee Tea Rice Soap Paper Lamp Chair Pens Cheese Butter Honey Salt Oil Eggs Flour")
QUESTIONS = {
    "seller": ("Who is the seller?", "What is the name of the shop?"),
    "date": ("What is the date?", "When was it bought?"),
    "number": ("What is the receipt number?", "Which number has the receipt?"),
    "total": ("What is the total?", "How much was paid in total?"),
    "tax": ("How much is the tax?", "What is the tax?"),
}

Place = tuple[int, int, int, int]  # left, top, right, bottom
Row = dict[str, object]


@dataclass(frozen=True)
class Receipt:
    """A receipt: one page.

    Attributes:
        words: the words, each with its place in pixels.
        answers: key of QUESTIONS -> places of the first and last word of its answer; other keys are not used.
    """

    words: list[tuple[str, Place]]
    answers: dict[str, tuple[int, int]]

    def boxes(self, rng: np.random.Generator | None = None) -> list[tuple[str, list[int]]]:
        """The words with their places on a page of 1000 by 1000; with `rng` the places have errors like those of OCR."""
        noise = rng.normal(0, 2.5, (len(self.words), 4)).astype(int) if rng else np.zeros((len(self.words), 4), int)
        page = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
        places = (1000 * (np.array([place for _, place in self.words]) + noise) // page).clip(0, 1000)
        return [(word, box) for (word, _), box in zip(self.words, places.tolist(), strict=True)]

    def image(self) -> Image.Image:
        """The printed page."""
        page = Image.new("RGB", (WIDTH, HEIGHT), "white")
        pen = ImageDraw.Draw(page)
        for word, (left, top, _, _) in self.words:
            pen.text((left, top), word, fill="black", font=FONT, anchor="lt")
        return page


def receipt(rng: np.random.Generator) -> Receipt:
    """A random receipt: a shop, a number and a date in either order, two to four goods, tax and total."""
    prices = np.round(rng.uniform(0.5, 90, int(rng.integers(2, 5))), 2)
    tax = round(float(prices.sum()) * 0.2, 2)
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(2015, 2027)
    head = [
        ("number", str(rng.choice(["Receipt", "Number", "Receipt no."])), f"{rng.integers(1000, 99999)}"),
        ("date", str(rng.choice(["Date", "Bought on"])), f"{year}-{month:02}-{day:02}"),
    ]
    rng.shuffle(head)
    goods = [("", str(good), f"{price:.2f}") for good, price in zip(rng.choice(GOODS, len(prices)), prices, strict=True)]
    foot = [("tax", "Tax", f"{tax:.2f}"), ("total", str(rng.choice(["Total", "Total EUR"])), f"{prices.sum() + tax:.2f}")]
    return printed(f"{rng.choice(SHOPS)} {rng.choice(TRADES)}", [*head, *goods, *foot], rng)


def printed(shop: str, lines: list[tuple[str, str, str]], rng: np.random.Generator) -> Receipt:
    """The receipt with the shop's name and lines of (key, label, value), values at the right edge.

    In one of three receipts the words come column by column, like those of OCR that reads the values as a column.
    """
    step = int(rng.integers(46, 56))
    tops = [MARGIN + step * number for number in range(1, len(lines) + 1)]
    labels = [("", label, MARGIN, top) for (_, label, _), top in zip(lines, tops, strict=True)]
    edge = WIDTH - MARGIN
    values = [(key, value, edge - int(FONT.getlength(value)), top) for (key, _, value), top in zip(lines, tops, strict=True)]
    by_line = [text for pair in zip(labels, values, strict=True) for text in pair]
    placed: list[tuple[str, Place]] = []
    answers: dict[str, tuple[int, int]] = {}
    for key, text, left, top in [("seller", shop, MARGIN, MARGIN), *([*labels, *values] if rng.random() < 1 / 3 else by_line)]:
        first = len(placed)
        for word in text.split():
            _, _, right, bottom = FONT.getbbox(word, anchor="lt")
            placed.append((word, (left, top, left + int(right), top + int(bottom))))
            left += int(right) + 10
        answers[key] = (first, len(placed) - 1)
    return Receipt(placed, answers)


def batch(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
    """The model's inputs and labels for random questions, each about another random receipt."""
    pages = [receipt(rng) for _ in range(size)]
    keys = [str(rng.choice(list(QUESTIONS))) for _ in pages]
    questions = [str(rng.choice(QUESTIONS[key])).split() for key in keys]
    texts = [[word for word, _ in page.words] for page in pages]
    inputs = tokenizer(questions, texts, is_split_into_words=True, padding=True, return_tensors="pt")
    places, starts, ends = [], [], []
    for row, (page, key) in enumerate(zip(pages, keys, strict=True)):
        owners = [
            word if part == 1 else None for word, part in zip(inputs.word_ids(row), inputs.sequence_ids(row), strict=True)
        ]
        boxes = [box for _, box in page.boxes(rng)]
        separators = (inputs["input_ids"][row] == tokenizer.sep_token_id).tolist()
        places.append(
            [boxes[word] if word is not None else [1000 * sep] * 4 for word, sep in zip(owners, separators, strict=True)]
        )
        first, last = page.answers[key]
        starts.append(owners.index(first))
        ends.append(len(owners) - 1 - owners[::-1].index(last))
    answers = {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}
    return {**inputs, "bbox": torch.tensor(places), **answers}


@torch.no_grad()
def start_as_waves(embeddings: torch.nn.Module) -> None:
    """Sets the embeddings of places to waves, so that near places have similar embeddings before the training."""
    for name in ("position", "x_position", "y_position"):
        weight = getattr(embeddings, f"{name}_embeddings").weight
        places, hidden = weight.shape
        angles = torch.arange(places)[:, None] * 0.5 / 1.25 ** torch.arange(hidden // 2)
        weight.copy_(0.05 * torch.cat([angles.sin(), angles.cos()], 1))


def rows_of(page: Receipt, name: str) -> list[Row]:
    """The rows of a receipt, one for each question."""
    file = io.BytesIO()
    page.image().save(file, "PNG")
    image = {"bytes": file.getvalue(), "path": f"{name}.png"}
    places = [{"word": word, "box": box} for word, box in page.boxes()]
    answers = {key: " ".join(word for word, _ in page.words[first : last + 1]) for key, (first, last) in page.answers.items()}
    return [
        {"image": image, "question": question, "words": places, "truth": answers[key]}
        for key, (question, _) in QUESTIONS.items()
    ]


def build(model: Path, data: Path) -> float:
    """Trains the model and writes 20 receipts with five questions each; returns the share answered rightly, from the words."""
    rng = np.random.default_rng(1)
    questions = [question for both in QUESTIONS.values() for question in both]
    pages = [receipt(rng) for _ in range(1000)]
    one_number = normalizers.Sequence([normalizers.Replace(Regex("[0-9]+"), "0"), normalizers.BertNormalizer()])
    tokenizer = word_pieces([*questions * 20, *(" ".join(word for word, _ in page.words) for page in pages)], one_number)
    config = LayoutLMConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=256,
    )
    reader = LayoutLMForQuestionAnswering(config)
    start_as_waves(reader.layoutlm.embeddings)
    fit(reader, lambda rng: reader(**batch(tokenizer, rng, 16)).loss, steps=1300, rate=2e-3)
    receipts = [receipt(rng) for _ in range(20)]
    rows = [row for number, page in enumerate(receipts) for row in rows_of(page, f"receipt-{number:02}")]
    data.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), data / "receipts.parquet")
    ask = pipeline("document-question-answering", model=save(model, reader, tokenizer))
    known = [[(word, box) for word, box in page.boxes()] for page in receipts for _ in QUESTIONS]
    answers = [ask(image=None, question=row["question"], word_boxes=boxes) for row, boxes in zip(rows, known, strict=True)]
    return share(answer[0]["answer"] == row["truth"] for answer, row in zip(answers, rows, strict=True))
