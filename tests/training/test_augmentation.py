"""The batched augmentations against torchvision's, image by image."""

import math
from dataclasses import fields, replace
from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
from bench.torchvision_import import import_torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lenet_study.recipes.variants import Augmentation
from lenet_study.training import augmentation as augment
from lenet_study.training.augmentation import Draws

import_torchvision()
PIL = import_module("torchvision.transforms.functional")  # on PIL images: the report's path
V2 = import_module("torchvision.transforms.v2.functional")  # on uint8 tensors

COUNT = 20_000  # draws, for frequencies
FACTORS = [0.8, 0.85, 0.9, 0.95, 0.99, 1.0, 1.01, 1.05, 1.1, 1.15, 1.2, 0.8123, 0.9377, 1.1789]
BOOLEANS = {"flip": 0.25, "autocontrast": 0.2, "solarize": 0.2, "contrast_first": 0.5}


def make_images():
    """uint8 [328, 28, 28]: noise, clothing-like, faint clothing-like, and every constant level."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (24, 28, 28), generator=generator, dtype=torch.uint8)
    body = torch.zeros_like(noise)
    body[:, 4:24, 8:21] = noise[:, 4:24, 8:21]
    low = torch.randint(0, 100, (24, 1, 1), generator=generator, dtype=torch.uint8)
    constant = torch.arange(256, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28)
    return torch.cat([noise, body, noise // 2 + low, constant])


IMAGES = make_images()


def by_v2(function, images, *arguments):
    return torch.stack([function(image[None], *arguments)[0] for image in images])


def by_pil(function, images, *arguments):
    pictures = [function(Image.fromarray(image.numpy()), *arguments) for image in images]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))


def distance(one, other):
    """Largest difference in grey levels."""
    assert one.dtype == other.dtype == torch.uint8
    return (one.int() - other.int()).abs().max().item()


def same_for_all(count, **changes):
    """Draws that change nothing, but for ``changes``."""
    never = torch.zeros(count, dtype=torch.bool)
    nothing = Draws(
        flip=never,
        brightness=torch.ones(count),
        contrast=torch.ones(count),
        contrast_first=never,
        autocontrast=never,
        solarize=never,
    )
    return replace(nothing, **changes)


def draws_of(seed, count=COUNT):
    return augment.draw(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_is_torchvisions(factor):
    ours = augment.brightness(IMAGES, torch.full((len(IMAGES),), factor))
    assert distance(ours, by_v2(V2.adjust_brightness, IMAGES, factor)) == 0
    assert distance(ours, by_pil(PIL.adjust_brightness, IMAGES, factor)) == 0


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast_is_torchvisions(factor):
    ours = augment.contrast(IMAGES, torch.full((len(IMAGES),), factor))
    # v2 does not round the mean grey level, PIL does
    assert distance(ours, by_v2(V2.adjust_contrast, IMAGES, factor)) <= 1
    assert distance(ours, by_pil(PIL.adjust_contrast, IMAGES, factor)) == 0


def test_autocontrast_is_torchvisions():
    ranges = [
        torch.linspace(low, high, 784).round().to(torch.uint8).view(28, 28)
        for low in range(0, 256, 5)
        for high in range(low, 256, 3)
    ]
    images = torch.cat([IMAGES, torch.stack(ranges)])
    ours = augment.autocontrast(images)
    # v2 divides in single precision, PIL multiplies in double
    assert distance(ours, by_v2(V2.autocontrast, images)) <= 1
    assert distance(ours, by_pil(PIL.autocontrast, images)) == 0


def test_solarize_is_torchvisions():
    ours = augment.solarize(IMAGES)
    assert distance(ours, by_v2(V2.solarize, IMAGES, 15)) == 0
    assert distance(ours, by_pil(PIL.solarize, IMAGES, 15)) == 0


def test_flip_is_torchvisions():
    flip = torch.ones(len(IMAGES), dtype=torch.bool)
    ours = augment.apply(IMAGES, same_for_all(len(IMAGES), flip=flip))
    assert distance(ours, by_v2(V2.horizontal_flip, IMAGES)) == 0
    assert distance(ours, by_pil(PIL.hflip, IMAGES)) == 0


def test_solarize_keeps_the_background_black():
    levels = torch.tensor([0, 14, 15, 255], dtype=torch.uint8).view(1, 1, 4)
    assert augment.solarize(levels).flatten().tolist() == [0, 14, 240, 0]


def test_factors_are_each_images_own():
    images = IMAGES[:3]
    factors = torch.tensor([0.8, 1.0, 1.2])
    for step in (augment.brightness, augment.contrast):
        alone = [step(images[i : i + 1], factors[i : i + 1])[0] for i in range(3)]
        assert torch.equal(step(images, factors), torch.stack(alone))


def reported(image, draws, row):
    """What the report's pipeline makes of one image."""
    picture = Image.fromarray(image.numpy())
    if draws.flip[row]:
        picture = PIL.hflip(picture)
    jitter = [(PIL.adjust_brightness, draws.brightness), (PIL.adjust_contrast, draws.contrast)]
    for step, factor in reversed(jitter) if draws.contrast_first[row] else jitter:
        picture = step(picture, factor[row].item())
    if draws.autocontrast[row]:
        picture = PIL.autocontrast(picture)
    if draws.solarize[row]:
        picture = PIL.solarize(picture, augment.SOLARIZE_THRESHOLD)
    return torch.from_numpy(np.array(picture))


