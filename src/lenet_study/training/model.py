"""LeNet-5 as the report builds it: two convolution waves, a classifier, and two auxiliary heads."""

from __future__ import annotations

from itertools import pairwise

import torch
import torchinfo
from torch import Tensor, nn

from lenet_study.recipes.variants import Variant

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIDE = 28  # pixels: height and width of an image


class LeNet(nn.Module):
    """The network of all variants; Kaiming-uniform weights and zero biases, as the report has them."""

    def __init__(self, variant: Variant, seed: int) -> None:
        super().__init__()
        first, second = variant.channels
        sizes = (second * 5 * 5, *variant.hidden_units)

        # The report pools after ReLU. Before it gives the same values and gradients, bit for bit, and
        # leaves ReLU a quarter of the numbers.
        # shapes for one image:                                            [1, 28, 28]
        self.first_wave = nn.Sequential(
            nn.Conv2d(1, first, kernel_size=5, padding=2),               # [first, 28, 28]
            *([nn.BatchNorm2d(first)] if variant.batch_norm else []),
            nn.MaxPool2d(2),                                             # [first, 14, 14]
            nn.ReLU(),
        )  # fmt: skip
        self.aux_output1 = nn.Linear(first * 14 * 14, len(CLASSES))
        self.second_wave = nn.Sequential(
            nn.Conv2d(first, second, kernel_size=5),                     # [second, 10, 10]
            *([nn.BatchNorm2d(second)] if variant.batch_norm else []),
            nn.MaxPool2d(2),                                             # [second, 5, 5]
            nn.ReLU(),
        )  # fmt: skip
        self.aux_output2 = nn.Linear(sizes[0], len(CLASSES))
        dropout = [nn.Dropout(variant.dropout)] if variant.dropout else []
        hidden: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            norm = [nn.BatchNorm1d(outputs)] if variant.batch_norm else []
            hidden += [*dropout, nn.Linear(inputs, outputs), *norm, nn.ReLU()]
        self.classifier = nn.Sequential(nn.Flatten(), *hidden, *dropout, nn.Linear(sizes[-1], len(CLASSES)))
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 10] of normalised images [N, 1, 28, 28]."""
        return self.classifier(self.second_wave(self.first_wave(images)))

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer's output [N, hidden_units[1]], after its ReLU."""
        values = self.second_wave(self.first_wave(images))
        for position, layer in enumerate(self.classifier):
            if position < len(self.classifier) - 1:  # TorchScript cannot slice a Sequential
                values = layer(values)
        return values

    def heads(self, images: Tensor, detach: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N, 10] of all three heads; ``detach`` keeps auxiliary gradients out of the trunk."""
        first = self.first_wave(images)
        second = self.second_wave(first)
        logits = self.classifier(second)
        if detach:
            first, second = first.detach(), second.detach()
        return logits, self.aux_output1(first.flatten(1)), self.aux_output2(second.flatten(1))

    def auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, 10] of the auxiliary heads after the first and the second wave."""
        _, first, second = self.heads(images)
        return first, second


def summary(variant: Variant) -> str:
    """Return the report's table of layers: shapes, parameters, totals, mult-adds and sizes for one image."""
    model = LeNet(variant, seed=0)
    # The report counts the auxiliary heads' multiplications, so the traced pass must run them.
    model.forward = lambda images: model.heads(images)[0]  # type: ignore[method-assign]
    table = torchinfo.summary(
        model,
        input_size=(1, 1, SIDE, SIDE),
        col_names=("input_size", "output_size", "num_params", "trainable"),
        row_settings=("var_names",),
        mode="eval",
        device="cpu",
        verbose=0,
    )
    return str(table)
