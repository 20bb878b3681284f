"""torchvision imports whatever torch its wheel was built for."""

import importlib
import sys

import pytest
import torch
from bench.torchvision_import import import_torchvision


def test_torchvision_works_and_imports_twice():
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    image, label = torchvision.datasets.FakeData(size=1, image_size=(1, 28, 28), num_classes=10)[0]
    v2 = importlib.import_module("torchvision.transforms.v2")
    tensor = v2.functional.pil_to_tensor(image.convert("L"))
    assert tensor.shape == (1, 28, 28)
    assert 0 <= label < 10
    assert torch.equal(v2.RandomHorizontalFlip(p=1)(tensor), tensor.flip(-1))


def test_another_import_error_is_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="something else"):
        import_torchvision()
