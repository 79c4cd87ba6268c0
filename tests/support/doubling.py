"""Phases without a model."""

from __future__ import annotations

from types import SimpleNamespace

from dray.pipelines.batching.parts import Part
from dray.pipelines.phases.item import Item as Item


def item_of(numbers, options=None):
    return Item({"x": numbers}, options or {})


class Doubling:
    """Items are lists of numbers, a part each; the model doubles; 13 makes it fail, 666 makes preprocessing fail."""

    batches_at_once = 1
    is_shareable = True

    def __init__(self):
        self.pipe = SimpleNamespace(tokenizer=None)
        self.batches = []

    def copy_with_shared_weights(self):
        return self

    def fetched(self, item):
        return item

    def preprocess(self, item):
        for number in item.values["x"]:
            if number == 666:
                raise UnicodeError("bad row")
            yield Part({"x": number}, cost=number, seconds=1.0)

    def stage(self, parts):
        pass

    def unstage(self):
        pass

    def forward(self, parts):
        numbers = [part.inputs["x"] for part in parts]
        self.batches.append(numbers)
        if 13 in numbers:
            raise ValueError("13 in the batch")
        return [{"y": 2 * number} for number in numbers]

    def postprocess(self, outputs, item):
        if item.options.get("fail"):
            raise KeyError("postprocess")
        return [output["y"] for output in outputs]
