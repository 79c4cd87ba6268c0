"""OpenAI's transcriptions and translations: requests as items, predictions as answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.errors import RequestError
from dray.pipelines.media import subtitles
from dray.pipelines.phases.item import Item
from dray.pipelines.protocols.openai import Transcribe

if TYPE_CHECKING:
    from transformers import Pipeline


def transcriptions(
    pipe: Pipeline, asked: Transcribe, audio: object, translate: bool, settings: Mapping[str, Any]
) -> dict[str, Item]:
    """Granularity of timestamps, or "" -> the item that gives it. `settings`: of the config, for generation.

    Raises:
        RequestError: the model cannot do what is asked for.
    """
    generates = pipe.type == "seq2seq_whisper"
    wanted: dict[str, object] = {"task": "translate"} if translate else {}
    if asked.language is not None:
        wanted["language"] = asked.language
    if asked.temperature:
        wanted |= {"do_sample": True, "temperature": asked.temperature}
    if wanted and not generates:
        raise RequestError(f"the model takes no {next(iter(wanted))}: it writes down what it hears")
    if asked.prompt:
        raise RequestError("prompt: the service takes none")
    options: dict[str, object] = {"generate_kwargs": {**settings, **wanted}} if wanted else {}
    if asked.response_format in ("json", "text"):
        return {"": Item({"audio": audio}, options)}
    if not generates:
        return {"word": Item({"audio": audio}, {**options, "return_timestamps": "word"})}
    wants_words = asked.response_format == "verbose_json" and "word" in asked.timestamp_granularities
    kinds = {"segment": True, **({"word": "word"} if wants_words else {})}
    return {name: Item({"audio": audio}, {**options, "return_timestamps": kind}) for name, kind in kinds.items()}


def transcript(asked: Transcribe, found: Mapping[str, Mapping[str, Any]], seconds: float, translate: bool) -> Any:  # noqa: ANN401  # JSON, or a text
    """The answer, from granularity -> prediction. `seconds`: of the recording."""
    first = next(iter(found.values()))
    text = first["text"].strip()
    if asked.response_format == "json":
        return {"text": text}
    if asked.response_format == "text":
        return text + "\n"
    chunks = found.get("segment", first)["chunks"]
    if asked.response_format in ("srt", "vtt"):
        return subtitles.render(chunks, asked.response_format)
    answer: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": asked.language or "unknown",
        "duration": seconds,
        "text": text,
    }
    if "segment" in asked.timestamp_granularities:
        answer["segments"] = [
            {
                "id": number, "seek": 0, "start": cue.start, "end": cue.stop, "text": cue.text, "tokens": [],
                "temperature": asked.temperature or 0.0, "avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0,
            }
            for number, cue in enumerate(subtitles.cues(chunks))
        ]  # fmt: skip
    if "word" in asked.timestamp_granularities:
        answer["words"] = [
            {"word": word["text"].strip(), "start": word["timestamp"][0], "end": word["timestamp"][1]}
            for word in found.get("word", first)["chunks"]
        ]
    return answer
