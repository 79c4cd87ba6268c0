"""Trains the bundled spoken-digits model: `python -m demo.training.train --recordings digits.parquet --out FOLDER`."""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from demo.training.corpus import (
    RATE,
    WORDS,
    Mixer,
    Utterance,
    load_recordings,
    speak_digits,
    speak_sentences,
    training_voices,
)
from demo.training.evaluate import held_out_utterances, word_error_rate

HOP = 320  # samples per output frame
SILENCE = 3 * len(WORDS)  # class of a frame outside every digit; digits have three classes each (first, middle, last third)
UNKNOWN = -100
BATCH_SAMPLES = 40 * RATE


def make_processor(folder: Path) -> Wav2Vec2Processor:
    """A processor with the characters of the ten words and `|` between words.

    It does not normalize audio, so the model gets the same samples from a chunk as from its whole recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *sorted(set("".join(WORDS)))]
    (folder / "vocab.json").write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=False, return_attention_mask=True)
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def make_model(vocabulary: int) -> Wav2Vec2ForCTC:
    """A Wav2Vec2 of under a million parameters whose first convolution starts as a bank of Gabor filters."""
    config = Wav2Vec2Config(
        vocab_size=vocabulary, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=384,
        conv_dim=(128, 128, 128), conv_kernel=(256, 8, 4), conv_stride=(40, 4, 2), conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=8, hidden_dropout=0.05, attention_dropout=0.05, feat_proj_dropout=0.05,
        final_dropout=0.05, activation_dropout=0.0, layerdrop=0.0, apply_spec_augment=False,
        ctc_loss_reduction="mean", ctc_zero_infinity=True, pad_token_id=0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    first = model.wav2vec2.feature_extractor.conv_layers[0].conv
    with torch.no_grad():
        first.weight.copy_(gabor_filters(first.weight.shape[-1]))
        first.bias.zero_()
    return model


def gabor_filters(width: int, bands: int = 32, phases: int = 4) -> torch.Tensor:
    """Windowed cosines, evenly spaced in mel between 120 and 3,900 Hz; shape (bands * phases, 1, width)."""
    mel_low, mel_high = (2595 * np.log10(1 + hertz / 700) for hertz in (120.0, 3900.0))
    hertz = 700 * (10 ** (np.linspace(mel_low, mel_high, bands) / 2595) - 1)
    time_s = (np.arange(width) - width / 2) / RATE
    angles = 2 * np.pi * hertz[:, None, None] * time_s + np.pi / phases * np.arange(phases)[None, :, None]
    filters = np.cos(angles) * np.hanning(width) / np.sqrt(width)
    return torch.tensor(filters.reshape(bands * phases, 1, width), dtype=torch.float32)


def batches(mixer: Mixer, longest: int) -> Iterator[list[Utterance]]:
    """Yields batches of at most BATCH_SAMPLES padded samples, without end."""
    batch: list[Utterance] = []
    while True:
        utterance = mixer.draw(longest)
        width = max(len(u.samples) for u in [*batch, utterance])
        if batch and width * (len(batch) + 1) > BATCH_SAMPLES:
            yield batch
            batch = []
        batch.append(utterance)


def frame_classes(batch: list[Utterance], frames: int) -> torch.Tensor:
    """The classes for the auxiliary classifier, UNKNOWN if the digits' places are unknown; shape (utterances, frames)."""
    classes = torch.full((len(batch), frames), SILENCE)
    for row, utterance in enumerate(batch):
        if not utterance.spans:
            classes[row] = UNKNOWN
        for digit, (start, stop) in zip(utterance.digits, utterance.spans, strict=False):
            edges = np.linspace(start, stop, 4) / HOP
            for third in range(3):
                classes[row, round(edges[third]) : round(edges[third + 1])] = 3 * digit + third
    return classes


