"""Every private name of transformers and torch that dray relies on is there, and takes what it is given."""

import inspect

import pytest
import torch
import transformers
from support import builders
from transformers import GenerationConfig, GenerationMixin, pipelines
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.pipelines.base import Pipeline
from transformers.pipelines.text_generation import TextGenerationPipeline
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from dray.pipelines.internals import auto_classes, generation
from dray.pipelines.internals import pipelines as doors
from dray.pipelines.internals.models import frames_of

# (owner, name, parameters that it is called with)
CALLED = [
    (Pipeline, "_sanitize_parameters", ()),
    (Pipeline, "_ensure_tensor_on_device", ("inputs", "device")),
    (Pipeline, "_forward", ("input_tensors",)),
    (pipelines, "_maybe_load_ctc_decoder", ("model_name", "hub_kwargs", "kwargs", "pretrained_model_name_or_path")),
    (GenerationMixin, "_prepare_generation_config", ("generation_config", "kwargs")),
    (GenerationMixin, "_validate_model_kwargs", ("model_kwargs",)),
    (GenerationMixin, "_get_logits_processor", ("generation_config",)),
    (GenerationMixin, "_sample", ("input_ids", "logits_processor", "stopping_criteria", "generation_config", "model_kwargs")),
    (
        GenerationMixin,
        "_update_model_kwargs_for_generation",
        ("outputs", "model_kwargs", "is_encoder_decoder", "num_new_tokens"),
    ),
    (TokenizersBackend, "_encode_plus", ()),
    (transformers.BertModel, "_from_config", ("config",)),
    (transformers.Wav2Vec2PreTrainedModel, "_get_feat_extract_output_lengths", ("input_lengths",)),
    (torch._dynamo, "maybe_mark_dynamic", ("t", "index")),
    (torch._dynamo, "mark_static", ("t", "index")),
]
# (owner, name) of what is read or set
READ = [
    (Pipeline, "_pipeline_calls_generate"),
    (Pipeline, "_load_tokenizer"),
    (Pipeline, "_load_processor"),
    (Pipeline, "_load_image_processor"),
    (Pipeline, "_load_feature_extractor"),
    (Pipeline, "_load_video_processor"),
    (transformers.AutomaticSpeechRecognitionPipeline, "_align_to"),
    (_BaseAutoModelClass, "_model_mapping"),
    (torch.ops.mkldnn, "_reorder_linear_weight"),
    (torch.ops.mkldnn, "_linear_pointwise"),
    (torch.nn.Linear(1, 1), "_forward_pre_hooks"),
    (torch.nn.Linear(1, 1), "_forward_hooks"),
    (torch.nn.Linear(1, 1), "_parameters"),
    (torch.ones(1), "_version"),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), CALLED, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_there_and_takes_what_it_is_given(owner, name, parameters):
    known = inspect.signature(getattr(owner, name)).parameters
    assert set(parameters) <= known.keys(), f"{name} now takes {', '.join(known)}"


@pytest.mark.parametrize(("owner", "name"), READ, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_there(owner, name):
    assert hasattr(owner, name)


def test_a_prepared_generation_config_has_what_the_loop_reads():
    assert "_pad_token_tensor" in GenerationConfig.__annotations__
    assert generation.knows_cached_tokens() == ("_mask_length" in GenerationConfig.__annotations__)


def test_arguments_of_each_phase(models):
    pipe = transformers.pipeline("text-classification", model=models.text_classifier)
    sorted_ = doors.sort_arguments(pipe, {"top_k": 2, "truncation": True})
    assert sorted_.preprocess_params["truncation"] is True
    assert sorted_.postprocess_params["top_k"] == 2
    assert not doors.generates(pipe)


def test_arguments_of_generate(tmp_path):
    from support import tiny_text

    pipe = transformers.pipeline("text-generation", model=tiny_text.chat_model(tmp_path))
    assert doors.generates(pipe)
    assert doors.arguments_of_generate(pipe, {"max_new_tokens": 3})["max_new_tokens"] == 3
    assert generation.merged_config(pipe, {"max_new_tokens": 3}).max_new_tokens == 3
    assert not doors.nests_arguments_of_generate(pipe)
    assert generation.continues_prompts(pipe)
    assert len(generation.processors_of(pipe.model, GenerationConfig(temperature=0.5, do_sample=True))) >= 1
    with pytest.raises(ValueError, match="nonsense"):
        generation.refuse_unknown(pipe.model, None, {"nonsense": 1})


def test_the_cache_has_one_of_the_names_that_are_known(models, tmp_path):
    from support import tiny_text

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_text.chat_model(tmp_path))
    outputs = model(torch.ones((1, 3), dtype=torch.long), use_cache=True)
    name = next(name for name in generation.CACHES if name in outputs)
    assert isinstance(outputs[name], transformers.Cache)
    grown = generation.after_tokens(model, {name: outputs[name], "attention_mask": torch.ones(1, 3)}, 2)
    assert grown["attention_mask"].shape == (1, 5)
    assert generation.cache_name(grown) == name


def test_classes_of_pipelines_and_models():
    kind = doors.pipeline_class("text-generation")
    assert kind is TextGenerationPipeline
    assert "tokenizer" in doors.components(kind)
    config = transformers.BertConfig()
    first, *_ = auto_classes.models_of(transformers.AutoModelForSequenceClassification, config)
    assert first is transformers.BertForSequenceClassification
    assert auto_classes.models_of(transformers.AutoModelForCTC, config) == ()


def test_frames_of_speech_models(models):
    model = transformers.AutoModelForCTC.from_pretrained(models.ctc)
    assert frames_of(model, builders.RATE) == model(torch.ones(1, builders.RATE)).logits.shape[1]
    assert frames_of(torch.nn.Linear(1, 1), 100) is None
