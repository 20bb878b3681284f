"""The training loop on toy images."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from lenet_study.recipes.variants import VARIANTS, Augmentation
from lenet_study.training import loop as training
from lenet_study.training import optimizer_step as engine
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.loop import Epoch, TrainingConfig
from lenet_study.training.model import LeNet

CPU = torch.device("cpu")
BRIEF = TrainingConfig(epochs=2, learning_rate=0.003)
every_variant = pytest.mark.parametrize("name", VARIANTS)
with_and_without_norm = pytest.mark.parametrize("name", ["baseline", "v4"])


def fit(name, train, validation, config=BRIEF, **options):
    """A new model, always with the same initial weights, and its best epoch."""
    model = LeNet(VARIANTS[name], seed=0)
    best = training.fit(model, train, validation, VARIANTS[name], config, device=CPU, **options)
    return model, best


def same(one, other, only=""):
    """Whether two state dicts hold the same bits, in entries starting with ``only``."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one if key.startswith(only))


def same_trunk(one, other):
    return all(same(one, other, part) for part in ("first_wave", "second_wave", "classifier"))


def scored_by_hand(model, split, train):
    """Loss and accuracy of clean images, normalised by the training images."""
    pixels = train.images.numpy() / 255
    images = torch.from_numpy((split.images.numpy() / 255 - pixels.mean()) / pixels.std())
    model.eval()
    with torch.no_grad():
        logits = model(images[:, None].float())
    accuracy = (logits.argmax(1) == split.labels).sum().item() / len(split)
    return cross_entropy(logits, split.labels).item(), accuracy


@every_variant
def test_fit_learns(name, toy_train, toy_validation):
    epochs = []
    config = replace(BRIEF, epochs=6)
    _, best = fit(name, toy_train, toy_validation, config, on_epoch=epochs.append)
    assert best.val_accuracy > 0.9
    assert epochs[-1].train_accuracy > 0.9
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss


@pytest.fixture(params=["baseline", "v4"])
def spoilt(request, toy_train, toy_validation):
    """A training whose weights are erased after epoch 3 of 5: model, best, epochs, weights."""
    epochs, weights = [], []
    model = LeNet(VARIANTS[request.param], seed=0)

    def record_then_erase(epoch):
        epochs.append(epoch)
        weights.append(deepcopy(model.state_dict()))
        if epoch.epoch == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()

    best = training.fit(
        model,
        toy_train,
        toy_validation,
        VARIANTS[request.param],
        replace(BRIEF, epochs=5, learning_rate=0.0001),
        device=CPU,
        on_epoch=record_then_erase,
    )
    return model, best, epochs, weights


def test_best_epoch_is_restored(spoilt, toy_train, toy_validation):
    model, best, epochs, weights = spoilt
    accuracies = [epoch.val_accuracy for epoch in epochs]
    assert accuracies[0] < accuracies[2] > accuracies[-1]
    assert best is epochs[accuracies.index(max(accuracies))]
    assert same(model.state_dict(), weights[best.epoch - 1])
    assert not same(model.state_dict(), weights[-1])
    normalise = Normalisation.of(toy_train.images)
    assert training.evaluate(model, toy_validation, normalise) == (best.val_loss, best.val_accuracy)


def test_earliest_epoch_wins_a_tie(toy_train, toy_validation):
    epochs = []
    config = replace(BRIEF, epochs=4)
    _, best = fit("baseline", toy_train, toy_validation, config, on_epoch=epochs.append)
    tied = [epoch for epoch in epochs if epoch.val_accuracy == best.val_accuracy]
    assert len(tied) > 1
    assert best is tied[0]
    assert best.val_accuracy == max(epoch.val_accuracy for epoch in epochs)


def epoch_with(val_accuracy, val_loss=1.0):
    return Epoch(
        epoch=1,
        learning_rate=0.001,
        train_loss=1.0,
        train_accuracy=0.5,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        seconds=1.0,
    )


@pytest.mark.parametrize(
    ("later", "earlier", "better"),
    [
        (epoch_with(0.6), epoch_with(0.5), True),
        (epoch_with(0.5), epoch_with(0.6), False),
        (epoch_with(0.5, val_loss=0.1), epoch_with(0.5, val_loss=0.9), False),
        (epoch_with(0.0), None, True),
        (epoch_with(None, val_loss=None), epoch_with(None, val_loss=None), True),
    ],
)
def test_better_than(later, earlier, better):
    assert later.better_than(earlier) is better


