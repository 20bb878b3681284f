"""The optimizer's step, written and captured."""

from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from unittest.mock import MagicMock

import pytest
import torch

from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training import loop
from lenet_study.training.dataset import Normalisation
from lenet_study.training.hardware import Hardware
from lenet_study.training.model import LeNet
from lenet_study.training.optimizer_step import (
    CapturedStep,
    LossGuard,
    make_optimizer,
    make_step,
    set_learning_rate,
    written_step,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def line(device="cpu"):
    """One weight, whose loss is its square: the gradient is twice the weight."""
    model = torch.nn.Linear(1, 1, bias=False).to(device)
    torch.nn.init.constant_(model.weight, 3.0)
    return model, lambda images, labels: (model.weight.square().sum(), model(images))


def test_a_step_descends_and_gives_the_logits_from_before_it():
    model, loss_fn = line()
    step = make_step(loss_fn, model, torch.optim.SGD(model.parameters(), lr=0.25))
    logits = step(torch.ones(2, 1), torch.zeros(2))
    assert logits.tolist() == [[3.0], [3.0]]
    assert not logits.requires_grad
    assert model.weight.item() == 1.5  # 3 - 0.25 * 6
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == 0.75  # gradients do not add up


def test_the_learning_rate_is_that_of_the_next_step():
    model, loss_fn = line()
    optimizer = make_optimizer(model, "adam", 0.5, 0.0)
    step = make_step(loss_fn, model, optimizer)
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == pytest.approx(2.5)  # Adam's first step is the rate
    set_learning_rate(optimizer, 0.0)
    step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == pytest.approx(2.5)


def test_adam_is_the_textbook_s(toy_train):
    """Kingma and Ba 2015, algorithm 1."""
    model, loss_fn = line()
    step = make_step(loss_fn, model, make_optimizer(model, "adam", 0.1, 0.0))
    weight, first, second = 3.0, 0.0, 0.0
    for number in range(1, 6):
        step(torch.ones(2, 1), torch.zeros(2))
        gradient = 2 * weight
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weight -= 0.1 * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)) ** 0.5 + 1e-8)
        assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def losses_of(*factors):
    """A weight and its loss, times a factor that differs from step to step."""
    model, _ = line()
    left = iter(factors)
    return model, lambda images, labels: (model.weight.square().sum() * next(left), model(images))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_refused_before_its_update(bad):
    model, loss_fn = losses_of(1.0, bad)
    step = make_step(loss_fn, model, make_optimizer(model, "adam", 0.5, 0.0))
    step(torch.ones(2, 1), torch.zeros(2))
    before = model.weight.item()
    with pytest.raises(FloatingPointError):
        step(torch.ones(2, 1), torch.zeros(2))
    assert model.weight.item() == before != 3.0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_on_a_gpu_its_update_and_all_later_ones_are_left_out(name):
    """The optimizers of a CPU look at the same flag, so that the way of a GPU can be gone here."""
    model, loss_fn = losses_of(1.0, float("nan"), 1.0)
    optimizer = make_optimizer(model, name, 0.1, 0.0)
    guard = LossGuard(optimizer, on_gpu=True)
    step = written_step(loss_fn, optimizer, guard)
    step(torch.ones(2, 1), torch.zeros(2))
    before = model.weight.item(), deepcopy(optimizer.state_dict())
    assert guard.skipped_steps() == 0
    for _ in range(2):
        step(torch.ones(2, 1), torch.zeros(2))
    assert guard.skipped_steps() == 2
    assert (model.weight.item(), optimizer.state_dict()) == before
    assert model.weight.item() != 3.0


class FakeCuda:
    """Stands in for torch.cuda: capturing leaves no effect, replaying does what was captured.

    ``step`` is the step to give to ``CapturedStep``: it remembers what it was called with last.
    """

    Stream, current_stream = MagicMock, MagicMock()

    def __init__(self, step, model, optimizer):
        self.written, self.model, self.optimizer = step, model, optimizer

    def step(self, images, labels):
        self.images, self.labels = images, labels
        self.logits = self.written(images, labels)
        return self.logits

    def stream(self, stream):
        return nullcontext()

    def CUDAGraph(self):  # noqa: N802 -- torch's name
        return self

    @contextmanager
    def graph(self, graph):
        before = deepcopy(self.model.state_dict()), deepcopy(self.optimizer.state_dict())
        yield
        self.model.load_state_dict(before[0])
        self.optimizer.load_state_dict(before[1])
        self.captured = self.images, self.labels, self.logits

    def replay(self):
        images, labels, logits = self.captured
        logits.copy_(self.written(images, labels))


