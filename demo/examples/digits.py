"""The example `images`: the 1,797 handwritten digits of scikit-learn, as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch.nn import functional
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline

from demo.examples.training import fit, save, share, words

NAMES = words("zero one two three four five six seven eight nine")
EVERY = 6  # one digit in EVERY is kept out of training
SIDE = 16  # pixels of the model's input, in each direction


def pictures() -> list[Image.Image]:
    """All digits, dark on white, 64 by 64 pixels."""
    inks = load_digits().images  # 8 by 8, 0 to 16
    grey = [Image.fromarray((255 - 15.9375 * ink).astype(np.uint8)) for ink in inks]
    return [image.resize((64, 64), Image.Resampling.BICUBIC) for image in grey]


def moved(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The images, each a little rotated, scaled and shifted, with white outside; (images, channels, height, width)."""
    angle = rng.normal(0, 0.15, len(images))
    scale = rng.normal(1, 0.1, (2, len(images)))
    shift = rng.normal(0, 0.1, (2, len(images)))
    rows = [[scale[0] * np.cos(angle), -np.sin(angle), shift[0]], [np.sin(angle), scale[1] * np.cos(angle), shift[1]]]
    affine = torch.tensor(np.array(rows), dtype=torch.float32).permute(2, 0, 1)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return 1 - functional.grid_sample(1 - images, grid, align_corners=False)


def build(model: Path, data: Path) -> float:
    """Trains the model and writes the digits kept out as files; returns the share of them that is read rightly."""
    images, digits = pictures(), load_digits().target
    kept_out = np.arange(len(images)) % EVERY == 0
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    pixels = processor([image.convert("RGB") for image in images], return_tensors="pt").pixel_values
    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        id2label=dict(enumerate(NAMES)),
        label2id={name: digit for digit, name in enumerate(NAMES)},
    )
    classifier = ViTForImageClassification(config)

    def loss_of(rng: np.random.Generator) -> torch.Tensor:
        chosen = rng.choice(np.flatnonzero(~kept_out), 64)
        return classifier(pixel_values=moved(pixels[chosen], rng), labels=torch.from_numpy(digits[chosen])).loss

    fit(classifier, loss_of, steps=1000, rate=1e-3)
    read = pipeline("image-classification", model=save(model, classifier, processor))
    data.mkdir(parents=True, exist_ok=True)
    unseen = [(images[number], NAMES[digits[number]]) for number in np.flatnonzero(kept_out)]
    for number, (image, name) in enumerate(unseen):
        image.save(data / f"{number:03}-{name}.png")
    return share(read(image, top_k=1)[0]["label"] == name for image, name in unseen)