@pytest.mark.parametrize("brightness", [0.83, 1.0, 1.17])
@pytest.mark.parametrize("contrast", [0.81, 1.0, 1.19])
def test_apply_is_the_reports_pipeline(brightness, contrast):
    """Every combination of the drawn choices, on noisy, clothing-like and faint images."""
    choices = torch.tensor(list(product([False, True], repeat=4)))
    images = IMAGES[[0, 1, 24, 25, 26, 27, 28, 29, 48, 49]].repeat_interleave(16, 0)
    chosen = choices.repeat(10, 1)
    draws = Draws(
        brightness=torch.full((len(images),), brightness),
        contrast=torch.full((len(images),), contrast),
        **dict(zip(BOOLEANS, chosen.T, strict=True)),
    )
    expected = torch.stack([reported(image, draws, row) for row, image in enumerate(images)])
    assert distance(augment.apply(images, draws), expected) == 0


def test_drawing_nothing_changes_nothing():
    result = augment.apply(IMAGES, same_for_all(len(IMAGES)))
    assert torch.equal(result, IMAGES)
    assert result.data_ptr() != IMAGES.data_ptr()


def test_augment_applies_what_it_draws():
    expected = augment.apply(IMAGES, draws_of(3, len(IMAGES)))
    assert torch.equal(augment.augment(IMAGES, torch.Generator().manual_seed(3)), expected)


