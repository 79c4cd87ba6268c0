"""The default model of a task, and the task of a model."""

import importlib.util

import pytest
import transformers
from support import builders, tiny_audio, tiny_text, tiny_vision
from support.loading import task_of
from transformers.pipelines import SUPPORTED_TASKS

from dray.pipelines.config import parse_config
from dray.pipelines.errors import ConfigError
from dray.pipelines.models import choosing
from dray.pipelines.models.choosing import by_architecture, named_model

HUB = "somebody/model"


def config(**keys):
    return parse_config({"input": {"path": "in.parquet"}, "output": {"path": "out"}, **keys})


def test_a_task_has_a_default_model():
    assert named_model(config(task="text-classification")) == (
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        "714eb0f",
    )
    assert named_model(config(task="ner")) == named_model(config(task="token-classification"))
    assert named_model(config(task="any-to-any"))[0] == SUPPORTED_TASKS["any-to-any"]["default"]["model"]["pt"][0]
    assert named_model(config(task="ner", revision="main"))[1] == "main"
    assert named_model(config(task="ner", model=HUB)) == (HUB, None)


@pytest.mark.parametrize("task", sorted(set(SUPPORTED_TASKS) - {"mask-generation"}))  # which needs torchvision
def test_every_task_has_one(task):
    model, revision = named_model(config(task=task))
    assert "/" in model
    assert revision


def test_neither_task_nor_model():
    with pytest.raises(ConfigError, match=r"^model: name a model, or a task, whose default model is then used, got None$"):
        config()


ARCHITECTURES = {
    builders.text_classifier: "text-classification",
    builders.text_encoder: "feature-extraction",
    builders.ctc: "automatic-speech-recognition",
    builders.whisper: "automatic-speech-recognition",
    tiny_text.chat_model: "text-generation",
    tiny_text.masked: "fill-mask",
    tiny_text.token_classifier: "token-classification",
    tiny_text.tapas: "table-question-answering",
    tiny_text.layoutlm: "document-question-answering",
    tiny_text.vits: "text-to-audio",
    tiny_text.musicgen: "text-to-audio",
    tiny_audio.wav2vec2: "audio-classification",
    tiny_audio.clap: "zero-shot-audio-classification",
    tiny_audio.audio_chat: "any-to-any",
    tiny_vision.vit: "image-classification",
    tiny_vision.image_encoder: "image-feature-extraction",
    tiny_vision.clip: "zero-shot-image-classification",
    tiny_vision.owlvit: "zero-shot-object-detection",
    tiny_vision.detr: "object-detection",
    tiny_vision.yolos: "object-detection",
    tiny_vision.panoptic: "image-segmentation",
    tiny_vision.segformer: "image-segmentation",
    tiny_vision.dpt: "depth-estimation",
    tiny_vision.loftr: "keypoint-matching",
    tiny_vision.videomae: "video-classification",
    tiny_vision.llava: "image-text-to-text",
}


@pytest.mark.parametrize("build", ARCHITECTURES, ids=lambda build: build.__name__)
def test_the_task_by_the_architecture(build, tmp_path):
    build(tmp_path / "model")
    assert task_of(config(model=str(tmp_path / "model"))).name == ARCHITECTURES[build]


@pytest.mark.parametrize(
    ("kind", "architecture", "task"),
    [
        (transformers.GPT2Config, "GPT2LMHeadModel", "text-generation"),
        (transformers.GemmaConfig, "GemmaForCausalLM", "text-generation"),
        (transformers.Gemma3Config, "Gemma3ForConditionalGeneration", "image-text-to-text"),
        (transformers.XLMConfig, "XLMWithLMHeadModel", "fill-mask"),
        (transformers.SpeechT5Config, "SpeechT5ForTextToSpeech", "text-to-audio"),
        (transformers.BartConfig, "BartForSequenceClassification", "text-classification"),
        (transformers.BartConfig, "BartForConditionalGeneration", None),
        (transformers.BertConfig, "BertForQuestionAnswering", None),
        (transformers.BertConfig, "BertForNextSentencePrediction", None),
        (transformers.Wav2Vec2Config, "Wav2Vec2Model", None),
        (transformers.BertConfig, "ViTModel", None),
    ],
)
def test_other_architectures(kind, architecture, task):
    found = by_architecture(kind(architectures=[architecture]))
    assert (found and found.name) == task


def test_masks_need_torchvision(tmp_path):
    config = transformers.SamConfig(architectures=["SamModel"])
    if importlib.util.find_spec("torchvision"):
        assert by_architecture(config).name == "mask-generation"
    else:
        with pytest.raises(ConfigError, match="mask-generation needs torchvision"):
            by_architecture(config)


@pytest.mark.parametrize(
    ("card", "task"),
    [
        ("---\npipeline_tag: zero-shot-classification\n---\n# Model", "zero-shot-classification"),
        ("---\npipeline_tag: sentiment-analysis\n---\n", "text-classification"),
        ("---\npipeline_tag: question-answering\n---\n", "text-classification"),
        ("---\npipeline_tag: sentence-similarity\n---\n", "text-classification"),
        ("---\npipeline_tag: [ner]\n---\n", "text-classification"),
        ("---\npipeline_tag: {\n---\n", "text-classification"),
        ("---\nlicense: mit\n---\n", "text-classification"),
        ("# Model", "text-classification"),
    ],
)
def test_the_model_card_comes_first(tmp_path, card, task):
    builders.text_classifier(tmp_path)
    (tmp_path / "README.md").write_text(card)
    assert task_of(config(model=str(tmp_path))).name == task


def test_a_model_without_a_task(tmp_path):
    builders.save(transformers.BertForQuestionAnswering(builders.bert_config()), tmp_path)
    with pytest.raises(ConfigError, match=r"^task is missing, and cannot be inferred from .* \(BertForQuestionAnswering\)$"):
        task_of(config(model=str(tmp_path)))


def test_the_hub_knows_tasks_unless_it_is_out_of_reach(monkeypatch):
    asked = []

    def model_info(name, **kwargs):
        asked.append((name, kwargs["revision"]))
        if kwargs["token"] != "right":
            raise OSError("401")
        return type("Info", (), {"pipeline_tag": "ner"})

    monkeypatch.setattr("huggingface_hub.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    assert choosing.hub_tag(HUB, "v1", "right") is None
    assert asked == []
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    assert choosing.by_tag(choosing.hub_tag(HUB, "v1", "right")).name == "token-classification"
    assert choosing.hub_tag(HUB, "v1", "wrong") is None
    assert asked == [(HUB, "v1"), (HUB, "v1")]
