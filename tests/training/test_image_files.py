"""Image files of all kinds become the model's images, and say how."""

import gzip
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from toys import toy_split

from lenet_study.errors import UserError
from lenet_study.training import image_files
from lenet_study.training.image_files import read_image_files

IMAGES = toy_split(12, seed=3).images
LIGHT = Image.fromarray(IMAGES[0].numpy())  # light on black, as in the data set


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def read(name):
    (image,) = read_image_files([name])
    return image


def difference(image):
    return (image.pixels.int() - IMAGES[0].int()).abs().max()


def idx(images, count=None):
    header = struct.pack(">4s3I", image_files.IDX_MAGIC, len(images) if count is None else count, 28, 28)
    return header + images.numpy().tobytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_an_image_of_the_data_set_stays_as_it_is(mode, tmp_path):
    image = read(save(LIGHT.convert(mode), tmp_path / "a.png"))
    assert difference(image) == 0
    assert image.name == str(tmp_path / "a.png")
    assert "taken for light on dark" in image.assumptions


def test_sixteen_bits_become_eight(tmp_path):
    sixteen = Image.fromarray(np.asarray(LIGHT).astype(np.uint16) * 257)
    assert difference(read(save(sixteen, tmp_path / "a.png"))) == 0


def test_dark_on_light_is_inverted(tmp_path):
    dark = Image.fromarray(255 - np.asarray(LIGHT))
    image = read(save(dark.convert("CMYK"), tmp_path / "a.jpg", quality=100))
    assert difference(image) <= 6
    assert image.assumptions == "28 x 28 CMYK, made grey, inverted, because its background is light"


def test_what_is_transparent_is_white_and_so_the_background(tmp_path):
    clothes = Image.merge("LA", (Image.new("L", (28, 28), 0), LIGHT))  # black where the image is
    image = read(save(clothes, tmp_path / "a.png"))
    assert difference(image) <= 1
    assert "laid on white" in image.assumptions


def test_a_large_image_is_resized_with_antialiasing(tmp_path):
    lines = np.tile(np.array([0, 255], np.uint8), (280, 140))
    image = read(save(Image.fromarray(lines), tmp_path / "a.png"))
    assert image.pixels.float().std() < 10  # grey: without it, some lines would stay
    assert "resized to 28 x 28" in image.assumptions


def test_an_oblong_image_is_made_square_with_its_background(tmp_path):
    image = read(save(Image.new("L", (10, 100), 40), tmp_path / "a.png"))
    assert image.pixels.unique().tolist() == [40]
    assert "made square" in image.assumptions


def test_a_photograph_is_turned_as_it_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = read(save(LIGHT.rotate(180), tmp_path / "a.png", exif=exif))
    assert difference(image) == 0


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
def test_idx_files_give_one_image_or_the_first(pack, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(pack(idx(IMAGES)))
    assert torch.equal(read(f"{path}:11").pixels, IMAGES[11])
    first = read_image_files([str(path)])
    assert [image.name for image in first] == [f"{path}:{number}" for number in range(10)]
    assert torch.equal(torch.stack([image.pixels for image in first]), IMAGES[:10])


@pytest.mark.parametrize(
    ("content", "number", "reason"),
    [
        (idx(IMAGES), ":12", "images 0 to 11"),
        (idx(IMAGES)[:-1], ":11", "cut off"),
        (idx(IMAGES[:0]), "", "no image"),
        (idx(IMAGES)[:12], "", "requires a buffer"),
        (gzip.compress(idx(IMAGES))[:-200], ":11", "end-of-stream"),
        (gzip.compress(idx(IMAGES[:1], count=10**6)), ":900000", "lies beyond 100 MB"),
        (b"GIF89a" + bytes(50), "", "cannot identify"),
        (b"", "", "cannot identify"),
    ],
)
def test_broken_files_are_refused(content, number, reason, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=f"image=.*/a{number} cannot be read .*{reason}.*: name PNG"):
        read_image_files([f"{tmp_path}/a{number}"])


@pytest.mark.parametrize("side", [7100, 20_000], ids=["more than ours", "more than Pillow's"])
def test_an_image_that_would_fill_the_memory_is_refused(side, tmp_path):
    save(Image.new("1", (side, side)), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"cannot be read .*pixels"):
        read(str(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_no_damaged_byte_ends_in_a_traceback(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    whole = (LIGHT.save(path), path.read_bytes())[1]
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with suppress(UserError):  # all else fails
            read(str(path))
