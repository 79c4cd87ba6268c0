"""Tiny models of the tasks that read text, tables and documents, and of those that write text or speech."""

import json
import string
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer, models, pre_tokenizers

from support.builders import WORDS, bert_config, word_tokenizer

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|> {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }} "
    "{% elif part['type'] == 'image' %}<image> {% elif part['type'] == 'audio' %}<|AUDIO|> {% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
CHAT_TOKENS = ["<pad>", "<unk>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>", "<|AUDIO|>"]


def create(kind: type[transformers.PreTrainedModel], config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """A model with random weights that do not depend on what was created before; larger than usual, for answers that differ."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
    return model


def keep(model: transformers.PreTrainedModel, folder: Path, *processors: object) -> str:
    """Saves a model and what belongs to it."""
    for part in (model, *processors):
        part.save_pretrained(folder)
    return str(folder)


def names(*labels: str) -> dict[str, object]:
    """The arguments of a configuration that name its labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def chat_tokenizer(**options: object) -> transformers.PreTrainedTokenizerFast:
    """One token per known word or letter, special tokens of a chat, padding on the left."""
    words = dict.fromkeys([*CHAT_TOKENS, *WORDS, *string.ascii_uppercase, "Yes", "No", *".,:;?!'\"(){}[]"])
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<|end|>", "padding_side": "left"}
    extra = {"additional_special_tokens": CHAT_TOKENS[4:]}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special, **extra, **options)
    fast.chat_template = CHAT
    return fast


def llama_config(**options: object) -> transformers.LlamaConfig:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaConfig(
        vocab_size=len(chat_tokenizer()),
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **{**size, **options},
    )


def chat_model(folder: Path) -> str:
    return keep(create(transformers.LlamaForCausalLM, llama_config()), folder, chat_tokenizer())


def token_classifier(folder: Path, longest: int = 512) -> str:
    config = bert_config(**names("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = longest
    return keep(create(transformers.BertForTokenClassification, config), folder, tokenizer)


def short_token_classifier(folder: Path) -> str:
    return token_classifier(folder, 24)


def masked(folder: Path) -> str:
    return keep(create(transformers.BertForMaskedLM, bert_config()), folder, word_tokenizer())


def tapas(folder: Path) -> str:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[EMPTY]"]
    symbols = [*string.digits, *(f"##{digit}" for digit in string.digits)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*special, *dict.fromkeys([*WORDS, *symbols])]))
    tokenizer = transformers.TapasTokenizer(str(folder / "vocab.txt"), model_max_length=256)
    aggregations = {0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"}
    config = transformers.TapasConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        type_vocab_sizes=[3, 32, 32, 2, 32, 32, 10],
        num_aggregation_labels=4,
        aggregation_labels=aggregations,
        no_aggregation_label_index=0,
        average_logits_per_cell=False,
    )
    model = create(transformers.TapasForQuestionAnswering, config)
    with torch.no_grad():
        model.output_weights.normal_(0, 0.5)
        model.column_output_weights.normal_(0, 0.5)
    return keep(model, folder, tokenizer)


def layoutlm(folder: Path) -> str:
    config = transformers.LayoutLMConfig(
        vocab_size=len(word_tokenizer()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=512,
        max_2d_position_embeddings=1024,
    )
    return keep(create(transformers.LayoutLMForQuestionAnswering, config), folder, word_tokenizer())


def vits(folder: Path) -> str:
    """Speech without its noise, so that a text always gives the same samples."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["<pad>", "<unk>", *" '", *string.ascii_lowercase]
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(vocabulary)}))
    tokenizer = transformers.VitsTokenizer(str(folder / "vocab.json"), phonemize=False)
    config = transformers.VitsConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=32,
        flow_size=16,
        spectrogram_bins=9,
        use_stochastic_duration_prediction=False,
        duration_predictor_filter_channels=16,
        prior_encoder_num_flows=2,
        prior_encoder_num_wavenet_layers=2,
        posterior_encoder_num_wavenet_layers=2,
        upsample_initial_channel=32,
        upsample_rates=[8, 4],
        upsample_kernel_sizes=[16, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        noise_scale=0.0,
        noise_scale_duration=0.0,
        sampling_rate=16_000,
    )
    model = create(transformers.VitsModel, config)
    with torch.no_grad():
        model.duration_predictor.proj.weight.mul_(0.3)
    return keep(model, folder, tokenizer)


def musicgen(folder: Path) -> str:
    encoder = transformers.T5Config(
        vocab_size=len(word_tokenizer()), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, pad_token_id=0
    )
    codec = transformers.EncodecConfig(
        sampling_rate=16_000,
        num_filters=4,
        hidden_size=16,
        codebook_dim=16,
        codebook_size=32,
        upsampling_ratios=[8, 4],
        num_lstm_layers=1,
        target_bandwidths=[10.0],
        normalize=False,
        use_causal_conv=False,
    )
    decoder = transformers.MusicgenDecoderConfig(
        vocab_size=32,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        ffn_dim=64,
        num_codebooks=4,
        audio_channels=1,
        max_position_embeddings=128,
        pad_token_id=32,
        bos_token_id=32,
    )
    config = transformers.MusicgenConfig(text_encoder=encoder, audio_encoder=codec, decoder=decoder)
    model = create(transformers.MusicgenForConditionalGeneration, config)
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()
    model.generation_config.decoder_start_token_id = 32
    model.generation_config.pad_token_id = 32
    extractor = transformers.EncodecFeatureExtractor(sampling_rate=16_000, feature_size=1)
    return keep(model, folder, word_tokenizer(), extractor)


def page(words: str, width: int = 400, height: int = 160) -> Image.Image:
    """A page with large print, five words in a line."""
    image = Image.new("RGB", (width, height), "white")
    parts = words.split()
    lines = "\n".join(" ".join(parts[start : start + 5]) for start in range(0, len(parts), 5))
    ImageDraw.Draw(image).multiline_text((10, 10), lines, fill="black", font=ImageFont.load_default(24), spacing=12)
    return image


def boxes(words: str) -> list[list[object]]:
    """Every word with its place on a page of 1000 by 1000: ten words in a line."""
    places = ((index % 10 * 95, index // 10 * 40) for index in range(1000))
    return [[word, [x, y, x + 80, y + 25]] for word, (x, y) in zip(words.split(), places, strict=False)]
