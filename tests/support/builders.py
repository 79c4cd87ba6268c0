"""Tiny models with random weights, with their tokenizers and processors, built offline. Seeds are fixed."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

RATE = 16_000
WORDS = (
    "the a of to and in is it that was for on are with as at be this from have or by one had not but what all were when "
    "we there can an your which their said if do will each about how up out them then she many some so these would other "
    "into has more her two like him see time could no make than first been its who now people my made over did down only "
    "way find use may water long little very after words called just where most know"
).split()


def text(rng: np.random.Generator, words: int) -> str:
    """`words` random words."""
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), words))


def texts(count: int, seed: int = 0, median: float = 39.0, sigma: float = 0.8, longest: int = 400) -> list[str]:
    """Texts of lognormal lengths in words."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(median), sigma, count), 1, longest).astype(int)
    return [text(rng, int(length)) for length in lengths]


def word_tokenizer(padding_side: str = "right") -> transformers.PreTrainedTokenizerFast:
    """One token per known word, BERT's special tokens around them."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    options = dict(model_max_length=512, padding_side=padding_side)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options, **names)


def save(model: transformers.PreTrainedModel, folder: Path, *processors: object) -> str:
    """Saves a model and what belongs to it; larger random weights than usual, so that answers differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return str(folder)


def bert_config(layers: int = 2, hidden: int = 32, **kwargs: object) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=len(WORDS) + 5, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * hidden, max_position_embeddings=512, **kwargs,
    )  # fmt: skip


def text_classifier(folder: Path, layers: int = 2, hidden: int = 32) -> str:
    labels = {0: "good", 1: "bad", 2: "ugly"}
    config = bert_config(layers, hidden, id2label=labels, label2id={name: i for i, name in labels.items()})
    return save(transformers.BertForSequenceClassification(config), folder, word_tokenizer())


def entailment(folder: Path) -> str:
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = bert_config(id2label=labels, label2id={name: i for i, name in labels.items()})
    return save(transformers.BertForSequenceClassification(config), folder, word_tokenizer())


def text_encoder(folder: Path, layers: int = 2, hidden: int = 32) -> str:
    return save(transformers.BertModel(bert_config(layers, hidden)), folder, word_tokenizer())


def ctc(folder: Path, norm: str = "layer", **larger: object) -> str:
    """A Wav2Vec2 of one frame per 320 samples; with norm="group" padding would change its results."""
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnop"]
    size = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 16, 16))
    config = transformers.Wav2Vec2Config(
        vocab_size=len(symbols), conv_kernel=(40, 8, 4), conv_stride=(40, 4, 2), feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer", num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, pad_token_id=0,
        **{**size, **larger},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=norm == "group")
    processor = transformers.Wav2Vec2Processor(extractor, transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")))
    return save(transformers.Wav2Vec2ForCTC(config), folder, processor)


def whisper(folder: Path, **larger: object) -> str:
    """A Whisper with its real tokens for tasks, two languages and timestamps."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    special += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    stamps = [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    vocabulary = {token: i for i, token in enumerate([*letters, *special, *stamps])}
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], language="en", task="transcribe")
    tokenizer.add_tokens([transformers.AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([transformers.AddedToken(token, special=False) for token in stamps])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    end, start, no_stamps = ids["<|endoftext|>"], ids["<|startoftranscript|>"], ids["<|notimestamps|>"]
    size = dict(
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64,
    )  # fmt: skip
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, max_source_positions=1500,
        max_target_positions=64, pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None, **{**size, **larger},
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    generation = dict(
        _from_model_config=False, no_timestamps_token_id=no_stamps,
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}, is_multilingual=True,
        max_initial_timestamp_index=50, alignment_heads=[[0, 0], [1, 1]], max_length=40, return_timestamps=False,
        prev_sot_token_id=ids["<|startofprev|>"], num_beams=1, language="en", task="transcribe",
    )  # fmt: skip
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    return save(model, folder, transformers.WhisperProcessor(extractor, tokenizer))


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """(samples,) float32 at RATE: tones that change, and some noise."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    tones = rng.uniform(80, 3000, samples // 1600 + 1).repeat(1600)[:samples]
    wave = np.sin(2 * np.pi * np.cumsum(tones) / RATE) * rng.uniform(0, 1, samples // 800 + 1).repeat(800)[:samples]
    return (0.3 * wave + 0.02 * rng.standard_normal(samples)).astype(np.float32)
