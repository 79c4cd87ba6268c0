"""Speech recognition: makes model inputs while audio is decoded, and cuts padding off outputs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from dray.pipelines.batching.padding import Sharing, equal_but_for_padding, equal_shapes
from dray.pipelines.internals.models import frames_of
from dray.pipelines.internals.pipelines import samples_per_output
from dray.pipelines.media import audio
from dray.pipelines.media.chunking import Samples, Window, chunks
from dray.pipelines.media.opening import MediaOptions

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline

Inputs = dict[str, object]


def preprocess(
    pipe: Pipeline,
    cell: object,
    options: MediaOptions,
    chunk_length_s: float = 0,
    stride_length_s: float | tuple[float, float] | None = None,
) -> Iterator[tuple[Inputs, float]]:
    """Yields what the pipeline's own `preprocess` yields, without holding the whole recording in memory.

    Args:
        pipe: an AutomaticSpeechRecognitionPipeline.
        cell: the value of a cell, as `media.audio` takes it.
        options: how media are read.
        chunk_length_s: seconds of a chunk; 0: the recording is one chunk.
        stride_length_s: seconds of overlap: of each side, or (left, right).

    Yields:
        (model inputs, seconds of audio that no earlier chunk covers).
    """
    rate = options.rate
    if not chunk_length_s:
        samples = audio.whole(cell, options)
        seconds = len(samples) / rate
        for inputs in pipe.preprocess(_long_enough(pipe, samples)):
            yield dict(inputs), seconds
        return
    stop = 0
    for chunk, span in chunks(
        audio.audio(cell, options), Window.of(chunk_length_s, stride_length_s, rate, samples_per_output(pipe))
    ):
        inputs = _features(pipe, chunk)
        yield {"is_last": span.is_last, "stride": span.stride, **inputs}, (span.stop - stop) / rate
        stop = span.stop
    if not stop:
        raise ValueError("the recording holds no samples")


def _features(pipe: Pipeline, chunk: Samples) -> Inputs:
    """The features of one chunk, made by transformers' `chunk_iter`."""
    from transformers.pipelines.automatic_speech_recognition import chunk_iter

    chunk = _long_enough(pipe, chunk)
    (inputs,) = chunk_iter(chunk, pipe.feature_extractor, len(chunk), 0, 0, pipe.dtype)
    return {key: value for key, value in inputs.items() if key not in ("is_last", "stride")}


def _long_enough(pipe: Pipeline, samples: Samples) -> Samples:
    """The samples; followed by zeros if they are too few for the model's convolutions, which would raise."""
    kernels = getattr(pipe.model.config, "conv_kernel", None)
    if pipe.type != "ctc" or not isinstance(kernels, (list, tuple)):
        return samples
    least, jump = 1, 1
    for kernel, stride in zip(kernels, pipe.model.config.conv_stride, strict=True):
        least, jump = least + (kernel - 1) * jump, jump * stride
    return np.pad(samples, (0, max(0, least - len(samples))))


def trim(
    pipe: Pipeline, inputs: Mapping[str, torch.Tensor], output: dict[str, object], forward_params: Mapping[str, object]
) -> dict[str, object]:
    """The output of one part; of a CTC model, without the frames of padding.

    transformers cuts them off only where the part has a stride; without a stride it would decode them.
    """
    frames = frames_of(pipe.model, inputs[pipe.model.main_input_name].shape[1]) if pipe.type == "ctc" else None
    if frames is None:
        return output
    tokens = cast("torch.Tensor", output["tokens"])
    return {**output, "tokens": tokens[:, :frames]}


def shares(pipe: Pipeline, inputs: Mapping[str, torch.Tensor], forward_params: Mapping[str, object]) -> Hashable:
    """The group of a part: parts may share a batch if padding does not change their results.

    Padding changes results in two cases. Group normalization over time includes padding in spite of the mask: only parts of
    equal length share a batch. Whisper finds the times of words in attention weights that it normalizes over the whole batch:
    no parts share one.
    """
    if getattr(pipe, "type", None) == "seq2seq_whisper" and forward_params.get("return_timestamps") == "word":
        return Sharing.ALONE
    sees_padding = getattr(pipe.model.config, "feat_extract_norm", None) == "group"
    return (equal_shapes if sees_padding else equal_but_for_padding)(pipe, inputs, forward_params)
