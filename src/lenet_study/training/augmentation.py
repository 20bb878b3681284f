"""The report's four augmentations and two more, applied to a whole batch of uint8 images at once.

Every image draws its own values. The arithmetic is that of torchvision's transforms on PIL images, which
the report used: grey levels are truncated after every step, and the results are equal pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lenet_study.recipes.variants import Augmentation

SOLARIZE_THRESHOLD = 15  # grey level; black below it stays black
ERASED_AREA = (0.02, 0.33)  # shares of the image, and ratios of height to width: torchvision's
ERASED_RATIO = (0.3, 3.3)
AS_PUBLISHED = Augmentation()


@dataclass(frozen=True)
class Draws:
    """Random choices for N images: bool [N], or factors float32 [N]."""

    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    autocontrast: Tensor
    solarize: Tensor


def draw(count: int, generator: torch.Generator, strength: Augmentation = AS_PUBLISHED) -> Draws:
    """Draw the report's random choices for ``count`` images, on the generator's device."""
    uniform = torch.rand(6, count, generator=generator, device=generator.device)
    return Draws(
        flip=uniform[0] < strength.flip,
        brightness=1 - strength.jitter + 2 * strength.jitter * uniform[1],
        contrast=1 - strength.jitter + 2 * strength.jitter * uniform[2],
        contrast_first=uniform[3] < 0.5,
        autocontrast=uniform[4] < strength.autocontrast,
        solarize=uniform[5] < strength.solarize,
    )


def augment(images: Tensor, generator: torch.Generator, strength: Augmentation = AS_PUBLISHED) -> Tensor:
    """Return uint8 images [N, 28, 28] changed at random; the generator is on their device."""
    images = apply(images, draw(len(images), generator, strength))
    if strength.shift:
        span = (-strength.shift, strength.shift + 1)
        moves = torch.randint(*span, (2, len(images)), generator=generator, device=generator.device)
        images = shift(images, *moves)
    if strength.erase:
        uniform = torch.rand(5, len(images), generator=generator, device=generator.device)
        rows = (uniform[0] < strength.erase).nonzero().squeeze(1)
        images = images.index_copy(0, rows, erase(images[rows], uniform[1:, rows]))
    return images


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Apply drawn choices to uint8 images [N, 28, 28], in the report's order."""
    images = torch.where(_per_image(draws.flip), images.flip(-1), images)
    # Brightness and contrast change in each image's own order; both truncate grey levels.
    images = _where(draws.contrast_first, contrast, images, draws.contrast)
    images = brightness(images, draws.brightness)
    images = _where(~draws.contrast_first, contrast, images, draws.contrast)
    images = _where(draws.autocontrast, autocontrast, images)
    return _where(draws.solarize, solarize, images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor`` [N]: towards black below 1."""
    return (images * _per_image(factor)).clamp_(0, 255).to(torch.uint8)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's mean grey level by ``factor`` [N]: towards the mean below 1."""
    pixels = images[0].numel()
    total = images.sum((-2, -1), dtype=torch.int32)
    mean = _per_image((2 * total + pixels).div(2 * pixels, rounding_mode="floor").float())
    return (images - mean).mul_(_per_image(factor)).add_(mean).clamp_(0, 255).to(torch.uint8)


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


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move each image by ``down`` and ``right`` [N] pixels; black moves in."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down[:, None]
    columns = torch.arange(width, device=images.device) - right[:, None]
    sources = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(1).gather(1, sources.flatten(1)).view_as(images)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return moved * inside


def erase(images: Tensor, uniform: Tensor) -> Tensor:
    """Blacken a rectangle in each image; ``uniform`` [4, N] in [0, 1) decides area, ratio, top and left."""
    height, width = images.shape[-2:]
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * uniform[0])
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    ratio = (low + (high - low) * uniform[1]).exp()
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top = (uniform[2] * (height - tall + 1)).floor()
    left = (uniform[3] * (width - wide + 1)).floor()
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)[None, :]
    inside = (rows >= _per_image(top)) & (rows < _per_image(top + tall))
    inside = inside & (columns >= _per_image(left)) & (columns < _per_image(left + wide))
    return images.masked_fill(inside, 0)


def _where(chosen: Tensor, step: Callable[..., Tensor], images: Tensor, *factors: Tensor) -> Tensor:
    """Apply a step to the chosen images [N] alone."""
    rows = chosen.nonzero().squeeze(1)
    if not len(rows):
        return images
    return images.index_copy(0, rows, step(images[rows], *(factor[rows] for factor in factors)))


def _per_image(values: Tensor) -> Tensor:
    """Shape values [N] so that they act on images [N, 28, 28]."""
    return values[:, None, None]