def test_last_epoch_stays_without_validation(toy_train):
    epochs, weights = [], []
    model = LeNet(VARIANTS["v4"], seed=0)

    def record(epoch):
        epochs.append(epoch)
        weights.append(deepcopy(model.state_dict()))

    variant, config = VARIANTS["v4"], replace(BRIEF, epochs=3)
    best = training.fit(model, toy_train, None, variant, config, device=CPU, on_epoch=record)
    assert best is epochs[-1]
    assert (best.epoch, best.val_loss, best.val_accuracy) == (3, None, None)
    assert same(model.state_dict(), weights[-1])
    assert not same(weights[-1], weights[-2])


@pytest.mark.parametrize("validated", [True, False])
def test_model_is_left_in_evaluation_mode(validated, toy_train, toy_validation):
    config = replace(BRIEF, epochs=1)
    model, _ = fit("v4", toy_train, toy_validation if validated else None, config)
    assert not any(module.training for module in model.modules())


def test_on_epoch_hears_of_every_epoch_in_order(toy_train, toy_validation):
    epochs = []
    config = replace(BRIEF, epochs=3)
    fit("baseline", toy_train, toy_validation, config, on_epoch=epochs.append)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]


def test_exception_from_on_epoch_ends_the_training(toy_train, toy_validation):
    class PrunedError(Exception):
        pass

    calls = []

    def prune(epoch):
        calls.append(epoch.epoch)
        if epoch.epoch == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        fit("baseline", toy_train, toy_validation, replace(BRIEF, epochs=4), on_epoch=prune)
    assert calls == [1, 2]