def test_generator_alone_decides():
    def result(seed):
        return augment.augment(IMAGES, torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    once = result(3)
    torch.manual_seed(2)
    assert torch.equal(once, result(3))
    assert not torch.equal(once, result(4))


def test_a_generator_draws_anew_each_time():
    generator = torch.Generator().manual_seed(3)
    once = augment.draw(50, generator)
    again = augment.draw(50, generator)
    for field in fields(Draws):
        assert not torch.equal(getattr(once, field.name), getattr(again, field.name))


def test_input_is_not_modified():
    images = IMAGES.clone()
    augment.augment(images, torch.Generator().manual_seed(3))
    for step in (augment.autocontrast, augment.solarize):
        step(images)
    for step in (augment.brightness, augment.contrast):
        step(images, torch.full((len(images),), 1.1))
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize(("name", "probability"), BOOLEANS.items())
def test_frequency(name, probability):
    deviation = (probability * (1 - probability) / COUNT) ** 0.5
    share = getattr(draws_of(5), name).double().mean().item()
    assert share == pytest.approx(probability, abs=4 * deviation)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_factors_are_uniform(name):
    factors = getattr(draws_of(5), name).double()
    counts = torch.histc(factors, bins=10, min=0.8 - 1e-6, max=1.2 + 1e-6)  # skips outliers
    assert counts.sum() == COUNT
    assert (counts - COUNT / 10).abs().max() < 4 * (COUNT * 0.1 * 0.9) ** 0.5


def test_draws_are_uncorrelated():
    draws = draws_of(5)
    columns = torch.stack([getattr(draws, field.name).double() for field in fields(Draws)])
    correlation = torch.corrcoef(columns) - torch.eye(len(columns))
    assert correlation.abs().max() < 4 / COUNT**0.5


@pytest.fixture
def numbered():
    """Three images, no two pixels of one alike as far as a byte allows, none of them black."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(1, 256, (3, 28, 28), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (-2, 0), (0, 3), (0, -3), (1, -2), (28, 0)])
def test_a_shift_moves_pixels_and_black_moves_in(down, right, numbered):
    moved = augment.shift(numbered, torch.full((3,), down), torch.full((3,), right))
    for y, x in ((0, 0), (5, 9), (27, 27), (13, 0)):
        inside = 0 <= y - down < 28 and 0 <= x - right < 28
        expected = numbered[:, y - down, x - right] if inside else torch.zeros(3, dtype=torch.uint8)
        assert torch.equal(moved[:, y, x], expected)
    assert (moved > 0).sum() == 3 * max(0, 28 - abs(down)) * (28 - abs(right))


def test_each_image_is_shifted_by_its_own_draw(numbered):
    moved = augment.shift(numbered, torch.tensor([1, 0, -1]), torch.tensor([0, 2, 0]))
    assert torch.equal(moved[0, 1:], numbered[0, :-1])
    assert torch.equal(moved[1, :, 2:], numbered[1, :, :-2])
    assert torch.equal(moved[2, :-1], numbered[2, 1:])


@given(st.lists(st.floats(0, 0.999999), min_size=4, max_size=4))
@settings(deadline=None)
def test_an_erased_rectangle_has_the_drawn_area_and_lies_inside(draws):
    images = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    black = augment.erase(images, torch.tensor(draws)[:, None])[0] == 0
    rows, columns = black.any(1).nonzero().squeeze(1), black.any(0).nonzero().squeeze(1)
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    assert black.sum() == tall * wide  # one full rectangle
    area = 28 * 28 * (0.02 + 0.31 * draws[0])
    ratio = math.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * draws[1])
    assert abs(tall - min(28, math.sqrt(area * ratio))) <= 0.51
    assert abs(wide - min(28, math.sqrt(area / ratio))) <= 0.51


def test_strengths_scale_what_happens():
    images = torch.randint(
        1, 256, (2000, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    nothing = Augmentation(flip=0, jitter=0, autocontrast=0, solarize=0)
    assert torch.equal(augment.augment(images, torch.Generator().manual_seed(2), nothing), images)
    for change, expected in (({"flip": 0.5}, 0.5), ({"erase": 0.3}, 0.3), ({"solarize": 1.0}, 1.0)):
        changed = augment.augment(images, torch.Generator().manual_seed(2), replace(nothing, **change))
        share = (changed != images).any(-1).any(-1).float().mean()
        assert abs(share - expected) < 0.05
    moved = augment.augment(images, torch.Generator().manual_seed(2), replace(nothing, shift=1))
    assert abs((moved == images).all(-1).all(-1).float().mean() - 1 / 9) < 0.03


def test_the_report_s_strengths_draw_as_before_whatever_else_is_possible():
    """Shift and erase draw after the others, and only where they are wanted."""
    images = IMAGES
    plain = augment.augment(images, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    expected = augment.apply(images, augment.draw(len(images), generator))
    assert torch.equal(plain, expected)
