"""Every transform of torchvision that a spec may name, with options for small images."""

from __future__ import annotations

from typing import Any

from raydc.loop import transforms

# Of those that cannot be made without options, or that change too little with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "CenterCrop": {"size": [16, 16]},
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "Compose": {"transforms": ["RandomHorizontalFlip", {"RandomRotation": {"degrees": 20}}]},
    "ElasticTransform": {"alpha": 30.0, "sigma": 0.8},
    "GaussianBlur": {"kernel_size": 3},
    "JPEG": {"quality": [5, 50]},
    "Pad": {"padding": 2},
    "RandomAffine": {"degrees": 20, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 5},
    "RandomAdjustSharpness": {"sharpness_factor": 3.0},
    "RandomApply": {"transforms": [{"ColorJitter": {"hue": 0.3}}, "RandomInvert"], "p": 0.7},
    "RandomChoice": {"transforms": ["RandAugment", {"GaussianNoise": {"sigma": 0.3}}]},
    "RandomCrop": {"size": [9, 7], "padding": 1, "padding_mode": "reflect"},
    "RandomErasing": {"value": [1, 2, 3], "p": 0.9},
    "RandomOrder": {"transforms": ["RandomInvert", "RandomAutocontrast"]},
    "RandomPosterize": {"bits": 3},
    "RandomResize": {"min_size": 10, "max_size": 20},
    "RandomResizedCrop": {"size": [24, 20], "interpolation": "bicubic"},
    "RandomRotation": {"degrees": 15, "interpolation": "bilinear"},
    "RandomShortestSize": {"min_size": [10, 20]},
    "RandomSolarize": {"threshold": 100},
    "Resize": {"size": [8, 8]},
    "ScaleJitter": {"target_size": [20, 20]},
}
OFFERED = sorted(transforms._known())


def steps_of(name: str, shape: tuple[int, ...]) -> list[dict[str, dict[str, Any]]]:
    """`data.augment.transforms` of one transform and of one that restores the size.

    Args:
        name: Name of the transform.
        shape: [C, H, W] of the images.
    """
    channels, height, width = shape
    options = OPTIONS.get(name, {})
    if name == "Grayscale":
        options = {"num_output_channels": channels}
    if name == "RandomErasing":
        options = {**options, "value": [1, 2, 3][:channels]}
    return [{name: options}, {"Resize": {"size": [height, width]}}]
