"""Every model of fuzz.py with every type of column that it takes, and blocks of such cells."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import transformers

from support import builders, tiny_audio, tiny_text, tiny_vision
from support.fuzz_files import pictures, recordings
from support.fuzz_inputs import Made, Rng
from support.fuzz_media import audio_file, boxed, channels, named, picture_file, pixels, samples
from support.fuzz_texts import chat, json_like, long_text, parts, text

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ARRAY = pa.struct([("array", pa.list_(pa.float64())), ("sampling_rate", pa.float64())])
CHANNELS = pa.struct([("array", pa.list_(pa.list_(pa.float32()))), ("sampling_rate", pa.int64())])
PIXELS = pa.list_(pa.list_(pa.list_(pa.int32())))
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PART = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", pa.binary())])
PARTS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(PART))]))
GOOD = 2  # sound cells of a block


@dataclass(frozen=True)
class Stream:
    """Inputs of one column type, for one model."""

    task: str
    build: Callable[[Path], str]
    argument: str
    type: pa.DataType
    make: Callable[[Rng], Made]
    good: tuple[object, ...]
    parameters: dict[str, object] = field(default_factory=dict)
    others: dict[str, object] = field(default_factory=dict)


def image_classifier(folder: Path) -> str:
    """One whose processor fixes the shorter side, as most do."""
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=tiny_vision.SQUARE)
    model = tiny_vision.create(transformers.ViTForImageClassification, tiny_vision.vit_config(**tiny_vision.LABELS))
    return tiny_vision.keep(model, folder, processor)


def streams() -> dict[str, Stream]:
    """Every model with every type of column that it takes."""
    sound, image = recordings()["WAV PCM_16"], pictures()[0]
    text64 = [base64.b64encode(data).decode() for data in (sound, image)]
    wave = builders.sound(0.5)
    audio = {
        "bytes": (pa.binary(), audio_file, (sound, recordings()["mp4"])),
        "structs": (STRUCT, boxed(audio_file), ({"bytes": sound}, {"bytes": recordings()["FLAC PCM_16"]})),
        "strings": (pa.string(), named(audio_file), (text64[0], f"data:audio/wav;base64,{text64[0]}")),
        "arrays": (ARRAY, samples, ({"array": wave, "sampling_rate": 16_000}, {"array": wave, "sampling_rate": 8000})),
        "channels": (CHANNELS, channels, tuple({"array": [wave] * n, "sampling_rate": 8000 * n} for n in (1, 2))),
    }  # fmt: skip
    images = {
        "bytes": (pa.binary(), picture_file, (image, pictures()[1])),
        "structs": (STRUCT, boxed(picture_file), ({"bytes": image}, {"bytes": pictures()[2]})),
        "strings": (pa.string(), named(picture_file), (text64[1], f"data:image/png;base64,{text64[1]}")),
        "pixels": (PIXELS, pixels, (np.zeros((9, 9, 3), int).tolist(), np.ones((20, 30, 3), int).tolist())),
    }
    texts = (pa.string(), long_text, tuple(builders.texts(2, 3, 9.0)))
    said = [{"role": "user", "content": "who are they"}]
    shown = [{"role": "user", "content": [{"type": "text", "text": "who are they"}]}]
    table = {"people": ["many", "some"], "time": ["12", "7"]}
    boxes = [{"word": word, "box": box} for word, box in tiny_text.boxes("who are they now")]
    asked = {"a": {"type": "noul", "instructions": "is there more water"}}
    speech, classes = "automatic-speech-recognition", "audio-classification"
    few = {"do_sample": False, "max_new_tokens": 2}
    page = {"image": image, "question": "who"}
    made = {}
    for name, form in audio.items():
        made[f"speech, {name}"] = Stream(speech, builders.ctc, "audio", *form)
        made[f"speech in chunks, {name}"] = Stream(speech, builders.ctc, "audio", *form, {"chunk_length_s": 5})
        made[f"audio, {name}"] = Stream(classes, tiny_audio.wav2vec2, "audio", *form)
    for name, form in images.items():
        made[f"images, {name}"] = Stream("image-classification", image_classifier, "image", *form)
    for name, task, build in (
        ("texts", "text-classification", builders.text_classifier),
        ("embeddings", "feature-extraction", builders.text_encoder),
        ("entities", "token-classification", tiny_text.token_classifier),
    ):
        made[name] = Stream(task, build, "text", *texts)
    writer = ("text-generation", tiny_text.chat_model, "text")
    made["prompts"] = Stream(*writer, pa.string(), text, texts[2], few)
    made["chats"] = Stream(*writer, CHAT, chat, (said, said * 3), few)
    made["chats of parts"] = Stream(*writer, PARTS, parts, (shown, shown * 3), few)
    for name, task, build, argument, sound_json, others in (
        ("tables", "table-question-answering", tiny_text.tapas, "table", table, {"query": "how many"}),
        ("boxes", "document-question-answering", tiny_text.layoutlm, "word_boxes", boxes, page),
        ("questions", "decision", tiny_text.chat_model, "questions", asked, {"state": "the words"}),
    ):
        goods = (json.dumps(sound_json), json.dumps(sound_json, indent=1))
        made[name] = Stream(task, build, argument, pa.string(), json_like(sound_json), goods, {}, others)
    return made


def column(cells: list[object], kind: pa.DataType) -> pa.Array:
    """Cells as a column; strings whatever bytes they have, as files may hold them."""
    if pa.types.is_string(kind):
        data = [cell.encode("utf-8", "replace") if isinstance(cell, str) else cell for cell in cells]
        return pa.array(data, pa.binary()).view(pa.string())
    return pa.array(cells, kind)


def block(stream: Stream, seed: tuple[int, ...], count: int) -> list[Made]:
    """`count` cells; every row's own seed is (*seed, row). Some are sound ones."""
    return [
        ("GOOD", stream.good[row % len(stream.good)])
        if count > GOOD and row % (count // GOOD) == 1
        else stream.make(np.random.default_rng([*seed, row]))
        for row in range(count)
    ]
