"""Texts, chats and JSON, few of them well."""

import json
from collections.abc import Callable

from support import builders
from support.fuzz_inputs import Made, Rng, noise, pick, spoilt, valid
from support.fuzz_media import picture_file


def letters(rng: Rng, longest: int = 300) -> str:
    """Any characters but surrogates."""
    points = rng.integers(0, rng.choice([0x80, 0x300, 0xD800, 0x110000]), int(rng.integers(longest)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def text(rng: Rng) -> Made:
    if rng.random() < 0.01:
        return pick(
            rng,
            {
                "10 MB, one word": lambda: "a" * 10_000_000,
                "10 MB of emoji": lambda: "\U0001f600" * 2_500_000,
                "10 MB of spaces": lambda: " " * 10_000_000,
            },
        )
    kinds = {
        "sound": lambda: builders.text(rng, int(rng.integers(1, 40))),
        "empty": lambda: "",
        "blank": lambda: " \t\n\u2028\u200b" * int(rng.integers(5)),
        "any letters": lambda: letters(rng),
        "controls": lambda: "".join(map(chr, rng.integers(0, 32, 50))),
        "special tokens": lambda: "[CLS][SEP][PAD][MASK]<|end|><|user|><image><s></s>" * int(rng.integers(1, 9)),
        "marks upon marks": lambda: "e" + "\u0301" * int(rng.integers(5000)),
        "too many words": lambda: builders.text(rng, int(rng.integers(500, 3000))),
        "one long word": lambda: "a" * int(rng.integers(200_000)),
        "not UTF-8": lambda: noise(rng) + b"\xff",
        "a lone surrogate": lambda: "the \ud800 of".encode("utf-8", "surrogatepass"),
        "a lone surrogate, escaped": lambda: '{"text": "\\ud800"}',
        "template": lambda: "{{ 7 * '7' }}{% for a in range(10**9) %}x{% endfor %}",
        "null": lambda: None,
    }
    return pick(rng, kinds)


def long_text(rng: Rng) -> Made:
    """For models that know how long a text may be."""
    return ("10 MB of words", "the of " * 1_500_000) if rng.random() < 0.001 else text(rng)


def chat(rng: Rng) -> Made:
    kind, content = valid(text(rng))
    role = str(rng.choice(["user", "system", "assistant", "tool", "", "no such role"]))
    kinds = {
        f"content: {kind}": lambda: [{"role": "user", "content": content}],
        "odd role": lambda: [{"role": role, "content": "the"}],
        "no messages": list,
        "null message": lambda: [None],
        "null role": lambda: [{"role": None, "content": "the"}],
        "many messages": lambda: [{"role": "user", "content": "who"}] * int(rng.integers(100)),
        "null": lambda: None,
    }
    return pick(rng, kinds)


def parts(rng: Rng) -> Made:
    kind, content = valid(text(rng))
    kinds = {
        f"text: {kind}": lambda: [{"type": "text", "text": content}],
        "no parts": list,
        "null part": lambda: [None],
        "unknown type": lambda: [{"type": letters(rng), "text": "the"}],
        "null type": lambda: [{"type": None, "text": "the"}],
        "an image for a text model": lambda: [{"type": "image", "image": picture_file(rng)[1]}],
        "an image that is null": lambda: [{"type": "image", "image": None}],
        "null": lambda: None,
    }
    kind, content = pick(rng, kinds)
    return kind, [{"role": "user", "content": content}]


def deep(rng: Rng) -> str:
    depth = int(rng.choice([10, 300, 900, 1100, 5000, 1_000_000]))
    opening, closing = [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")][int(rng.integers(3))]
    return opening * depth + "1" + closing * (depth if rng.random() < 0.8 else 0)


def json_like(sound: object) -> Callable[[Rng], Made]:
    """JSON that is to be like `sound`, and mostly is not."""

    def make(rng: Rng) -> Made:
        good = json.dumps(sound)
        if rng.random() < 0.3:
            kind, data = spoilt(rng, good.encode())
            return f"JSON, {kind}", data
        kinds = {
            "sound": lambda: good,
            "deep": lambda: deep(rng),
            "deep inside": lambda: json.dumps([sound, "DEEP"]).replace('"DEEP"', deep(rng)),
            "no JSON": lambda: letters(rng),
            "a scalar": lambda: str(rng.choice(["1", "null", '"a"', "NaN", "-Infinity", "1e999", "true"])),
            "nothing in it": lambda: str(rng.choice(["[]", "{}", "[[]]", "[{}]", '{"a": {}}', '{"a": []}'])),
            "digits": lambda: "[" + "1" * int(rng.choice([300, 5000, 1_000_000])) + "]",
            "lone surrogates": lambda: good.replace("a", "\\ud800").replace('"', '"\\udfff', 1),
            "surrogate keys": lambda: '{"\\ud800": ["\\udfff"], "b": ["c"]}',
            "records without common keys": lambda: json.dumps([{f"k{i}": i} for i in range(int(rng.choice([20, 5000])))]),
            "columns without common keys": lambda: json.dumps({f"k{i}": {f"r{i}": i} for i in range(3000)}),
            "different lengths": lambda: '{"a": [1, 2], "b": [1]}',
            "long": lambda: json.dumps([sound] * int(rng.choice([10, 2000]))),
            "a long string": lambda: json.dumps([{"word": "a" * int(rng.choice([1000, 10_000_000])), "box": [0, 0, 1, 1]}]),
            "the same key again": lambda: "{" + '"a": ["b"], ' * 1000 + '"a": ["c"]}',
            "empty": lambda: "",
        }
        return pick(rng, kinds)

    return make
