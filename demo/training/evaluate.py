"""Measures the word error rate of a speech model on speakers and voices that were kept out of training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np
import torch
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from demo.training.corpus import HELD_OUT_TIMBRES, RATE, Digit, Utterance, load_recordings, speak_sentences


def glue(digits: Sequence[Digit], rng: np.random.Generator) -> Utterance:
    """The utterance of recorded digits one after the other, with pauses of 0.05 to 0.4 s."""
    pieces = []
    for digit in digits:
        pieces += [digit.samples, np.zeros(int(rng.uniform(0.05, 0.4) * RATE), np.float32)]
    return Utterance(np.concatenate(pieces), tuple(digit.value for digit in digits))


def held_out_utterances(recordings: Path, speaker: str, count: int = 100, seed: int = 1) -> list[Utterance]:
    """`count` utterances of 3 to 8 digits of this speaker; none if there are no recordings of the speaker."""
    rng = np.random.default_rng(seed)
    digits = [digit for digit in load_recordings(recordings) if digit.speaker == speaker]
    if not digits:
        return []
    return [glue([digits[i] for i in rng.integers(0, len(digits), rng.integers(3, 9))], rng) for _ in range(count)]


@torch.no_grad()
def word_error_rate(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, utterances: Sequence[Utterance]) -> float:
    """The word error rate. Each utterance is decoded alone, with the best symbol of each frame."""
    transcripts = []
    for utterance in utterances:
        logits = model(torch.from_numpy(utterance.samples)[None]).logits
        transcripts.append(processor.batch_decode(logits.argmax(-1))[0])
    return float(jiwer.wer([utterance.text for utterance in utterances], transcripts))


def main() -> None:
    """Prints the word error rates on one recorded speaker and on the espeak-ng timbres kept out of training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--speaker", required=True)
    arguments = parser.parse_args()
    model = Wav2Vec2ForCTC.from_pretrained(arguments.model).eval()
    processor = Wav2Vec2Processor.from_pretrained(arguments.model)
    speech = held_out_utterances(arguments.recordings, arguments.speaker, count=300)
    print(f"speaker {arguments.speaker}: {word_error_rate(model, processor, speech):.4f}")
    voices = [f"{accent}+{timbre}" for accent in ("en", "en-us", "en-gb-x-rp") for timbre in HELD_OUT_TIMBRES]
    spoken = speak_sentences(np.random.default_rng(2), voices, 200)
    print(f"espeak-ng timbres that never trained: {word_error_rate(model, processor, spoken):.4f}")


if __name__ == "__main__":
    main()
