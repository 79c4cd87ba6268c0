"""OpenAI's transcriptions and translations: makes items of requests, and answers of predictions."""

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
    pipe: Pipeline, request: Transcribe, audio: object, translate: bool, settings: Mapping[str, Any]
) -> dict[str, Item]:
    """The items for a request: granularity of timestamps, or "" for none -> item. `settings`: the config's generate_kwargs.

    Raises:
        RequestError: the model cannot do what the request needs.
    """
    generates = pipe.type == "seq2seq_whisper"
    wanted: dict[str, object] = {"task": "translate"} if translate else {}
    if request.language is not None:
        wanted["language"] = request.language
    if request.temperature:
        wanted |= {"do_sample": True, "temperature": request.temperature}
    if wanted and not generates:
        raise RequestError(f"the model takes no {next(iter(wanted))}: it transcribes, and has no other options")
    if request.prompt:
        raise RequestError("prompt: the service does not take prompts")
    options: dict[str, object] = {"generate_kwargs": {**settings, **wanted}} if wanted else {}
    if request.response_format in ("json", "text"):
        return {"": Item({"audio": audio}, options)}
    if not generates:
        return {"word": Item({"audio": audio}, {**options, "return_timestamps": "word"})}
    wants_words = request.response_format == "verbose_json" and "word" in request.timestamp_granularities
    kinds = {"segment": True, **({"word": "word"} if wants_words else {})}
    return {name: Item({"audio": audio}, {**options, "return_timestamps": kind}) for name, kind in kinds.items()}


def transcript(request: Transcribe, predictions: Mapping[str, Mapping[str, Any]], seconds: float, translate: bool) -> Any:  # noqa: ANN401  # JSON, or a text
    """The answer. `predictions`: granularity -> prediction; `seconds`: length of the recording."""
    first = next(iter(predictions.values()))
    text = first["text"].strip()
    if request.response_format == "json":
        return {"text": text}
    if request.response_format == "text":
        return text + "\n"
    chunks = predictions.get("segment", first)["chunks"]
    if request.response_format in ("srt", "vtt"):
        return subtitles.render(chunks, request.response_format)
    answer: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": request.language or "unknown",
        "duration": seconds,
        "text": text,
    }
    if "segment" in request.timestamp_granularities:
        answer["segments"] = [
            {
                "id": number, "seek": 0, "start": cue.start, "end": cue.stop, "text": cue.text, "tokens": [],
                "temperature": request.temperature or 0.0, "avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0,
            }
            for number, cue in enumerate(subtitles.cues(chunks))
        ]  # fmt: skip
    if "word" in request.timestamp_granularities:
        answer["words"] = [
            {"word": word["text"].strip(), "start": word["timestamp"][0], "end": word["timestamp"][1]}
            for word in predictions.get("word", first)["chunks"]
        ]
    return answer
