"""One tiny model or more for every pipeline task, with inputs and the call a user would write by hand."""

import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch

from dray.pipelines.tasks.table import TASKS
from support import tiny_audio as audio
from support import tiny_text as text
from support import tiny_vision as vision
from support.builders import ctc, entailment, sound, text_classifier, text_encoder, texts, whisper
from support.tiny_text import boxes, page
from support.tiny_vision import film, picture

Item = dict[str, object]
Items = Callable[[], list[Item]]
Call = Callable[[Callable[..., object], Item, dict[str, object]], object]


def given(*names: str) -> Call:
    """A call with the arguments `names` by position. What an item gives overrides the parameters."""

    def call(pipe, item, parameters):
        named = {key: value for key, value in item.items() if key not in names}
        return pipe(*(item[name] for name in names), **{**copy.deepcopy(parameters), **named})

    return call


@dataclass(frozen=True)
class Case:
    """A task's model, its inputs as argument name -> value, the arguments of all calls, and the call itself."""

    task: str
    build: Callable[[Path], str]
    items: Items
    parameters: dict[str, object] = field(default_factory=dict)
    call: Call = lambda pipe, item, parameters: pipe(**{**copy.deepcopy(parameters), **item})
    unavailable: str | None = None


def prose(*extra: str, seed: int = 0, median: float = 12.0, longest: int = 60) -> Items:
    return lambda: [{"text": each} for each in [*texts(6, seed, median, 0.8, longest), *extra]]


def each(name: str, values: Callable[[], list[object]], **more: list[object]) -> Items:
    """Items of one argument, and of others that have a value for each item."""
    return lambda: [dict(zip([name, *more], row, strict=True)) for row in zip(values(), *more.values(), strict=True)]


def sounds() -> list[object]:
    return [sound(seconds, seed) for seed, seconds in enumerate((0.5, 1.3, 3.4, 0.9, 2.1, 0.3))]


def pictures() -> list[object]:
    shapes = [(48, 40, "RGB"), (30, 60, "L"), (64, 64, "RGBA"), (80, 33, "RGB"), (48, 40, "RGB"), (17, 21, "RGB")]
    return [picture(*shape, seed) for seed, shape in enumerate(shapes)]


def pairs() -> list[object]:
    images = pictures()
    return [[one, other] for one, other in zip(images, [*images[2:], images[0], images[0]], strict=True)]


def films() -> list[object]:
    shapes = [(8, 48, 32), (5, 32, 64), (4, 64, 64), (12, 48, 32), (9, 80, 48)]
    return [film(*shape, seed) for seed, shape in enumerate(shapes)]


def watchdog(pipe, item, parameters):
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(item["video"])
        file.flush()
        return pipe(file.name, **parameters)


def decide(pipe, item, parameters):
    return pipe(item, **parameters)


def masks() -> list[Item]:
    one = [{"text": f"{before} [MASK] {after}"} for before, after in zip(texts(4, 1, 5), texts(4, 2, 5), strict=True)]
    return [*one, {"text": "[MASK]"}, {"text": "the [MASK] of all [MASK] words"}, {"text": "[MASK] [MASK] how"}]


def said(*contents: object) -> list[Item]:
    """A chat whose turns alternate, beginning with the user's."""
    return [{"role": ("user", "assistant")[turn % 2], "content": content} for turn, content in enumerate(contents)]


def chats() -> list[object]:
    a, b, c, d, e = texts(5, 7, 8.0, 0.6, 30)
    system = [{"role": "system", "content": "all words are just words"}]
    return [said(a), [*system, *said(b)], said(c, d, e), said("who"), [*system, *said(a, b, "no more")]]


def tables() -> list[Item]:
    people = {"people": ["many", "some", "her"], "time": ["12", "7", "30"], "words": ["long", "little", "now"]}
    water = {"water": ["up", "down"], "use": ["4", "5"]}
    one = {"way": ["out"]}
    queries = texts(6, 3, 6.0, 0.5, 20)
    return [{"table": t, "query": q} for t, q in zip([people, water, people, one, water, people], queries, strict=True)]


def documents(known: bool = True) -> Items:
    """Documents whose words are given, or else are given for two of them and read by OCR from the others."""

    def items():
        bodies, questions = texts(5, 4, 20.0, 0.6, 60), texts(5, 5, 5.0, 0.4, 10)
        rows = [{"image": page(body), "question": q} for body, q in zip(bodies, questions, strict=True)]
        return [
            {**row, "word_boxes": boxes(body)} if known or index in (1, 3) else row
            for index, (row, body) in enumerate(zip(rows, bodies, strict=True))
        ]

    return items