@pytest.mark.parametrize("trains", [False, True])
def test_losses_are_means_over_images(trains):
    """Nine images in batches of 7 and 2."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(9, 1, 28, 28, generator=generator)
    labels = torch.arange(9)
    model = LeNet(VARIANTS["baseline"], seed=0)
    with torch.no_grad():
        logits = model(images)
        labels[7:] = logits[7:].argmax(1)  # the small batch is right
        labels[:7] = logits[:7].argmin(1)  # the large one wrong
    batches = zip(images.split(7), labels.split(7), strict=True)
    stay = torch.optim.SGD(model.parameters(), lr=0.0)
    step = engine.make_step(partial(training.training_loss, model, BRIEF), model, stay) if trains else None
    loss, accuracy = training.run_epoch(model, batches, step)
    assert accuracy == pytest.approx(2 / 9)
    assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)


@with_and_without_norm
def test_scoring_leaves_the_model_as_it_is(name, toy_validation):
    model = LeNet(VARIANTS[name], seed=0)
    before = deepcopy(model.state_dict())
    training.evaluate(model, toy_validation, Normalisation.of(toy_validation.images))
    assert same(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@with_and_without_norm
def test_validation_images_are_clean(name, toy_train, toy_validation):
    model = LeNet(VARIANTS[name], seed=0)
    by_hand, reported = [], []

    def rescore(epoch):
        by_hand.append(scored_by_hand(model, toy_validation, toy_train))
        reported.append((epoch.val_loss, epoch.val_accuracy))

    options = {"device": CPU, "on_epoch": rescore}
    training.fit(model, toy_train, toy_validation, VARIANTS[name], BRIEF, **options)
    assert len(reported) == 2
    np.testing.assert_allclose(reported, by_hand, rtol=1e-4, atol=1e-6)


def test_validation_larger_than_a_batch(monkeypatch, toy_train, toy_validation):
    model, _ = fit("v4", toy_train, None)
    monkeypatch.setattr(training, "EVALUATION_BATCH", 25)
    scored = training.evaluate(model, toy_validation, Normalisation.of(toy_train.images))
    by_hand = scored_by_hand(model, toy_validation, toy_train)
    np.testing.assert_allclose(scored, by_hand, rtol=1e-4, atol=1e-6)


@every_variant
def test_learning_rate_is_that_of_step_lr(name):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.001)
    halve_every = 1000 if name == "baseline" else 5
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=halve_every, gamma=0.5)
    expected = []
    for _ in range(15):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates = [training.learning_rate_at(n, VARIANTS[name], TrainingConfig()) for n in range(1, 16)]
    assert rates == expected
    assert len(set(rates)) == (1 if name == "baseline" else 3)


def test_annealing_follows_half_a_cosine_and_multiplies_with_halving():
    variant = replace(VARIANTS["baseline"], cosine_annealing=True)
    config = TrainingConfig(epochs=4, learning_rate=0.1)
    rates = [training.learning_rate_at(n, variant, config) for n in range(1, 5)]
    half = 0.5**0.5 / 2
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half)])
    both = replace(variant, halve_learning_rate_every=2)
    assert training.learning_rate_at(3, both, config) == pytest.approx(0.025)


SEARCHED = {
    "dropout": {"dropout": 0.3},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "sgd": {"optimizer": "sgd", "weight_decay": 1e-4},
    "smoothing": {"label_smoothing": 0.1},
    "augmentation": {"augmentation": Augmentation(flip=0.5, shift=1, erase=0.1)},
}


@pytest.mark.parametrize("change", SEARCHED.values(), ids=SEARCHED)
def test_what_a_search_may_change_changes_the_weights_and_can_be_repeated(change, toy_train):
    weights = []
    for variant in (VARIANTS["v4"], *[replace(VARIANTS["v4"], **change)] * 2):
        torch.manual_seed(len(weights))  # which nothing may depend on
        model = LeNet(variant, seed=0)
        training.fit(model, toy_train, None, variant, BRIEF, device=CPU)
        weights.append(list(model.state_dict().values()))
    plain, once, again = weights
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, once, strict=True))


def test_smoothing_spreads_the_target():
    model = LeNet(VARIANTS["baseline"], seed=0)
    images = torch.rand(8, 1, 28, 28)
    labels = torch.arange(8)
    config = TrainingConfig(auxiliary="untrained")
    loss, logits = training.training_loss(model, config, images, labels, label_smoothing=0.2)
    target = torch.full((8, 10), 0.02) + 0.8 * torch.eye(10)[:8]
    assert loss.item() == pytest.approx(-(target * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)


def test_dropout_drops_in_training_alone():
    variant = replace(VARIANTS["v4"], dropout=0.5)
    model, images = LeNet(variant, seed=0), torch.rand(8, 1, 28, 28)
    model.eval()
    assert torch.equal(model(images), model(images))
    assert torch.equal(model(images), LeNet(VARIANTS["v4"], seed=0).eval()(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_optimizer_uses_the_learning_rate(monkeypatch, toy_train):
    used, reported = [], []

    class Recording(torch.optim.Adam):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Recording)
    variant = replace(VARIANTS["v1"], halve_learning_rate_every=2)
    config = TrainingConfig(epochs=3, batch_size=100, learning_rate=0.004)
    training.fit(
        LeNet(variant, seed=0), toy_train, None, variant, config, device=CPU,
        on_epoch=lambda epoch: reported.append(epoch.learning_rate),
    )  # fmt: skip
    assert reported == [0.004, 0.004, 0.002]
    assert used == [0.004] * 4 + [0.002] * 2


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@with_and_without_norm
@pytest.mark.usefixtures("threads")
def test_seed_alone_decides_the_weights(name, toy_train, toy_validation):
    def weights(seed):
        return fit(name, toy_train, toy_validation, replace(BRIEF, seed=seed))[0].state_dict()

    torch.manual_seed(1)
    once = weights(0)
    torch.manual_seed(2)
    assert same(once, weights(0))
    assert not same(once, weights(1))


@with_and_without_norm
def test_bfloat16_learns_in_steps_of_lower_precision_and_validates_in_float32(
    name, toy_train, toy_validation
):
    config = replace(BRIEF, epochs=6)
    exact, _ = fit(name, toy_train, toy_validation, config)
    model, best = fit(name, toy_train, toy_validation, replace(config, precision="bfloat16"))
    assert not same(exact.state_dict(), model.state_dict())
    assert {value.dtype for value in model.state_dict().values()} <= {torch.float32, torch.int64}
    assert best.val_accuracy > 0.9
    scored = training.evaluate(model, toy_validation, Normalisation.of(toy_train.images))
    assert scored == (best.val_loss, best.val_accuracy)


def pool_last(model):
    """The report's order of ReLU and max-pooling."""
    for wave in (model.first_wave, model.second_wave):
        wave[-2], wave[-1] = wave[-1], wave[-2]
    return model


@with_and_without_norm
def test_pooling_before_relu_gives_the_reports_weights_bit_for_bit(name, toy_train, toy_validation):
    ours, _ = fit(name, toy_train, toy_validation)
    theirs = pool_last(LeNet(VARIANTS[name], seed=0))
    training.fit(theirs, toy_train, toy_validation, VARIANTS[name], BRIEF, device=CPU)
    assert [type(layer).__name__ for layer in theirs.first_wave][-2:] == ["ReLU", "MaxPool2d"]
    assert same(ours.state_dict(), theirs.state_dict())


