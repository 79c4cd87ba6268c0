"""Tiny models of the tasks that listen, apart from recognition."""

from pathlib import Path

import torch
import transformers

from support.builders import RATE, word_tokenizer
from support.tiny_text import chat_tokenizer, create, keep, names

LABELS = names("speech", "music", "noise", "silence")


def wav2vec2(folder: Path) -> str:
    config = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 16, 16),
        conv_kernel=(40, 8, 4),
        conv_stride=(40, 4, 2),
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=32,
        **LABELS,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True)
    return keep(create(transformers.Wav2Vec2ForSequenceClassification, config), folder, extractor)


def spectrogram_transformer(folder: Path) -> str:
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
        max_length=128,
        num_mel_bins=32,
        **LABELS,
    )
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128)
    return keep(create(transformers.ASTForAudioClassification, config), folder, extractor)


def clap(folder: Path) -> str:
    config = transformers.ClapConfig(
        text_config={
            "vocab_size": len(word_tokenizer()),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
        audio_config={
            "hidden_size": 32,
            "num_mel_bins": 16,
            "spec_size": 64,
            "window_size": 4,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
        },
        projection_dim=16,
    )
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=RATE,
        hop_length=320,
        max_length_s=4,
        frequency_max=8000,
        truncation="rand_trunc",
    )
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 62
    return keep(create(transformers.ClapModel, config), folder, tokenizer, extractor)


def audio_chat(folder: Path) -> str:
    tokenizer = chat_tokenizer()
    config = transformers.Qwen2AudioConfig(
        audio_config=transformers.Qwen2AudioEncoderConfig(
            num_mel_bins=16,
            d_model=32,
            encoder_layers=1,
            encoder_attention_heads=4,
            encoder_ffn_dim=64,
            max_source_positions=100,
        ),
        text_config=transformers.Qwen2Config(
            vocab_size=len(tokenizer),
            num_key_value_heads=4,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    processor = transformers.Qwen2AudioProcessor(extractor, tokenizer, chat_template=tokenizer.chat_template)
    model = create(transformers.Qwen2AudioForConditionalGeneration, config)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight.mul_(4)  # so that answers depend on what was heard
    return keep(model, folder, processor)
