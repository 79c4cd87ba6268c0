"""What the benchmark runs: data of realistic shapes and models with random weights, all made here, seeds fixed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import transformers
from support import builders, tiny_text, tiny_vision

SHARDS = 4
LAYERS, HIDDEN = 6, 384  # of BERT for texts, as of all-MiniLM-L6


@dataclass(frozen=True)
class Workload:
    """One kind of data with one model.

    Attributes:
        title: for the table.
        task: of transformers; a row gives its first argument, `argument`.
        rows: scale -> the rows, in random order.
        model: builds the model in a folder.
        length: of a row, for contenders that sort.
        parameters: call arguments.
        share: of the rows that all but dray's job are given, evenly spread over the lengths.
        is_variable: whether rows differ much in what they cost.
    """

    title: str
    task: str
    argument: str
    rows: Callable[[float], Sequence[object]]
    model: Callable[[Path], str]
    length: Callable[[object], int] = len
    parameters: dict[str, object] = field(default_factory=dict)
    share: float = 0.1
    is_variable: bool = True

    def fewer(self, rows: Sequence[object]) -> list[object]:
        """The share of the rows that is enough to tell a speed, of all lengths as in the whole."""
        step = round(1 / self.share)
        order = sorted(range(len(rows)), key=lambda index: self.length(rows[index]))
        return [rows[index] for index in sorted(order[step // 2 :: step])]


def write(rows: Sequence[object], folder: Path) -> Path:
    """The rows as Parquet files with one column, `cell`."""
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        pq.write_table(pa.table({"cell": list(rows[shard::SHARDS])}), folder / f"{shard}.parquet", row_group_size=2048)
    return folder


def read(folder: Path) -> list[object]:
    """The rows of these files."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(tables)["cell"].to_pylist()


def lognormal_texts(scale: float, count: int = 12_000) -> list[str]:
    return builders.texts(round(count * scale), seed=5, sigma=1.0, longest=500)


def outliers(scale: float) -> list[str]:
    rng = np.random.default_rng(6)
    lengths = [rng.integers(440, 505) if rng.random() < 0.05 else rng.integers(5, 20) for _ in range(round(20_000 * scale))]
    return [builders.text(rng, int(length)) for length in lengths]


def pictures(scale: float) -> list[bytes]:
    """JPEG, from 200 to 1,600 pixels wide."""
    rng = np.random.default_rng(7)
    found = []
    for seed in range(round(1_900 * scale)):
        width, height = (int(side) for side in np.clip(rng.lognormal(np.log(500), 0.5, 2), 200, 1600))
        buffer = io.BytesIO()
        tiny_vision.picture(width, height, seed=seed).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def recordings(scale: float, long_seconds: float = 3600.0) -> list[bytes]:
    """FLAC: 200 clips of 2 to 12 seconds, and 2 recordings of an hour among them; at half the scale of half an hour."""
    rng = np.random.default_rng(8)
    seconds = [float(value) for value in rng.uniform(2, 12, round(200 * scale))]
    for place in (len(seconds) // 3, 2 * len(seconds) // 3):
        seconds.insert(place, long_seconds * scale)
    return [flac(builders.sound(length, seed)) for seed, length in enumerate(seconds)]


def flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, builders.RATE, format="FLAC")
    return buffer.getvalue()


def prompts(scale: float) -> list[str]:
    return builders.texts(round(3_600 * scale), seed=9, median=20, sigma=0.8, longest=150)


def vision_model(folder: Path) -> str:
    """ViT of 12 layers, hidden 384."""
    config = transformers.ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, **tiny_vision.LABELS
    )
    model = tiny_text.create(transformers.ViTForImageClassification, config)
    return tiny_text.keep(model, folder, transformers.ViTImageProcessorPil())


def ctc_model(folder: Path) -> str:
    return builders.ctc(
        folder, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, conv_dim=(128, 128, 256)
    )


def whisper_model(folder: Path) -> str:
    """Whisper of 3 layers, hidden 192, with the padding token of real ones: pipelines make no batches without."""
    model = builders.whisper(
        folder, d_model=192, encoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=768, decoder_ffn_dim=768,
    )  # fmt: skip
    processor = transformers.WhisperProcessor.from_pretrained(model)
    processor.tokenizer.pad_token = "<|endoftext|>"
    processor.save_pretrained(model)
    return model


def writer_model(folder: Path) -> str:
    """Llama of 4 layers, hidden 256, whose answers end by chance, early or late."""
    config = tiny_text.llama_config(hidden_size=256, intermediate_size=704, num_hidden_layers=4)
    model = tiny_text.create(transformers.LlamaForCausalLM, config)
    model.generation_config.eos_token_id = list(range(3, 10))  # of about 200 tokens
    return tiny_text.keep(model, folder, tiny_text.chat_tokenizer())


WORKLOADS = {
    "texts": Workload(
        "texts of lognormal lengths", "text-classification", "text", lognormal_texts,
        lambda folder: builders.text_classifier(folder, LAYERS, HIDDEN),
    ),
    "outliers": Workload(
        "short texts, 5% near the model's limit", "text-classification", "text", outliers,
        lambda folder: builders.text_classifier(folder, LAYERS, HIDDEN),
    ),
    "embeddings": Workload(
        "embeddings of texts of lognormal lengths", "feature-extraction", "text", lambda scale: lognormal_texts(scale, 9_000),
        lambda folder: builders.text_encoder(folder, LAYERS, HIDDEN),
    ),
    "images": Workload(
        "JPEG of mixed sizes", "image-classification", "image", pictures, vision_model, is_variable=False
    ),
    "ctc": Workload(
        "speech, 200 clips and 2 recordings of an hour, CTC", "automatic-speech-recognition", "audio", recordings,
        ctc_model, parameters={"chunk_length_s": 20}, share=0.5,
    ),
    "whisper": Workload(
        "the same speech, Whisper", "automatic-speech-recognition", "audio",
        lambda scale: recordings(0.45 * scale), whisper_model, parameters={"chunk_length_s": 30}, share=0.5,
    ),
    "generation": Workload(
        "generation, answers of 1 to 120 tokens", "text-generation", "text", prompts, writer_model,
        parameters={"max_new_tokens": 120, "return_full_text": False, "do_sample": False},
    ),
}  # fmt: skip
