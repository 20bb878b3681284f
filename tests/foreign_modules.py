"""TorchScript modules as other projects might have made them; toy images are what they know."""

import warnings

import torch
from torch import nn

LOWEST = {"unit": (-0.01, 0.1), "normalised": (-0.9, -0.1), "symmetric": (-1.1, -0.95)}  # of toy images


class Bands(nn.Module):
    """Names the toy class by its bright band if the darkest pixel is that of a scale, else the next one."""

    def __init__(self, scale: str):
        super().__init__()
        self.low, self.high = LOWEST[scale]

    def forward(self, images):
        bands = images[:, 0, 4:24, 4:24].reshape(-1, 10, 2, 20).mean((2, 3))
        fits = bool(images.min() > self.low) and bool(images.min() < self.high)
        return 20 * (bands if fits else bands.roll(1, 1))


class WithHeads(Bands):
    """As the published models answer: classifier, then both auxiliary heads."""

    def forward(self, images):
        bands = images[:, 0, 4:24, 4:24].reshape(-1, 10, 2, 20).mean((2, 3))
        return 20 * bands, bands.roll(1, 1), bands


class Probabilities(Bands):
    def forward(self, images):
        bands = images[:, 0, 4:24, 4:24].reshape(-1, 10, 2, 20).mean((2, 3))
        return (20 * bands).softmax(1)


class Always(nn.Module):
    """Answers with the same number, whatever the image."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, images):
        return torch.full([images.size(0), 10], self.value)


class NineClasses(nn.Module):
    def forward(self, images):
        return images[:, 0, 0, :9]


class Transposed(nn.Module):
    def forward(self, images):
        return images[:, 0, 0, :10].t()


class Named(nn.Module):
    def forward(self, images):
        return {"out": images[:, 0, 0, :10]}


class Nothing(nn.Module):
    def forward(self, images):
        pass


class Colour(nn.Module):
    """Takes images of three channels."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 10, 28)

    def forward(self, images):
        return self.convolution(images).flatten(1)


class Larger(nn.Module):
    """Takes images of 32 × 32 pixels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32 * 32, 10)

    def forward(self, images):
        return self.linear(images.flatten(1))


def scripted(module: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module).eval()


def write(module: nn.Module, path):
    """Save a module as TorchScript; return the path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(module), str(path))
    return path
