"""The report's four augmentations, applied to a whole batch of uint8 images at once.

Every image draws its own values. The arithmetic is that of torchvision's transforms on PIL images, which
the report used: grey levels are truncated after every step, and the results are equal pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLIP_PROBABILITY = 0.25
JITTER = 0.2  # brightness and contrast factors lie in [1 - JITTER, 1 + JITTER]
AUTOCONTRAST_PROBABILITY = 0.2
SOLARIZE_PROBABILITY = 0.2
SOLARIZE_THRESHOLD = 15  # grey level; black below it stays black


@dataclass(frozen=True)
class Draws:
    """What each of N images drew: bool [N], or factors float32 [N]."""

    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    autocontrast: Tensor
    solarize: Tensor


def draw(count: int, generator: torch.Generator) -> Draws:
    """Draw the report's random choices for ``count`` images, on the generator's device."""
    uniform = torch.rand(6, count, generator=generator, device=generator.device)
    return Draws(
        flip=uniform[0] < FLIP_PROBABILITY,
        brightness=1 - JITTER + 2 * JITTER * uniform[1],
        contrast=1 - JITTER + 2 * JITTER * uniform[2],
        contrast_first=uniform[3] < 0.5,
        autocontrast=uniform[4] < AUTOCONTRAST_PROBABILITY,
        solarize=uniform[5] < SOLARIZE_PROBABILITY,
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, jitter, autocontrast and solarize at random.

    Args:
        images: uint8 [N, 28, 28].
        generator: Source of the draws; on the images' device.

    Returns:
        uint8 [N, 28, 28], a new tensor.
    """
    return apply(images, draw(len(images), generator))


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Apply drawn choices to uint8 images [N, 28, 28], in the report's order."""
    images = torch.where(_each(draws.flip), images.flip(-1), images)
    images = _jitter(images, draws)
    images = _where(draws.autocontrast, autocontrast, images)
    return _where(draws.solarize, solarize, images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` [N]: towards black below 1."""
    return (images * _each(factor)).clamp_(0, 255).to(torch.uint8)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean grey level by ``factor`` [N]: towards the mean below 1."""
    pixels = images[0].numel()
    total = images.sum((-2, -1), dtype=torch.int32)
    mean = _each((2 * total + pixels).div(2 * pixels, rounding_mode="floor").float())
    return (images - mean).mul_(_each(factor)).add_(mean).clamp_(0, 255).to(torch.uint8)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each image's grey levels to 0..255; an image of one grey level stays as it is."""
    low, high = images.amin((-2, -1)), images.amax((-2, -1))
    flat = low == high
    scale = torch.where(flat, 1.0, torch.full_like(low, 255, dtype=torch.float64) / (high - low))
    offset = torch.where(flat, 0.0, -low.double() * scale)
    levels = torch.arange(256, device=images.device)
    table = (levels * scale[:, None] + offset[:, None]).clamp_(0, 255).to(torch.uint8)
    return table.gather(1, images.flatten(1).long()).view_as(images)


def solarize(images: Tensor) -> Tensor:
    """Invert the grey levels at or above the threshold."""
    return torch.where(images >= SOLARIZE_THRESHOLD, 255 - images, images)


def _jitter(images: Tensor, draws: Draws) -> Tensor:
    result = torch.empty_like(images)
    for first, steps in (
        (draws.contrast_first, (contrast, brightness)),
        (~draws.contrast_first, (brightness, contrast)),
    ):
        rows = first.nonzero().squeeze(1)
        part = images[rows]
        for step in steps:
            part = step(part, getattr(draws, step.__name__)[rows]) if len(rows) else part
        result[rows] = part
    return result


def _where(chosen: Tensor, step: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    rows = chosen.nonzero().squeeze(1)
    return images.index_copy(0, rows, step(images[rows])) if len(rows) else images


def _each(values: Tensor) -> Tensor:
    return values[:, None, None]