def decisions() -> list[Item]:
    noul = {"type": "noul", "instructions": "is there more water"}
    choice = {"type": "choice", "instructions": "which way", "criteria": {"up": "they go up", "down": None, "out": None}}
    score = {"type": "score", "instructions": "how long", "criteria": ["little", "some", "very long"]}
    asked = [{"a": noul}, {"b": choice}, {"c": score}, {"a": noul, "b": choice, "c": score}, {"b": choice, "a": noul}]
    states = [*texts(3, 6, 8.0, 0.6, 30), json.dumps({"people": "many", "words": ["we", "they"]}), ""]
    return [{"state": state, "questions": questions} for state, questions in zip(states, asked, strict=True)]


def looks() -> list[Item]:
    prompts = ["<image> who are they", "the <image> that was", "<image>", "<image> and <image> now", "how long is <image>"]
    images = pictures()
    seen = [images[0], images[1], images[2], [images[3], images[4]], images[5]]
    return [{"images": image, "text": prompt} for image, prompt in zip(seen, prompts, strict=True)]


def look_lengths() -> list[Item]:
    return [{**item, "max_new_tokens": amount} for item, amount in zip(looks(), AMOUNTS, strict=False)]


def shown(kind: str, value: object, words: str) -> list[Item]:
    return [{"type": kind, kind: value}, {"type": "text", "text": words}]


def image_chats() -> list[object]:
    words, images = texts(5, 8, 5.0, 0.5, 12), pictures()
    chats = [said(shown("image", image, each)) for image, each in zip(images, words, strict=False)]
    chats[3] += said([], [{"type": "text", "text": "they are up"}])[1:] + said([{"type": "text", "text": "what time"}])
    return chats


def on_batch() -> list[Item]:
    prompts = ["<|AUDIO|> who is it", "the <|AUDIO|> that was", "<|AUDIO|>", "how long is <|AUDIO|>"]
    spoken = [{"text": prompt, "audio": sound(0.4 + seed / 3, seed)} for seed, prompt in enumerate(prompts)]
    return [*spoken, {"text": "no more words"}]


def audio_chats() -> list[object]:
    words = texts(5, 9, 5.0, 0.5, 12)
    return [said(shown("audio", sound(0.4 + seed / 3, seed), each)) for seed, each in enumerate(words)]


CASES: dict[str, Case] = {}


@functools.cache
def seeded(build: Callable[[Path], str]) -> Callable[[Path], str]:
    """`build` with all its randomness fixed; the same object for the same `build`."""

    def fixed(folder):
        torch.manual_seed(0)
        return build(folder)

    return fixed


def add(name: str, build: Callable[[Path], str], items: Items, parameters: Item | None = None, *rest: object) -> None:
    """Adds a case whose name begins with its task."""
    task = max((task for task in TASKS if name.startswith(task)), key=len)
    CASES[name] = Case(task, seeded(build), items, parameters or {}, *rest)


def missing(module: str, program: str | None = None) -> str | None:
    """Why a case cannot run here."""
    if find_spec(module) is None:
        return f"needs {module}"
    return f"needs {program}" if program and not shutil.which(program) else None