def two_epochs(step, model, optimizer, recipe, train):
    """Losses of two epochs at different rates; their last batches are smaller."""
    losses, normalise = [], Normalisation.of(train.images)
    for epoch, rate in ((1, 0.001), (2, 0.0005)):
        set_learning_rate(optimizer, rate)
        losses.append(loop.run_epoch(model, loop.training_batches(train, normalise, recipe, epoch), step))
    return losses


@pytest.mark.parametrize("optimizer_name", ["adam", "adamw", "sgd"])
def test_the_bookkeeping_around_a_capture_leaves_the_weights_of_the_step_as_written(
    optimizer_name, toy_train
):
    """On the CPU, with a stand-in for the graph: warm-up undone, small batches, rates, logits kept."""
    recipe, results = variant_recipes(TrainingConfig())["v4"], []
    for captured in (False, True):
        model = LeNet(recipe.variant, seed=0).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, optimizer_name, 0.001, 1e-4)
        step = make_step(partial(loop.training_loss, model, recipe), model, optimizer)
        if captured:
            cuda = FakeCuda(step, model, optimizer)
            step = CapturedStep(cuda.step, model, optimizer, LossGuard(optimizer), cuda)
        results.append((two_epochs(step, model, optimizer, recipe, toy_train), model.state_dict()))
    (written_losses, written), (captured_losses, replayed) = results
    assert captured_losses == written_losses
    assert all(torch.equal(written[key], replayed[key]) for key in written)


def test_a_capture_keeps_the_optimizer_s_state_of_a_checkpoint(toy_train):
    """A training that is resumed on a GPU captures its step after the state is loaded."""
    recipe, results = variant_recipes(TrainingConfig())["v4"], []
    for captured in (False, True):
        model = LeNet(recipe.variant, seed=0).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, "adam", 0.001, 0.0)
        guard = LossGuard(optimizer, on_gpu=True)
        step = written_step(partial(loop.training_loss, model, recipe), optimizer, guard)
        two_epochs(step, model, optimizer, recipe, toy_train)
        if captured:
            cuda = FakeCuda(step, model, optimizer)
            step = CapturedStep(cuda.step, model, optimizer, guard, cuda)
        results.append((two_epochs(step, model, optimizer, recipe, toy_train), model.state_dict()))
        assert guard.skipped_steps() == 0
    (written_losses, written), (captured_losses, replayed) = results
    assert captured_losses == written_losses
    assert all(torch.equal(written[key], replayed[key]) for key in written)


@needs_gpu
@pytest.mark.parametrize("name", VARIANTS)
def test_a_captured_step_gives_the_weights_of_the_step_as_written(name, toy_train):
    device, recipe = Hardware(device="cuda").prepare(), variant_recipes(TrainingConfig())[name]
    train = toy_train.to(device)
    results = []
    for captured in (False, True):
        model = LeNet(recipe.variant, seed=0).to(device).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, "adam", 0.001, 0.0)
        loss_fn = partial(loop.training_loss, model, recipe)
        step = (
            make_step(loss_fn, model, optimizer)
            if captured
            else written_step(loss_fn, optimizer, LossGuard(optimizer))
        )
        assert isinstance(step, CapturedStep) == captured
        results.append((two_epochs(step, model, optimizer, recipe, train), model.state_dict()))
    (written_losses, written), (captured_losses, replayed) = results
    assert captured_losses == written_losses
    assert all(torch.equal(written[key], replayed[key]) for key in written)


@needs_gpu
def test_two_trainings_on_the_gpu_give_the_same_weights(toy_train, toy_validation):
    device, recipe = Hardware(device="cuda").prepare(), variant_recipes(TrainingConfig(epochs=2))["v4"]
    states = []
    for _ in range(2):
        model = LeNet(recipe.variant, seed=0)
        loop.fit(model, toy_train, toy_validation, recipe, device=device)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
