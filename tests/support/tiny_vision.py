"""Tiny models of the tasks that see images and videos."""

import io
from pathlib import Path

import av
import numpy as np
import torch
import transformers
from PIL import Image

from support.builders import word_tokenizer
from support.tiny_text import chat_tokenizer, create, keep, llama_config, names

LABELS = names("cat", "dog", "bird")
TEXT = {"vocab_size": len(word_tokenizer()), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {"height": 32, "width": 32}
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def picture(width: int = 48, height: int = 40, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth random colours."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, len(mode)), dtype=np.uint8).squeeze()
    return Image.fromarray(coarse, mode=mode).resize((width, height), Image.Resampling.BICUBIC)


def film(frames: int = 8, width: int = 48, height: int = 32, seed: int = 0, rate: int = 8) -> bytes:
    """An mp4 of one picture that fades into another."""
    start, end = (np.asarray(picture(width, height, seed=seed + offset), dtype=float) for offset in (0, 1000))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            image = start + (end - start) * index / max(frames - 1, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def vit_config(**options: object) -> transformers.ViTConfig:
    return transformers.ViTConfig(image_size=32, patch_size=8, **VISION, **options)


def vit(folder: Path) -> str:
    model = create(transformers.ViTForImageClassification, vit_config(**LABELS))
    return keep(model, folder, transformers.ViTImageProcessorPil(size=SQUARE))


def image_encoder(folder: Path) -> str:
    return keep(create(transformers.ViTModel, vit_config()), folder, transformers.ViTImageProcessorPil(size=SQUARE))


def segformer(folder: Path) -> str:
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        **LABELS,
    )
    model = create(transformers.SegformerForSemanticSegmentation, config)
    return keep(model, folder, transformers.SegformerImageProcessorPil(size=SQUARE))


def detr_config(**options: object) -> transformers.DetrConfig:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=STAGES
    )
    return transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=6,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        **LABELS,
        **options,
    )


def far_apart(model: transformers.DetrForObjectDetection) -> None:
    """Queries that differ, so that their boxes do."""
    with torch.no_grad():
        model.model.query_position_embeddings.weight.mul_(20)


def detr(folder: Path) -> str:
    model = create(transformers.DetrForObjectDetection, detr_config())
    far_apart(model)
    return keep(model, folder, transformers.DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}))


def panoptic(folder: Path) -> str:
    model = create(transformers.DetrForSegmentation, detr_config())
    far_apart(model.detr)
    with torch.no_grad():  # so that the masks of the queries differ
        model.bbox_attention.q_proj.weight.mul_(5)
        model.mask_head.conv1.conv.weight[:, 32:].mul_(1000)
        for stage in model.mask_head.fpn_stages:
            stage.fpn_adapter.weight.mul_(0.03)
    return keep(model, folder, transformers.DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}))


def yolos(folder: Path) -> str:
    config = transformers.YolosConfig(image_size=[32, 32], patch_size=8, num_detection_tokens=5, **VISION, **LABELS)
    return keep(create(transformers.YolosForObjectDetection, config), folder, transformers.YolosImageProcessorPil(size=SQUARE))


def dpt(folder: Path) -> str:
    config = transformers.DPTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
    )
    model = create(transformers.DPTForDepthEstimation, config)
    return keep(model, folder, transformers.DPTImageProcessorPil(size=SQUARE))


def clip(folder: Path) -> str:
    config = transformers.CLIPConfig(
        text_config={**TEXT, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 77
    return keep(create(transformers.CLIPModel, config), folder, tokenizer, processor)


def owlvit(folder: Path) -> str:
    config = transformers.OwlViTConfig(
        text_config={**TEXT, "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 16
    processor = transformers.OwlViTImageProcessorPil(size=SQUARE)
    return keep(create(transformers.OwlViTForObjectDetection, config), folder, tokenizer, processor)


def sam(folder: Path) -> str:
    config = transformers.SamConfig(
        vision_config={
            **{key: value for key, value in VISION.items() if key != "intermediate_size"},
            "output_channels": 16,
            "image_size": 64,
            "patch_size": 8,
            "mlp_dim": 64,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    processor = transformers.SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return keep(create(transformers.SamModel, config), folder, processor)


def loftr(folder: Path) -> str:
    config = transformers.EfficientLoFTRConfig(
        stage_num_blocks=[1, 1, 1, 1],
        out_features=[16, 16, 16, 32],
        hidden_size=32,
        num_attention_heads=8,
        num_attention_layers=1,
        coarse_matching_threshold=0.0,
        coarse_matching_border_removal=0,
        fine_matching_slice_dim=4,
    )
    model = create(transformers.EfficientLoFTRForKeypointMatching, config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return keep(model, folder, transformers.EfficientLoFTRImageProcessorPil(size={"height": 64, "width": 64}))


def videomae(folder: Path) -> str:
    config = transformers.VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, tubelet_size=2, **VISION, **LABELS)
    processor = transformers.VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return keep(create(transformers.VideoMAEForVideoClassification, config), folder, processor)


def llava(folder: Path) -> str:
    tokenizer = chat_tokenizer(extra_special_tokens={"image_token": "<image>"})
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=llama_config(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-1,
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return keep(create(transformers.LlavaForConditionalGeneration, config), folder, processor)
