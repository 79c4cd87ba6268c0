"""Trains the models of the configs: `python -m demo.examples` trains all, with names as arguments only those."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from demo.examples import digits, entities, orders, receipts, sentiment, topics


@dataclass(frozen=True)
class Example:
    """A model and the data to run it on.

    Attributes:
        what: a description of the model.
        measure: what is counted on data that the model has not seen.
        build: (model folder, data folder) -> the share that is right.
    """

    what: str
    measure: str
    build: Callable[[Path, Path], float]


# The order matters: zero-shot starts from embeddings.
EXAMPLES = {
    "sentiment": Example("BERT, reviews", "reviews judged rightly", sentiment.build),
    "embeddings": Example("BERT, texts of eight topics", "nearest texts of the same topic", topics.build_encoder),
    "zero-shot": Example("BERT, from embeddings", "topics found by names never asked for", topics.build_judge),
    "entities": Example("BERT, people, places, dates", "sentences with every entity right", entities.build),
    "images": Example("ViT, handwritten digits", "digits read rightly", digits.build),
    "documents": Example("LayoutLM, receipts", "questions answered rightly", receipts.build),
    "generation": Example("Llama, orders to JSON", "orders right to the letter", orders.build),
}


def main() -> None:
    """Builds the examples whose models do not exist yet, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*EXAMPLES, []], metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--folder", type=Path, default=Path("output/examples"), help="for models and data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in arguments.names or EXAMPLES:
        make(name, arguments.folder)


def make(name: str, folder: Path) -> None:
    """Builds one example, unless its model exists. The model's folder appears when everything is done."""
    example, model, data = EXAMPLES[name], folder / "models" / name, folder / "data" / name
    if model.exists():
        print(f"  {name:<11} is there: {model}")
        return
    started = time.perf_counter()
    unfinished = model.with_suffix(".unfinished")
    for leftover in (unfinished, data):
        shutil.rmtree(leftover, ignore_errors=True)
    torch.manual_seed(0)
    right = example.build(unfinished, data)
    unfinished.rename(model)
    seconds = time.perf_counter() - started
    print(f"  {name:<11} {example.what:<28} {seconds:4.0f} s   {right:.3f} {example.measure}", flush=True)


if __name__ == "__main__":
    main()
