"""One pipeline's tokenizer, used by several threads: tokenizers keep how to cut from one call to the next."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import builders
from support.loading import load

from dray.pipelines.phases.item import Item

ROUNDS = 20


def hesitant(phases):
    """The same, its tokenizer stopping between being told how to cut and cutting: others get in between if they can."""
    tokenizer = phases.pipe.tokenizer
    told = tokenizer.set_truncation_and_padding

    def tell(*arguments, **named):
        told(*arguments, **named)
        time.sleep(0.002)

    tokenizer.set_truncation_and_padding = tell
    return phases


@pytest.fixture
def classifier(models):
    return hesitant(load(models.text_classifier, "text-classification"))


def together(*works):
    """What each gives, all at once."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [each.result(60) for each in [threads.submit(work) for work in works]]


def test_threads_share_a_tokenizer(classifier):
    tokenizer, text = classifier.pipe.tokenizer, " ".join(["time and water"] * 20)

    def tokens(longest):
        return lambda: {len(tokenizer(text, truncation=True, max_length=longest)["input_ids"]) for _ in range(ROUNDS)}

    assert together(*map(tokens, [10, 20, 30, 40])) == [{10}, {20}, {30}, {40}]


def test_rows_are_cut_each_as_it_asks(classifier):
    text = " ".join(builders.texts(1, median=40))

    def costs(length):
        item = Item({"text": text}, {"truncation": True, "max_length": length})
        return lambda: {part.cost for _ in range(ROUNDS) for part in classifier.preprocess(item)}

    assert together(costs(4), costs(16)) == [{4}, {16}]
