"""Renders transcripts with timestamps as subtitle files, SubRip (srt) and WebVTT (vtt)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

CHARACTERS = 84  # two lines of 42, the width broadcasters use
SECONDS = 6.0  # the longest a cue stays
PAUSE = 1.0  # seconds of silence that end a cue
LINE = 42


@dataclass(frozen=True)
class Cue:
    """Text shown from `start` to `stop`, in seconds."""

    start: float
    stop: float
    text: str


def cues(chunks: Iterable[Mapping[str, object]]) -> list[Cue]:
    """The `chunks` of a transcript as cues: words are joined to phrases, segments stay unchanged.

    Args:
        chunks: {"text": ..., "timestamp": [start, stop]} in seconds; a missing stop is the next chunk's start.
    """
    spoken = list(_timed(chunks))
    phrases: list[Cue] = []
    for cue in spoken:
        last = phrases[-1] if phrases else None
        if last is not None and _belongs(last, cue):
            glue = "" if cue.text.startswith(" ") else " "
            phrases[-1] = Cue(last.start, cue.stop, last.text + glue + cue.text)
        else:
            phrases.append(cue)
    return [Cue(cue.start, cue.stop, cue.text.strip()) for cue in phrases if cue.text.strip()]


def _timed(chunks: Iterable[Mapping[str, object]]) -> Iterator[Cue]:
    rows = list(chunks)
    for index, row in enumerate(rows):
        start, stop = _stamps(row)
        if start is None:
            continue
        if stop is None:
            following = _stamps(rows[index + 1])[0] if index + 1 < len(rows) else None
            stop = following if following is not None else start + 1.0
        yield Cue(start, max(stop, start), str(row["text"]))


def _stamps(row: Mapping[str, object]) -> tuple[float | None, float | None]:
    start, stop = cast("tuple[float | None, float | None]", row["timestamp"])
    return start, stop


def _belongs(phrase: Cue, word: Cue) -> bool:
    """Whether the word continues the phrase. Segments are long and end with a full stop, so they are not joined."""
    return (
        len(phrase.text) + 1 + len(word.text) <= CHARACTERS
        and word.stop - phrase.start <= SECONDS
        and word.start - phrase.stop <= PAUSE
        and not phrase.text.rstrip().endswith((".", "?", "!"))
    )


def render(chunks: Iterable[Mapping[str, object]], kind: str) -> str:
    """The text of a subtitle file. `kind` is "srt" or "vtt"."""
    mark = "," if kind == "srt" else "."
    blocks = [
        f"{number}\n{_clock(cue.start, mark)} --> {_clock(cue.stop, mark)}\n{_wrap(cue.text)}\n"
        for number, cue in enumerate(cues(chunks), 1)
    ]
    return ("" if kind == "srt" else "WEBVTT\n\n") + "\n".join(blocks)


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


def _wrap(text: str) -> str:
    """The text in at most two lines of similar length; `-->` is replaced, since it separates the times of a cue."""
    import textwrap

    text = text.replace("-->", "->")
    if len(text) <= LINE:
        return text
    return "\n".join(textwrap.wrap(text, max(LINE, -(-len(text) // 2) + 4), break_long_words=False))
