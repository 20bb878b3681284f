"""The network: structure, initial weights, heads, summary."""

import re
from dataclasses import replace

import pytest
import torch
from bench.torchvision_import import import_torchvision
from torch import nn

from lenet_study.recipes.variants import VARIANTS, multiply_adds, parameter_count
from lenet_study.training.model import CLASSES, LeNet, summary

PARAMETERS = {"baseline": 77_486, "v1": 77_486, "v2": 333_970, "v3": 480_586, "v4": 481_458}
WAVE = ["Conv2d", "MaxPool2d", "ReLU"]
WAVE_NORM = ["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"]
CLASSIFIER = ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
CLASSIFIER_NORM = [
    *("Flatten", "Linear", "BatchNorm1d", "ReLU"),
    *("Linear", "BatchNorm1d", "ReLU", "Linear"),
]

every_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture
def images():
    return torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def evaluating(name, seed=0):
    """A model whose batch norm, if any, is no identity."""
    model = LeNet(VARIANTS[name], seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model(torch.randn(8, 1, 28, 28, generator=generator) + 1)
    return model.eval()


def layers(sequence):
    return [type(layer).__name__ for layer in sequence]


def weights(name, seed):
    return LeNet(VARIANTS[name], seed=seed).state_dict()


@every_variant
def test_parameter_count(name):
    count = sum(p.numel() for p in LeNet(VARIANTS[name], seed=0).parameters())
    assert count == parameter_count(VARIANTS[name])


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_count_is_the_reports(name, count):
    assert parameter_count(VARIANTS[name]) == count


@every_variant
def test_structure_is_the_reports(name):
    model = LeNet(replace(VARIANTS[name], dropout=0.0), seed=0)  # which the report does not have
    norm = VARIANTS[name].batch_norm
    assert {child for child, _ in model.named_children()} == {
        *("first_wave", "second_wave", "classifier", "aux_output1", "aux_output2")
    }
    assert layers(model.first_wave) == (WAVE_NORM if norm else WAVE)
    assert layers(model.second_wave) == (WAVE_NORM if norm else WAVE)
    assert layers(model.classifier) == (CLASSIFIER_NORM if norm else CLASSIFIER)


def test_classes_are_in_the_data_sets_order():
    assert list(CLASSES) == import_torchvision().datasets.FashionMNIST.classes


@every_variant
def test_biases_start_at_zero(name):
    biases = [v for key, v in weights(name, seed=0).items() if key.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


@every_variant
def test_weights_start_kaiming_uniform(name):
    for module in LeNet(VARIANTS[name], seed=0).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            bound = (6 / fan_in) ** 0.5
            assert 0.95 * bound < module.weight.abs().max() <= bound
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@every_variant
def test_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    once = weights(name, seed=7)
    torch.manual_seed(2)
    again, other = weights(name, seed=7), weights(name, seed=8)
    drawn = [key for key, value in once.items() if value.ndim > 1]
    assert len(drawn) == 7
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not any(torch.equal(once[key], other[key]) for key in drawn)


@every_variant
def test_logits_shape(name, images):
    assert evaluating(name)(images).shape == (3, 10)


@every_variant
def test_features_feed_the_last_layer(name, images):
    model = evaluating(name)
    features = model.features(images)
    assert features.shape == (3, VARIANTS[name].hidden_units[1])
    assert features.min() >= 0
    assert torch.equal(model.classifier[-1](features), model(images))


@every_variant
@pytest.mark.parametrize("detach", [False, True])
def test_heads_are_forward_and_auxiliary(name, detach, images):
    model = evaluating(name)
    logits, *auxiliary = model.heads(images, detach=detach)
    first = model.first_wave(images)
    assert torch.equal(logits, model(images))
    assert torch.equal(auxiliary[0], model.auxiliary(images)[0])
    assert torch.equal(auxiliary[1], model.auxiliary(images)[1])
    assert torch.equal(auxiliary[0], model.aux_output1(first.flatten(1)))
    assert torch.equal(auxiliary[1], model.aux_output2(model.second_wave(first).flatten(1)))


@pytest.mark.parametrize("name", ["baseline", "v4"])
@pytest.mark.parametrize("head", [1, 2])
@pytest.mark.parametrize("detach", [False, True])
def test_auxiliary_gradients_reach_the_trunk_unless_detached(name, head, detach, images):
    model = LeNet(VARIANTS[name], seed=0)
    model.heads(images, detach=detach)[head].square().sum().backward()
    reached = {
        child
        for child, module in model.named_children()
        if all(p.grad is not None and p.grad.any() for p in module.parameters() if p.ndim > 1)
    }
    trunk = {"first_wave", "second_wave"} if head == 2 else {"first_wave"}
    assert reached == {f"aux_output{head}"} | (set() if detach else trunk)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@every_variant
def test_scripts(name, images):
    model = evaluating(name)
    assert torch.equal(torch.jit.script(model)(images), model(images))


class Exported(nn.Module):
    """What is exported calls these methods from script."""

    def __init__(self, model: LeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first, second = self.model.auxiliary(images)
        return self.model.features(images), first, second


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@every_variant
def test_features_and_auxiliary_script(name, images):
    model = evaluating(name)
    features, first, second = torch.jit.script(Exported(model))(images)
    assert torch.equal(features, model.features(images))
    assert torch.equal(torch.stack([first, second]), torch.stack(model.auxiliary(images)))


@pytest.mark.parametrize(
    ("name", "mult_adds", "passes", "parameters", "total"),
    [
        ("baseline", "0.44", "0.05", "0.31", "0.37"),
        ("v1", "0.44", "0.05", "0.31", "0.37"),
        ("v2", "6.06", "0.25", "1.34", "1.59"),
        ("v3", "6.21", "0.25", "1.92", "2.18"),
        ("v4", "6.21", "0.51", "1.93", "2.44"),
    ],
)
def test_summary_totals_are_the_reports(name, mult_adds, passes, parameters, total):
    line = re.compile(r"^(.+?)(?: \((?:MB|Units\.MEGABYTES)\))?: (.+)$", re.MULTILINE)
    totals = dict(line.findall(summary(VARIANTS[name])))
    assert f"{multiply_adds(VARIANTS[name]) / 1e6:.2f}" == mult_adds
    assert totals == {
        "Total params": f"{PARAMETERS[name]:,}",
        "Trainable params": f"{PARAMETERS[name]:,}",
        "Non-trainable params": "0",
        "Total mult-adds": mult_adds,
        "Input size": "0.00",
        "Forward/backward pass size": passes,
        "Params size": parameters,
        "Estimated Total Size": total,
    }


def test_summary_names_columns_and_layers():
    lines = summary(VARIANTS["v4"]).splitlines()
    rows = [re.split(r"\s{2,}", line.lstrip("│├└─ ")) for line in lines]
    columns = ["Layer (type (var_name))", "Input Shape", "Output Shape", "Param #", "Trainable"]
    assert columns in rows
    assert ["Conv2d (0)", "[1, 32, 14, 14]", "[1, 64, 10, 10]", "51,264", "True"] in rows
    assert ["BatchNorm1d (5)", "[1, 140]", "[1, 140]", "280", "True"] in rows
    assert ["Linear (aux_output1)", "[1, 6272]", "[1, 10]", "62,730", "True"] in rows
