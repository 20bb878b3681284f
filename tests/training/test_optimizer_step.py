"""The optimiser's step, written and captured."""

from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from unittest.mock import MagicMock

import pytest
import torch

from lenet_study.recipes.variants import VARIANTS
from lenet_study.training import loop as training
from lenet_study.training import optimizer_step as engine
from lenet_study.training.dataset import Normalisation
from lenet_study.training.hardware import Hardware
from lenet_study.training.loop import TrainingConfig
from lenet_study.training.model import LeNet

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def line(device="cpu"):
    """One weight, whose loss is its square: the gradient is twice the weight."""
    model = torch.nn.Linear(1, 1, bias=False).to(device)
    torch.nn.init.constant_(model.weight, 3.0)
    return model, lambda images, labels: (model.weight.square().sum(), model(images))


def test_a_step_descends_and_gives_the_logits_from_before_it():
    model, loss_fn = line()
    step = engine.make_step(loss_fn, model, torch.optim.SGD(model.parameters(), lr=0.25))
    logits = step(torch.ones(2, 1), torch.zeros(2))
    assert logits.tolist() == [[3.0], [3.0]]
    assert not logits.requires_grad
    assert model.weight.item() == 1.5  # 3 - 0.25 * 6
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == 0.75  # gradients do not add up


def test_the_learning_rate_is_that_of_the_next_step():
    model, loss_fn = line()
    optimizer = engine.make_optimizer(model, "adam", 0.5, 0.0)
    step = engine.make_step(loss_fn, model, optimizer)
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == pytest.approx(2.5)  # Adam's first step is the rate
    engine.set_learning_rate(optimizer, 0.0)
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == pytest.approx(2.5)


def test_adam_is_the_textbook_s(toy_train):
    """Kingma and Ba 2015, algorithm 1."""
    model, loss_fn = line()
    step = engine.make_step(loss_fn, model, engine.make_optimizer(model, "adam", 0.1, 0.0))
    weight, first, second = 3.0, 0.0, 0.0
    for number in range(1, 6):
        step(torch.ones(2, 1), torch.zeros(2))
        gradient = 2 * weight
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight -= 0.1 * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


class Graph:
    """Stands in for a CUDA graph: capturing leaves no effect, replaying does what was captured."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.captured = model, optimizer, None

    @contextmanager
    def capture(self, graph):
        before = deepcopy(self.model.state_dict()), deepcopy(self.optimizer.state_dict())
        yield
        self.model.load_state_dict(before[0])
        self.optimizer.load_state_dict(before[1])

    def replay(self):
        step = self.captured
        step._logits.copy_(step._step(step._images, step._labels))


@pytest.mark.parametrize("optimizer_name", ["adam", "adamw", "sgd"])
def test_the_bookkeeping_around_a_capture_leaves_the_weights_of_the_step_as_written(
    optimizer_name, toy_train, monkeypatch
):
    """On the CPU, with a stand-in for the graph: warm-up undone, small batches, rates, logits kept."""
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock)
    monkeypatch.setattr(torch.cuda, "current_stream", MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    normalise, config, found = Normalisation.of(toy_train.images), TrainingConfig(), []
    for captured in (False, True):
        model = LeNet(VARIANTS["v4"], seed=0).to(memory_format=torch.channels_last)
        optimizer = engine.make_optimizer(model, optimizer_name, 0.001, 1e-4)
        step = engine.make_step(partial(training.training_loss, model, config), model, optimizer)
        if captured:
            graph = Graph(model, optimizer)
            monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda graph=graph: graph)
            monkeypatch.setattr(torch.cuda, "graph", graph.capture)
            step = graph.captured = engine._Captured(step, model, optimizer)
        losses = []
        for epoch, rate in ((1, 0.001), (2, 0.0005)):
            engine.set_learning_rate(optimizer, rate)
            batches = training.training_batches(toy_train, normalise, config, epoch)  # the last is smaller
            losses.append(training.run_epoch(model, batches, step))
        found.append((losses, model.state_dict()))
    (written_losses, written), (captured_losses, replayed) = found
    assert captured_losses == written_losses
    assert all(torch.equal(written[key], replayed[key]) for key in written)


@needs_gpu
@pytest.mark.parametrize("name", VARIANTS)
def test_a_captured_step_gives_the_weights_of_the_step_as_written(name, toy_train):
    device, config = Hardware(device="cuda").prepare(), TrainingConfig()
    normalise, train = Normalisation.of(toy_train.images), toy_train.to(torch.device("cuda"))
    weights = []
    for captured in (False, True):
        model = LeNet(VARIANTS[name], seed=0).to(device).to(memory_format=torch.channels_last)
        optimizer = engine.make_optimizer(model, "adam", 0.001, 0.0)
        loss_fn = partial(training.training_loss, model, config)
        step = engine.make_step(loss_fn, model, optimizer)
        losses = []
        for epoch, rate in ((1, 0.001), (2, 0.0005)):
            engine.set_learning_rate(optimizer, rate)
            batches = training.training_batches(train, normalise, config, epoch)  # the last is smaller
            losses.append(training.run_epoch(model, batches, step if captured else step._step))
        weights.append((losses, model.state_dict()))
    (written_losses, written), (captured_losses, replayed) = weights
    assert captured_losses == written_losses
    assert all(torch.equal(written[key], replayed[key]) for key in written)


@needs_gpu
def test_two_trainings_on_the_gpu_give_the_same_weights(toy_train, toy_validation):
    device = Hardware(device="cuda").prepare()
    states = []
    for _ in range(2):
        model = LeNet(VARIANTS["v4"], seed=0)
        training.fit(
            model, toy_train, toy_validation, VARIANTS["v4"], TrainingConfig(epochs=2), device=device
        )
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