def loss_of(
    model: Wav2Vec2ForCTC, classifier: nn.Linear, processor: Wav2Vec2Processor, batch: list[Utterance], weight: float
) -> torch.Tensor:
    """The CTC loss plus `weight` times the auxiliary frame loss. Padding counts as audio with the label blank."""
    width = max(len(utterance.samples) for utterance in batch)
    values = torch.zeros(len(batch), width)
    for row, utterance in enumerate(batch):
        values[row, : len(utterance.samples)] = torch.from_numpy(utterance.samples)
    hidden = model.wav2vec2(values).last_hidden_state
    log_probs = functional.log_softmax(model.lm_head(model.dropout(hidden)), dim=-1).transpose(0, 1)
    labels = [torch.tensor(processor.tokenizer(utterance.text).input_ids) for utterance in batch]
    lengths = torch.tensor([len(label) for label in labels])
    frames = torch.full((len(batch),), log_probs.shape[0])
    loss = functional.ctc_loss(log_probs, torch.cat(labels), frames, lengths, blank=0, zero_infinity=True)
    if weight > 0:
        scores = classifier(hidden).flatten(0, 1)
        loss = loss + weight * functional.cross_entropy(scores, frame_classes(batch, hidden.shape[1]).flatten())
    return loss


def learning_rate(peak: float, done: float) -> float:
    """The learning rate: warm-up to 3%, constant to 30%, then cosine to zero. `done`: the finished share of the steps."""
    if done < 0.3:
        return peak * min(1.0, done / 0.03 + 1e-3)
    return peak * 0.5 * (1 + float(np.cos(np.pi * (done - 0.3) / 0.7)))


def train(arguments: argparse.Namespace) -> None:
    """Builds the corpus, trains the model, and saves the moving average of its weights."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    voices = training_voices()
    recordings = [digit for digit in load_recordings(arguments.recordings) if digit.speaker != arguments.hold_out]
    mixer = Mixer(recordings, speak_digits(rng, voices), speak_sentences(rng, voices, arguments.sentences), arguments.seed)
    processor = make_processor(arguments.out)
    model = Wav2Vec2ForCTC.from_pretrained(arguments.start) if arguments.start else make_model(len(processor.tokenizer))
    averaged = copy.deepcopy(model).eval()
    classifier = nn.Linear(model.config.hidden_size, SILENCE + 1)
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.rate, weight_decay=0.01)
    unseen = held_out_utterances(arguments.recordings, arguments.hold_out)
    started, longest = time.perf_counter(), 8 if arguments.start else 3
    stream = batches(mixer, longest)
    for step in range(arguments.steps):
        done = step / arguments.steps
        if not arguments.start and step in (arguments.steps // 10, arguments.steps // 4):
            longest = 5 if longest == 3 else 8
            stream = batches(mixer, longest)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(arguments.rate, done)
        weight = 0.0 if arguments.start else max(0.0, 2 * (1 - 2 * done))
        loss = loss_of(model.train(), classifier, processor, next(stream), weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        update_average(averaged, model, decay=min(0.998, (1 + step) / (10 + step)))
        if step % 250 == 0:
            error = word_error_rate(averaged, processor, unseen) if unseen else float("nan")
            print(
                f"{step} {time.perf_counter() - started:.0f}s loss {loss.item():.3f} held-out WER {error:.3f}",
                flush=True,
            )
        if step % 1000 == 999 or step == arguments.steps - 1:
            averaged.save_pretrained(arguments.out)
            processor.save_pretrained(arguments.out)


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Updates the moving average: averaged = decay * averaged + (1 - decay) * model."""
    for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, required=True, help="Parquet with columns audio, digit, speaker")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--start", type=Path, help="checkpoint to train on from; without it, from scratch")
    parser.add_argument("--hold-out", default="", help="speaker that does not train and measures instead")
    parser.add_argument("--steps", type=int, default=7_000)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--sentences", type=int, default=4_000, help="continuous espeak-ng sentences")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
