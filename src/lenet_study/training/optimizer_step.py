"""One step of an optimizer: as it is written, or on a GPU captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lenet_study.recipes.variants import Optimizer

MOMENTUM = 0.9  # of SGD
WARM_UP = 3  # steps before a capture; CUDA libraries set themselves up in them
LossAndLogits = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Step = Callable[[Tensor, Tensor], Tensor]


def make_optimizer(
    model: nn.Module, name: Optimizer, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Build an optimizer that steps all parameters in one call; on a GPU it can be captured."""
    on_gpu = next(model.parameters()).is_cuda
    rate = torch.tensor(learning_rate, device="cuda") if on_gpu else learning_rate
    if name == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=rate,
            momentum=MOMENTUM,
            nesterov=True,
            weight_decay=weight_decay,
            fused=True,
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(model.parameters(), lr=rate, weight_decay=weight_decay, fused=True, capturable=on_gpu)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Change the rate of the next steps, captured ones included."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def make_step(loss_fn: LossAndLogits, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """Build the step that descends a loss.

    Args:
        loss_fn: Loss and logits [N, 10] of images and labels.
        model: The optimizer holds its parameters.
        optimizer: From ``make_optimizer``, if the model is on a GPU.

    Returns:
        A function of images and labels that makes one step and returns the logits from before it.
    """

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss, logits = loss_fn(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return logits.detach()

    return _Captured(step, model, optimizer) if next(model.parameters()).is_cuda else step


class _Captured:
    """The step as a CUDA graph: one launch instead of some hundred. Captured at the first batch.

    Batches of another size than the first are stepped as written.
    """

    def __init__(self, step: Step, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._step = step
        self._model = model
        self._optimizer = optimizer
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._graph is None:
            self._capture(images, labels)
        assert self._graph is not None
        if len(labels) != len(self._labels):
            return self._step(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._logits.clone()  # the next replay writes over them

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images.clone(), labels.clone()
        weights = {name: value.clone() for name, value in self._model.state_dict().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._step(self._images, self._labels)
        torch.cuda.current_stream().wait_stream(stream)
        # As if the warm-up had not been, in the same memory: what is captured refers to it.
        self._model.load_state_dict(weights)
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()
        self._optimizer.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._step(self._images, self._labels)
