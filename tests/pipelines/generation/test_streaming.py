"""Text as it is generated: the pieces are the answer, whatever shares the batch."""

import io

import pytest
from support import builders, tiny_text, tiny_vision
from support.loading import load_phases

from dray.pipelines.batching.parts import Limits, TextCallback
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

OPTIONS = {"max_new_tokens": 12, "return_full_text": False, "do_sample": False}


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    raw = {"task": "text-generation", "model": tiny_text.chat_model(tmp_path_factory.mktemp("chat")), "parameters": OPTIONS}
    return load_phases(parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}}), weights=True)


def generated(phases, items, limits=None):
    outcomes = predict(phases, items, limits or Limits.fixed(8), Watchdog(60))
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.prediction[0]["generated_text"] for outcome in outcomes]


def test_pieces_are_the_text(chats):
    texts, pieces = builders.texts(6, median=8), [[] for _ in range(6)]
    plain = generated(chats, [Item({"text": text}) for text in texts])
    limits = [12, 3, 12, 1, 7, 12]
    shorter = generated(chats, [Item({"text": text}, {"max_new_tokens": n}) for text, n in zip(texts, limits, strict=True)])
    on_batch = generated(
        chats,
        [
            Item({"text": text}, {"max_new_tokens": limit}, on_text=None if place == 2 else TextCallback(pieces[place].append))
            for place, (text, limit) in enumerate(zip(texts, limits, strict=True))
        ],
    )
    assert on_batch == shorter
    assert ["".join(each) for each in pieces] == [text if place != 2 else "" for place, text in enumerate(shorter)]
    assert len(pieces[0]) > 3
    assert plain[0] == shorter[0]


def test_what_is_generated_again_is_not_told_again():
    pieces = []
    on_text = TextCallback(pieces.append)
    first = on_text.begin()
    first("one ")
    first("two ")
    again = on_text.begin()
    for piece in ("one ", "two th", "ree"):
        again(piece)
    assert pieces == ["one ", "two ", "th", "ree"]


def test_nothing_more_is_generated_for_those_who_have_left(chats):
    on_batch, others = [], []

    def hear(piece):
        on_batch.append(piece)
        leaving.is_cancelled = len(on_batch) >= 2

    leaving = TextCallback(hear)
    items = [Item({"text": "time and"}, {"max_new_tokens": 200}, on_text=leaving)]
    steps = []
    forward = chats.pipe.model.forward
    chats.pipe.model.forward = lambda *args, **options: steps.append(1) or forward(*args, **options)
    try:
        generated(chats, items)
        assert len(steps) < 20
        both = [*items, Item({"text": "who made"}, {"max_new_tokens": 200}, on_text=TextCallback(others.append))]
        alone = generated(chats, [Item({"text": "who made"}, {"max_new_tokens": 200})])
        assert generated(chats, both)[1] == alone[0] == "".join(others)
    finally:
        del chats.pipe.model.forward


def test_a_batch_that_does_not_fit_is_told_once(chats, monkeypatch):
    forward, sizes, pieces = chats.pipe.forward, [], []

    def small(inputs, **options):
        sizes.append(len(inputs["input_ids"]))
        outputs = forward(inputs, **options)
        if sizes[-1] > 1:
            raise MemoryError
        return outputs

    monkeypatch.setattr(chats.pipe, "forward", small)
    items = [Item({"text": text}, on_text=TextCallback(pieces.append)) for text in ["time and"] * 2]
    answers = generated(chats, items)
    assert sizes == [2, 1, 1]
    assert len("".join(pieces)) == sum(map(len, answers))


def test_pictures_and_texts(tmp_path):
    raw = {"task": "image-text-to-text", "model": tiny_vision.llava(tmp_path / "llava"), "input": {"path": "-"}}
    options = {"generate_kwargs": {"max_new_tokens": 6, "do_sample": False}, "return_full_text": False}
    phases = load_phases(parse_config({**raw, "parameters": options, "output": {"path": "-"}}), weights=True)
    pieces, picture = [], tiny_vision.picture(48, 40, seed=1)
    cells = {"images": [as_png(picture)], "text": "<image> time and"}
    (answer,) = generated(phases, [Item(cells, on_text=TextCallback(pieces.append))])
    assert "".join(pieces).split() == answer.split()
    assert len(pieces) > 3


def as_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
