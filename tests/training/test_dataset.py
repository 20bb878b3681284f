"""Splits, folds, digests, normalisation."""

import hashlib

import numpy as np
import pytest
import torch

from lenet_study.errors import UserError
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Normalisation, Split, folds, split

LABELS = torch.arange(10).repeat_interleave(torch.arange(10, 110, 10))  # class 0: 10, … 9: 100


def class_counts(rows):
    return torch.bincount(LABELS[rows], minlength=10)


def assert_partition(train, validation):
    assert sorted([*train, *validation]) == list(range(len(LABELS)))


def test_split_is_stratified_80_to_20():
    train, validation = split(LABELS, seed=0)
    assert_partition(train, validation)
    assert torch.equal(class_counts(validation), torch.arange(2, 22, 2))
    assert torch.equal(class_counts(train), torch.arange(8, 88, 8))


def test_split_depends_on_the_seed_alone():
    np.random.seed(1)
    once = split(LABELS, seed=0)
    np.random.seed(2)
    again, other = split(LABELS, seed=0), split(LABELS, seed=1)
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])
    assert set(once[1]) != set(other[1])


def test_folds_are_stratified():
    parts = folds(LABELS, 5, seed=0)
    assert len(parts) == 5
    for train, validation in parts:
        assert_partition(train, validation)
        assert torch.equal(class_counts(validation), torch.arange(2, 22, 2))
    assert_partition([], np.concatenate([validation for _, validation in parts]))


def test_folds_depend_on_the_seed_alone():
    def validations(seed):
        return [set(validation) for _, validation in folds(LABELS, 5, seed)]

    assert validations(0) == validations(0)
    assert validations(0) != validations(1)


def test_as_many_folds_as_the_rarest_class_has_images():
    assert len(folds(LABELS, 10, seed=0)) == 10


@pytest.mark.parametrize("count", [11, 1, 0, -1])
def test_impossible_folds_are_refused(count):
    with pytest.raises(UserError) as error:
        folds(LABELS, count, seed=0)
    message = str(error.value)
    assert "\n" not in message
    assert f"folds={count}" in message
    assert "between 2 and 10" in message


@pytest.fixture
def small() -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 28, 28), generator=generator, dtype=torch.uint8)
    return Split(images, torch.tensor([3, 1, 4, 1, 5, 9]))


def test_subset_keeps_the_rows_order(small):
    subset = small.subset(np.array([4, 0]))
    assert len(subset) == 2
    assert subset.labels.tolist() == [5, 3]
    assert torch.equal(subset.images, torch.stack([small.images[4], small.images[0]]))


def test_digest_is_sha256_of_images_then_labels(small):
    expected = hashlib.sha256(small.images.numpy().tobytes() + small.labels.numpy().tobytes())
    assert small.digest() == expected.hexdigest()


def test_digest_sees_one_pixel_one_label_and_the_order(small):
    pixel, label = small.images.clone(), small.labels.clone()
    pixel[5, 27, 27] ^= 1
    label[5] = 8
    others = [
        Split(pixel, small.labels),
        Split(small.images, label),
        small.subset(np.array([1, 0, 2, 3, 4, 5])),
    ]
    assert len({small.digest(), *(other.digest() for other in others)}) == 4


def test_digest_ignores_the_memory_layout(small):
    transposed = small.images.transpose(1, 2).contiguous().transpose(1, 2)
    assert not transposed.is_contiguous()
    assert Split(transposed, small.labels).digest() == small.digest()


def test_normalisation_is_numpys_mean_and_deviation(small):
    scaled = small.images.numpy().astype(np.float64) / 255
    normalisation = Normalisation.of(small.images)
    assert normalisation.mean == pytest.approx(scaled.mean(), rel=1e-12)
    assert normalisation.std == pytest.approx(scaled.std(), rel=1e-12)


def test_normalised_images(small):
    before = small.images.clone()
    result = Normalisation(mean=0.25, std=0.5)(small.images)
    expected = (before.numpy()[:, None].astype(np.float64) / 255 - 0.25) / 0.5
    assert result.dtype == torch.float32
    assert result.shape == (6, 1, 28, 28)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert torch.equal(small.images, before)


@pytest.fixture(scope="module")
def real() -> Split:
    return DataFiles.at().train()


@pytest.mark.realdata
def test_real_training_images(real):
    assert real.images.shape == (60_000, 28, 28)
    assert torch.bincount(real.labels).tolist() == [6_000] * 10
    normalisation = Normalisation.of(real.images)
    assert round(normalisation.mean, 4) == 0.2860
    assert round(normalisation.std, 4) == 0.3530


@pytest.mark.realdata
def test_real_test_images():
    test = DataFiles.at().test()
    assert test.images.shape == (10_000, 28, 28)
    assert torch.bincount(test.labels).tolist() == [1_000] * 10


def test_the_largest_seed_splits_the_data():
    train, validation = split(torch.arange(50) % 10, 2**32 - 1)
    assert (len(train), len(validation)) == (40, 10)


@pytest.mark.realdata
def test_real_split(real):
    train, validation = split(real.labels, seed=0)
    assert torch.bincount(real.labels[train]).tolist() == [4_800] * 10
    assert torch.bincount(real.labels[validation]).tolist() == [1_200] * 10