@with_and_without_norm
def test_what_trains_the_auxiliary_heads(name, toy_train, toy_validation):
    initial = LeNet(VARIANTS[name], seed=0).state_dict()
    untrained, probe, joint = (
        fit(name, toy_train, toy_validation, replace(BRIEF, auxiliary=auxiliary))[0].state_dict()
        for auxiliary in ("untrained", "probe", "joint")
    )
    assert same(untrained, initial, only="aux_output")
    assert not same_trunk(untrained, initial)
    assert same_trunk(probe, untrained)
    assert not same_trunk(joint, untrained)
    for head, state in product(("aux_output1.weight", "aux_output2.weight"), (probe, joint)):
        assert not torch.equal(state[head], initial[head])


def test_probes_learn(toy_train):
    model, _ = fit("baseline", toy_train, None, replace(BRIEF, epochs=6))
    with torch.no_grad():
        heads = model.auxiliary(Normalisation.of(toy_train.images)(toy_train.images))
    for logits in heads:
        assert (logits.argmax(1) == toy_train.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("auxiliary", "weight"), [("untrained", 0.0), ("probe", 1.0), ("joint", 0.3), ("joint", 2.0)]
)
def test_training_loss(auxiliary, weight, toy_train):
    model = LeNet(VARIANTS["baseline"], seed=0)
    images, labels = Normalisation.of(toy_train.images)(toy_train.images), toy_train.labels
    config = TrainingConfig(auxiliary=auxiliary, auxiliary_weight=weight if auxiliary == "joint" else 9)
    loss, logits = training.training_loss(model, config, images, labels)
    heads = [cross_entropy(head, labels) for head in model.auxiliary(images)]
    expected = cross_entropy(model(images), labels) + weight * sum(heads)
    assert torch.equal(logits, model(images))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@with_and_without_norm
def test_last_batch_of_one_image(name, toy_train, toy_validation):
    train = toy_train.subset(np.arange(65))
    model, best = fit(name, train, toy_validation)
    assert np.isfinite([best.train_loss, best.val_loss]).all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.fixture
def numbered(toy_train):
    """The toy images, each with its row as label."""
    return Split(toy_train.images, torch.arange(len(toy_train)))


def batches_of(split, epoch=1, **changes):
    normalise = Normalisation.of(split.images)
    return list(training.training_batches(split, normalise, replace(BRIEF, **changes), epoch))


def rows_of(batches):
    return torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("chunk", [2000, 64, 10])
@pytest.mark.parametrize("size", [2, 32, 48, 500])
def test_an_epoch_covers_every_image_once(numbered, monkeypatch, chunk, size):
    monkeypatch.setattr(training, "AUGMENTATION_CHUNK", chunk)
    batches = batches_of(numbered, batch_size=size)
    assert rows_of(batches).sort().values.tolist() == list(range(200))
    assert all(len(labels) == size for _, labels in batches[:-1])
    for images, labels in batches:
        assert images.shape == (len(labels), 1, 28, 28)
        assert images.dtype == torch.float32


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(numbered):
    torch.manual_seed(1)
    once = batches_of(numbered)
    torch.manual_seed(2)
    again = batches_of(numbered)
    assert torch.equal(rows_of(once), rows_of(again))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(once, again, strict=True))
    for other in (batches_of(numbered, epoch=2), batches_of(numbered, seed=1)):
        assert not torch.equal(rows_of(once), rows_of(other))


def test_images_keep_their_labels(numbered, monkeypatch):
    monkeypatch.setattr(training.augment, "augment", lambda images, generator, strength: images)
    monkeypatch.setattr(training, "AUGMENTATION_CHUNK", 64)
    clean = Normalisation.of(numbered.images)(numbered.images)
    for images, labels in batches_of(numbered):
        assert torch.equal(images, clean[labels])


def test_training_images_are_augmented_anew_each_epoch(numbered):
    clean = Normalisation.of(numbered.images)(numbered.images)
    epochs = []
    for number in (1, 2):
        batches = batches_of(numbered, epoch=number)
        epochs.append(torch.cat([images for images, _ in batches])[rows_of(batches).argsort()])
    changed = [(epoch != clean).flatten(1).any(1).float().mean() for epoch in epochs]
    assert min(changed) > 0.9
    assert (epochs[0] != epochs[1]).flatten(1).any(1).float().mean() > 0.9


def test_training_leaves_the_images_as_they_are(toy_train, toy_validation):
    before = toy_train.digest(), toy_validation.digest()
    fit("baseline", toy_train, toy_validation, replace(BRIEF, epochs=1))
    assert (toy_train.digest(), toy_validation.digest()) == before


def test_every_seed_and_epoch_has_its_own_generator():
    seeds = {
        training.epoch_generator(seed, epoch, CPU).initial_seed()
        for seed, epoch in product(range(20), range(1, 21))
    }
    assert len(seeds) == 400
