"""The task table: every task of transformers that dray runs. `Task` explains the fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dray.pipelines.batching import padding
from dray.pipelines.generation import sampling
from dray.pipelines.media import values
from dray.pipelines.tasks import calling, postprocess, schemas, speech
from dray.pipelines.tasks.client_parameters import GENERATION, LABELLED, NESTED, RANKED
from dray.pipelines.tasks.schemas import Shape
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa

OCR = (
    "words are read from images with tesseract: apt install tesseract-ocr (or your system's package) and "
    "pip install 'dray[ocr]', on every node; or give the words in a column word_boxes"
)
CHAT_ENDPOINTS = ("chat/completions", "completions")


def _type(kind: pa.DataType) -> Callable[[Shape], pa.DataType]:
    return lambda shape: kind


TASKS = {
    task.name: task
    for task in (
        Task(
            "automatic-speech-recognition",
            "audio",
            {"audio": values.recording},
            schemas.transcript,
            transcribes=True,
            fans_out=True,
            preprocess=speech.preprocess,
            shares=speech.shares,
            trim=speech.trim,
            view="transcript",
            client_parameters=("return_timestamps", "return_language", "chunk_length_s", "stride_length_s", *NESTED),
            endpoints=("audio/transcriptions", "audio/translations"),
        ),
        Task(
            "audio-classification",
            "audio",
            {"audio": values.samples},
            _type(schemas.SCORED),
            shares=speech.shares,
            view="scores",
            client_parameters=RANKED,
        ),
        Task(
            "zero-shot-audio-classification",
            "audio",
            {"audio": values.samples},
            _type(schemas.SCORED),
            shares=padding.same_texts,
            view="scores",
            client_parameters=LABELLED,
        ),
        Task(
            "text-to-audio",
            "text",
            {"text": values.chat},
            _type(schemas.SOUND),
            shares=padding.share_nothing,
            to_output=postprocess.sound,
            general=3,
            view="sound",
            client_parameters=NESTED,
        ),
        Task(
            "text-classification",
            "text",
            {"text": values.as_it_is, "text_pair": values.as_it_is},
            _type(schemas.SCORED),
            call=calling.pair,
            to_output=postprocess.as_list,
            bounded_by_positions=True,
            view="scores",
            client_parameters=RANKED,
            answers_with_list=True,
        ),
        Task(
            "token-classification",
            "text",
            {"text": values.as_it_is},
            schemas.entities,
            bounded_by_positions=True,
            view="entities",
            client_parameters=("aggregation_strategy", "ignore_labels", "stride"),
        ),
        Task(
            "fill-mask",
            "text",
            {"text": values.as_it_is},
            _type(schemas.FILLED),
            to_output=postprocess.flat_masks,
            bounded_by_positions=True,
            client_parameters=("top_k", "targets"),
            to_client=postprocess.nested_masks,
        ),
        Task(
            "zero-shot-classification",
            "text",
            {"text": values.as_it_is},
            _type(schemas.RANKED),
            bounded_by_positions=True,
            general=5,
            view="ranking",
            client_parameters=(*LABELLED, "multi_label"),
            to_client=postprocess.ranked_records,
        ),
        Task(
            "table-question-answering",
            "text",
            {"table": values.table, "query": values.as_it_is},
            _type(schemas.CELLS),
            shares=padding.share_nothing,
            client_parameters=("sequential", "padding", "truncation"),
        ),
        Task(
            "document-question-answering",
            "text",
            {"image": values.image, "question": values.as_it_is, "word_boxes": values.word_boxes},
            _type(schemas.SPANS),
            optional=True,
            trim=padding.trim_tokens("start_logits", "end_logits", "attention_mask"),
            hints={"esseract": OCR},
            client_parameters=(
                "doc_stride",
                "handle_impossible_answer",
                "lang",
                "max_answer_len",
                "max_question_len",
                "max_seq_len",
                "top_k",
            ),
        ),
        Task(
            "text-generation",
            "text",
            {"text": values.chat},
            schemas.generated,
            answers_prompts=True,
            trim=sampling.trim,
            to_output=postprocess.messages,
            continuous=True,
            bounded_by_positions=True,
            general=4,
            view="text",
            client_parameters=("return_full_text", *GENERATION),
            endpoints=CHAT_ENDPOINTS,
        ),
        Task(
            "image-text-to-text",
            "text",
            {"images": values.images, "text": values.chat},
            schemas.answered,
            call=calling.named,
            answers_prompts=True,
            optional=True,
            trim=sampling.trim,
            to_output=postprocess.messages,
            general=1,
            view="text",
            client_parameters=("return_full_text", *NESTED, *GENERATION),
            endpoints=CHAT_ENDPOINTS,
        ),
        Task(
            "any-to-any",
            "text",
            {"text": values.chat, "images": values.images, "videos": values.video, "audio": values.samples},
            schemas.answered,
            call=calling.named,
            answers_prompts=True,
            optional=True,
            trim=sampling.trim,
            to_output=postprocess.messages,
            general=2,
            view="text",
            client_parameters=("return_full_text", "generation_mode", *NESTED, *GENERATION),
        ),
        Task(
            "decision",
            "text",
            {"state": values.chat, "questions": values.parsed},
            _type(schemas.DECISIONS),
            call=calling.request,
            shares=padding.share_nothing,
            to_output=postprocess.answers,
            general=6,
        ),
        Task(
            "image-classification",
            "image",
            {"image": values.image},
            _type(schemas.SCORED),
            view="scores",
            client_parameters=RANKED,
        ),
        Task(
            "zero-shot-image-classification",
            "image",
            {"image": values.image},
            _type(schemas.SCORED),
            shares=padding.same_texts,
            view="scores",
            client_parameters=LABELLED,
        ),
        Task(
            "object-detection",
            "image",
            {"image": values.image},
            _type(schemas.BOXES),
            view="boxes",
            client_parameters=("threshold",),
        ),
        Task(
            "zero-shot-object-detection",
            "image",
            {"image": values.image},
            _type(schemas.BOXES),
            view="boxes",
            client_parameters=("candidate_labels", "threshold", "top_k"),
        ),
        Task(
            "image-segmentation",
            "image",
            {"image": values.image},
            _type(schemas.SEGMENTS),
            view="segments",
            client_parameters=("threshold", "mask_threshold", "overlap_mask_area_threshold", "subtask"),
        ),
        Task("depth-estimation", "image", {"image": values.image}, _type(schemas.DEPTH), view="depth"),
        Task(
            "mask-generation",
            "image",
            {"image": values.image},
            schemas.masks,
            forwards_whole=True,
            shares=padding.share_nothing,
            to_output=postprocess.masks,
            needs=("torchvision",),
            client_parameters=("pred_iou_thresh", "mask_threshold", "stability_score_thresh"),
        ),
        Task(
            "keypoint-matching",
            "image",
            {"images": values.images},
            _type(schemas.MATCHES),
            shares=padding.share_nothing,
            client_parameters=("threshold",),
        ),
        Task(
            "video-classification",
            "video",
            {"video": values.video},
            _type(schemas.SCORED),
            view="scores",
            client_parameters=("top_k", "num_frames", "frame_sampling_rate", "function_to_apply"),
        ),
        Task(
            "image-feature-extraction",
            "image",
            {"image": values.image},
            schemas.features,
            postprocess_defaults={"return_tensors": True},
            client_parameters=("pool",),
        ),
        Task(
            "feature-extraction",
            "text",
            {"text": values.as_it_is},
            schemas.features,
            embeds=True,
            trim=padding.trim_tokens(),
            postprocess_defaults={"return_tensors": True},
            bounded_by_positions=True,
            endpoints=("embeddings",),
        ),
    )
}
