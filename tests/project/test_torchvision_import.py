"""torchvision imports whatever torch its wheel was built for."""

import importlib

import pytest
import torch

from bench import torchvision_import as compat


def test_torchvision_works_and_imports_twice():
    torchvision = compat.import_torchvision()
    assert compat.import_torchvision() is torchvision
    image, label = torchvision.datasets.FakeData(size=1, image_size=(1, 28, 28), num_classes=10)[0]
    v2 = importlib.import_module("torchvision.transforms.v2")
    tensor = v2.functional.pil_to_tensor(image.convert("L"))
    assert tensor.shape == (1, 28, 28)
    assert 0 <= label < 10
    assert torch.equal(v2.RandomHorizontalFlip(p=1)(tensor), tensor.flip(-1))


def test_another_import_error_is_not_hidden(monkeypatch):
    def fail(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(compat.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        compat.import_torchvision()
