"""Images within a page: one sheet of all, single ones, and the nearest of other images."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lenet_study.training.dataset import Split
from lenet_study.training.model import SIDE

QUALITY = 30  # of WebP: all 10,000 test images take 1.25 MB, as PNG 5.5 MB
EFFORT = 4  # of its encoder, 0..6
_CHUNK = 10_000  # images compared at once


def sheet(images: Tensor) -> tuple[str, int]:
    """Return uint8 images [N, 28, 28] as one picture, a ``data:`` address, and its images per row."""
    columns = max(1, math.isqrt(len(images) - 1) + 1) if len(images) else 1
    rows = -(-len(images) // columns)
    tiles = np.zeros((rows * columns, SIDE, SIDE), dtype=np.uint8)
    tiles[: len(images)] = images.numpy()
    whole = tiles.reshape(rows, columns, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE)
    return _address(whole, "webp", quality=QUALITY, method=EFFORT), columns


def single(image: Tensor) -> str:
    """Return one image uint8 [28, 28] as a ``data:`` address."""
    return _address(image.numpy(), "png", optimize=True)


def scatter(coordinates: np.ndarray, colours: np.ndarray, side: int) -> str:
    """Return points float [N, 2] in 0..1 as a square picture: for readers and printers without scripts.

    Args:
        coordinates: Across and down.
        colours: Of each point, uint8 [N, 3].
        side: Pixels.
    """
    pixels = np.zeros((side, side, 4), dtype=np.uint8)
    columns, rows = (coordinates.T * (side - 3)).astype(int)
    for down in (0, 1):
        for across in (0, 1):
            pixels[rows + down, columns + across, :3] = colours
            pixels[rows + down, columns + across, 3] = 255
    return _address(pixels, "png", optimize=True)


def nearest(images: Tensor, others: Split) -> list[int]:
    """Return the row among ``others`` of the image with the least sum of squared grey-level differences."""
    queries = images.flatten(1).float()
    best = torch.full((len(images),), torch.inf)
    rows = torch.zeros(len(images), dtype=torch.int64)
    for start in range(0, len(others), _CHUNK):
        chunk = others.images[start : start + _CHUNK].flatten(1).float()
        # |q - c|² without |q|², which is the same for all; exact in float32's 24 bits it is not needed.
        least, row = (chunk.square().sum(1) - 2 * queries @ chunk.T).min(1)
        closer = least < best
        best[closer], rows[closer] = least[closer], row[closer] + start
    return rows.tolist()


def _address(pixels: np.ndarray, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