GREEDY = {"do_sample": False, "max_new_tokens": 8}
NEW = {"return_full_text": False}
NESTED = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 6}}
SHORT = {"generate_kwargs": {"max_new_tokens": 12}}
LABELS = ["people", "long water", "time"]
SAME = {"candidate_labels": LABELS, "hypothesis_template": "this is {}"}
OWN = {"candidate_labels": [LABELS, ["way"], ["find", "no"], LABELS[::-1], ["now", "then", "who", "out"], ["her", "like her"]]}
AMOUNTS = [1, 5, 3, 12, 8, 2]
SPANS = {"aggregation_strategy": "simple"}
CHUNKS = {"top_k": 2, "max_seq_len": 40, "doc_stride": 8}
SEGMENTS = {"threshold": 0.2, "mask_threshold": 0.3, "overlap_mask_area_threshold": 0.0}
POINTS = {"points_per_crop": 4, "points_per_batch": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
TEXT, AUDIO, IMAGE, PAIR, PAGE = given("text"), given("audio"), given("image"), given("images"), given("image", "question")
SOUNDS, IMAGES, FEW = each("audio", sounds), each("image", pictures), prose("no", longest=12)

add("automatic-speech-recognition-ctc", ctc, SOUNDS, {}, AUDIO)
add("automatic-speech-recognition-ctc-words", ctc, SOUNDS, {"return_timestamps": "word"}, AUDIO)
add("automatic-speech-recognition-whisper", whisper, SOUNDS, SHORT, AUDIO)
add("automatic-speech-recognition-whisper-times", whisper, SOUNDS, {**SHORT, "return_timestamps": True}, AUDIO)
add("audio-classification", audio.wav2vec2, SOUNDS, {"top_k": 3}, AUDIO)
add("audio-classification-spectrogram", audio.spectrogram_transformer, SOUNDS, {}, AUDIO)
add("zero-shot-audio-classification", audio.clap, SOUNDS, SAME, AUDIO)
add("zero-shot-audio-classification-own", audio.clap, each("audio", sounds, **OWN), {}, AUDIO)
add("text-to-audio", text.vits, FEW, {}, TEXT)
add("text-to-audio-generate", text.musicgen, FEW, {"generate_kwargs": {"do_sample": False, "max_new_tokens": 12}}, TEXT)
add("any-to-any", audio.audio_chat, on_batch, NESTED)
add("any-to-any-chat", audio.audio_chat, each("text", audio_chats), {**NESTED, **NEW})

add("text-classification", text_classifier, prose("", "unheard"), {}, TEXT)
add("text-classification-all", text_classifier, prose("", "unheard"), {"top_k": None}, TEXT)
add("zero-shot-classification", entailment, prose("unheard"), SAME, TEXT)
add("zero-shot-classification-own", entailment, each("text", lambda: texts(6, 11, 8.0), **OWN), {"multi_label": True}, TEXT)
add("feature-extraction", text_encoder, prose("", "unheard"), {}, TEXT)
add("token-classification", text.token_classifier, prose("unheard"), {}, TEXT)
add("token-classification-groups", text.token_classifier, prose("unheard"), SPANS, TEXT)
add("token-classification-stride", text.short_token_classifier, prose("who", median=30.0), {**SPANS, "stride": 8}, TEXT)
add("fill-mask", text.masked, masks, {"top_k": 3}, TEXT)
add("table-question-answering", text.tapas, tables)
add("document-question-answering", text.layoutlm, documents(), CHUNKS, PAGE)
add("document-question-answering-ocr", text.layoutlm, documents(known=False), {}, PAGE, missing("pytesseract", "tesseract"))
add("decision", text.chat_model, decisions, {}, decide)
add("text-generation", text.chat_model, prose("who"), GREEDY, TEXT)
add("text-generation-new", text.chat_model, prose("who"), {**GREEDY, **NEW}, TEXT)
lengths = each("text", lambda: texts(6, 10, 8.0), max_new_tokens=AMOUNTS)
add("text-generation-lengths", text.chat_model, lengths, {"do_sample": False}, TEXT)
add("text-generation-chat", text.chat_model, each("text", chats), GREEDY, TEXT)
add("text-generation-chat-new", text.chat_model, each("text", chats), {**GREEDY, **NEW}, TEXT)

add("image-classification", vision.vit, IMAGES, {"top_k": 2}, IMAGE)
add("image-feature-extraction", vision.image_encoder, IMAGES, {}, IMAGE)
add("image-feature-extraction-pool", vision.image_encoder, IMAGES, {"pool": True}, IMAGE)
add("image-segmentation", vision.segformer, IMAGES, {}, IMAGE)
add("image-segmentation-panoptic", vision.panoptic, IMAGES, SEGMENTS, IMAGE)
add("image-segmentation-instance", vision.panoptic, IMAGES, {**SEGMENTS, "threshold": 0.5, "subtask": "instance"}, IMAGE)
add("object-detection", vision.yolos, IMAGES, {"threshold": 0.5}, IMAGE)
add("object-detection-shapes", vision.detr, IMAGES, {"threshold": 0.3}, IMAGE)
add("depth-estimation", vision.dpt, IMAGES, {}, IMAGE)
add("zero-shot-image-classification", vision.clip, IMAGES, SAME, IMAGE)
add("zero-shot-image-classification-own", vision.clip, each("image", pictures, **OWN), {}, IMAGE)
add("zero-shot-object-detection", vision.owlvit, IMAGES, {"candidate_labels": LABELS, "threshold": 0.9}, IMAGE)
add("zero-shot-object-detection-own", vision.owlvit, each("image", pictures, **OWN), {"threshold": 0.5, "top_k": 4}, IMAGE)
add("mask-generation", vision.sam, IMAGES, POINTS, IMAGE)
add("keypoint-matching", vision.loftr, each("images", pairs), {"threshold": 1e-4}, PAIR)
add("video-classification", vision.videomae, each("video", films), {"top_k": 2}, watchdog)
add("image-text-to-text", vision.llava, looks, NESTED)
add("image-text-to-text-lengths", vision.llava, look_lengths, NEW)
add("image-text-to-text-chat", vision.llava, each("text", image_chats), NESTED)
