"""Image files of any size and colour as the model's images: grey, 28 x 28, light on black."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps

from lenet_study.errors import UserError, one_line
from lenet_study.training.data_files import IMAGE_HEADER
from lenet_study.training.model import SIDE

MAX_BYTES = 100 * 2**20  # of a file, compressed or not
MAX_PIXELS = 50_000_000  # 200 MB in colours with alpha; a camera's image has 12 to 24 million
IDX_MAGIC = bytes((0, 0, 8, 3))  # unsigned bytes in three dimensions: https://yann.lecun.com/exdb/mnist
GZIP_MAGIC = b"\x1f\x8b"
FIRST_IMAGES = 10  # taken of an IDX file if no number is given
BACKGROUND_LIGHT = 128  # median grey level of the border from which an image is taken for dark on light
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """An image as the model takes it, and what was done to it."""

    name: str  # of its file, with the number of the image in an IDX file
    pixels: torch.Tensor  # uint8 [28, 28]
    assumptions: str  # in words


def read_image_files(names: list[str]) -> list[PreparedImage]:
    """Read PNG, JPEG and IDX files; ``FILE:N`` names one image of an IDX file, counting from 0.

    Raises:
        UserError: A file cannot be read, is too large, or holds no image.
    """
    return [image for name in names for image in _read_file(name)]


def _read_file(name: str) -> list[PreparedImage]:
    path, number = _split_number(name)
    try:
        if not path.is_file():  # a pipe or a device could be read for ever
            raise OSError("it is no file" if path.exists() else "there is no such file")
        if path.stat().st_size > MAX_BYTES:
            raise OSError(f"it has more than {MAX_BYTES // 2**20} MB")
        with path.open("rb") as file:
            start = file.read(len(IDX_MAGIC))
        if start == IDX_MAGIC:
            with path.open("rb") as idx:
                return _read_idx(idx, path, number)
        if start.startswith(GZIP_MAGIC):
            with gzip.open(path) as idx:
                return _read_idx(idx, path, number)
        if number is not None:
            raise ValueError("it is no IDX file, of which a number names an image")
        return [_prepare(path)]
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or one_line(error, 200)
        raise UserError(f"image={name} cannot be read ({reason}): name PNG, JPEG or IDX files") from error


def _split_number(name: str) -> tuple[Path, int | None]:
    match = re.fullmatch(r"(.+):([0-9]{1,9})", name)
    numbered = match and not os.path.lexists(name)
    return (Path(match[1]), int(match[2])) if match and numbered else (Path(name), None)


def _read_idx(file: IO[bytes] | gzip.GzipFile, path: Path, number: int | None) -> list[PreparedImage]:
    """Read one image of a file in the data set's own format, or its first."""
    header = file.read(IMAGE_HEADER)
    magic, count, rows, columns = struct.unpack(">4s3I", header)
    if magic != IDX_MAGIC or (rows, columns) != (SIDE, SIDE):
        raise ValueError(f"it holds no images of {SIDE} x {SIDE} bytes")
    if number is not None and number >= count:
        raise ValueError(f"it holds images 0 to {count - 1}")
    numbers = range(min(count, FIRST_IMAGES)) if number is None else [number]
    if not numbers:
        raise ValueError("it holds no image")
    start, size = IMAGE_HEADER + numbers[0] * SIDE * SIDE, len(numbers) * SIDE * SIDE
    if start + size > MAX_BYTES:  # of a small compressed file, too
        raise ValueError(f"image {numbers[0]} lies beyond {MAX_BYTES // 2**20} MB")
    file.seek(start)
    if len(content := file.read(size)) < size:
        raise ValueError("it is cut off")
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(len(numbers), SIDE, SIDE)
    assumptions = f"as it is in the file, the first {FIRST_IMAGES} at most" if number is None else "as it is"
    return [
        PreparedImage(name=f"{path}:{index}", pixels=image, assumptions=assumptions)
        for index, image in zip(numbers, pixels, strict=True)
    ]


def _prepare(path: Path) -> PreparedImage:
    """Read a PNG or JPEG file, and turn it into an image like those of the data set."""
    with Image.open(path, formats=("PNG", "JPEG")) as opened:
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}")
        steps = [f"{width} x {height} {opened.mode}"]
        image = _grey(ImageOps.exif_transpose(opened), steps)
    border = np.asarray(image)
    edges = np.concatenate([border[0], border[-1], border[:, 0], border[:, -1]])
    background = int(np.median(edges))
    if background >= BACKGROUND_LIGHT:
        image, background = ImageOps.invert(image), 255 - background
        steps.append("inverted, because its background is light")
    else:
        steps.append("taken for light on dark")
    if image.size != (SIDE, SIDE):
        if width != height:
            steps.append("made square with its background")
        image = ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.BILINEAR, color=background)
        steps.append(f"resized to {SIDE} x {SIDE}")
    pixels = torch.from_numpy(np.array(image))
    return PreparedImage(name=str(path), pixels=pixels, assumptions=", ".join(steps))


def _grey(image: Image.Image, steps: list[str]) -> Image.Image:
    """Return an image in 256 grey levels; what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        steps.append("16 bits made 8")
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        steps.append("laid on white")
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    if image.mode != "L":
        steps.append("made grey")
    return image.convert("L")
