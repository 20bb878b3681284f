"""The training loop on toy images."""

import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toys import toy_split

from lenet_study.errors import DivergenceError
from lenet_study.recipes.recipe import Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS, Augmentation
from lenet_study.training import loop
from lenet_study.training.augmentation import AS_PUBLISHED
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.history import Epoch
from lenet_study.training.loop import EVALUATION_BATCH, FitResult
from lenet_study.training.model import LeNet
from lenet_study.training.optimizer_step import make_step

CPU = torch.device("cpu")
BRIEF = TrainingConfig(epochs=2, learning_rate=0.003)
every_variant = pytest.mark.parametrize("name", VARIANTS)
with_and_without_norm = pytest.mark.parametrize("name", ["baseline", "v4"])


def recipe_of(name="baseline", config=BRIEF, **changes):
    """The recipe of a variant, or of one with changes."""
    return Recipe(name=name, variant=replace(VARIANTS[name], **changes), config=config)


def fit(name, train, validation, config=BRIEF, **options):
    """A new model, always with the same initial weights, and what its training gave."""
    model = LeNet(VARIANTS[name], seed=0)
    return model, loop.fit(model, train, validation, recipe_of(name, config), device=CPU, **options)


def same(one, other, only=""):
    """Whether two state dicts hold the same bits, in entries starting with ``only``."""
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one if key.startswith(only))


def same_trunk(one, other):
    return all(same(one, other, part) for part in ("first_wave", "second_wave", "classifier"))


def evaluated_by_hand(model, split, train):
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
    _, result = fit(name, toy_train, toy_validation, replace(BRIEF, epochs=6))
    first, last = result.history[0], result.history[-1]
    assert result.best.val_accuracy > 0.9
    assert last.train_accuracy > (0.5 if VARIANTS[name].dropout else 0.9)  # of what dropout leaves
    assert last.train_loss < 0.5 * first.train_loss


@pytest.fixture(params=["baseline", "v4"])
def spoilt(request, toy_train, toy_validation):
    """A training whose weights are erased after epoch 3 of 5: model, result, epochs, weights."""
    epochs, weights = [], []
    model = LeNet(VARIANTS[request.param], seed=0)

    def record_then_erase(epoch):
        epochs.append(epoch)
        weights.append(deepcopy(model.state_dict()))
        if epoch.epoch == 3:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()

    recipe = recipe_of(request.param, replace(BRIEF, epochs=5, learning_rate=0.0001))
    result = loop.fit(model, toy_train, toy_validation, recipe, device=CPU, on_epoch=record_then_erase)
    return model, result, epochs, weights


def test_best_epoch_is_restored(spoilt, toy_train, toy_validation):
    model, result, epochs, weights = spoilt
    best = result.best
    assert result == FitResult(best, tuple(epochs), Normalisation.of(toy_train.images))
    assert result.stopped == ""
    accuracies = [epoch.val_accuracy for epoch in epochs]
    assert accuracies[0] < accuracies[2] > accuracies[-1]
    assert best is epochs[accuracies.index(max(accuracies))]
    assert same(model.state_dict(), weights[best.epoch - 1])
    assert not same(model.state_dict(), weights[-1])
    assert loop.evaluate(model, toy_validation, result.normalisation) == (best.val_loss, best.val_accuracy)


def test_earliest_epoch_wins_a_tie(toy_train, toy_validation):
    _, result = fit("baseline", toy_train, toy_validation, replace(BRIEF, epochs=4))
    best, epochs = result.best, result.history
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

    recipe = recipe_of("v4", replace(BRIEF, epochs=3))
    best = loop.fit(model, toy_train, None, recipe, device=CPU, on_epoch=record).best
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


def test_a_loss_that_is_not_finite_ends_the_training_with_its_epoch_and_step(toy_train, toy_validation):
    model, epochs = LeNet(VARIANTS["v4"], seed=0), []

    def spoil(epoch):
        epochs.append(epoch.epoch)
        if epoch.epoch == 2:
            with torch.no_grad():
                next(model.classifier.parameters()).fill_(float("nan"))

    recipe = recipe_of("v4", replace(BRIEF, epochs=4))
    with pytest.raises(
        DivergenceError, match=r"^The loss of epoch 3, step 1 is not finite.* lower learning_rate$"
    ):
        loop.fit(model, toy_train, toy_validation, recipe, device=CPU, on_epoch=spoil)
    assert epochs == [1, 2]


def test_a_rate_that_is_too_high_ends_the_training_at_its_second_step(toy_train, toy_validation):
    with pytest.raises(DivergenceError, match="epoch 1, step 2 is not finite"):
        fit("baseline", toy_train, toy_validation, replace(BRIEF, learning_rate=1e30))


def test_what_the_last_step_of_an_epoch_has_ruined_is_seen_in_validation(toy_train, toy_validation):
    epochs = []
    config = replace(BRIEF, learning_rate=1e30, batch_size=200)  # a single step
    with pytest.raises(DivergenceError, match="The validation loss of epoch 1 is not finite"):
        fit("baseline", toy_train, toy_validation, config, on_epoch=epochs.append)
    assert epochs == []


def test_progress_within_an_epoch_is_reported_about_once_a_second(toy_train, toy_validation):
    reports = []
    config = replace(BRIEF, epochs=2, batch_size=16)

    def wait():  # 13 steps an epoch
        time.sleep(0.1)

    model, result = fit("v4", toy_train, toy_validation, config, on_step=wait, on_progress=reports.append)
    assert [report.epoch for report in reports] == [1, 2]
    for report in reports:
        assert 100 < report.images < report.images_per_epoch == 200
        assert report.images % 16 == 0
        assert 1 <= report.seconds < 1.3
        assert 0 < report.loss < 5
    assert reports[1].loss == pytest.approx(result.history[1].train_loss, rel=0.5)
    unobserved, _ = fit("v4", toy_train, toy_validation, config)
    assert same(model.state_dict(), unobserved.state_dict())


@with_and_without_norm
def test_a_reason_from_on_epoch_ends_the_training_there(name, toy_train, toy_validation):
    """The best epoch so far is restored, and the reason handed on."""
    model, weights = LeNet(VARIANTS[name], seed=0), []

    def stop(epoch):
        weights.append(deepcopy(model.state_dict()))
        with torch.no_grad():  # so that the first epoch stays the best
            for parameter in model.parameters():
                parameter.zero_()
        return "others are better" if epoch.epoch == 3 else None

    recipe = recipe_of(name, replace(BRIEF, epochs=6))
    result = loop.fit(model, toy_train, toy_validation, recipe, device=CPU, on_epoch=stop)
    assert result.stopped == "others are better"
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert result.best is max(result.history, key=lambda epoch: epoch.val_accuracy)
    assert result.best.epoch < 3
    assert same(model.state_dict(), weights[result.best.epoch - 1])
    assert not any(module.training for module in model.modules())
    best = result.best.val_loss, result.best.val_accuracy
    assert loop.evaluate(model, toy_validation, result.normalisation) == best


def test_a_reason_after_the_last_epoch_counts(toy_train):
    _, result = fit("baseline", toy_train, None, replace(BRIEF, epochs=1), on_epoch=lambda epoch: "late")
    assert (result.stopped, len(result.history)) == ("late", 1)


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
    step = make_step(partial(loop.training_loss, model, recipe_of()), model, stay) if trains else None
    loss, accuracy = loop.run_epoch(model, batches, step)
    assert accuracy == pytest.approx(2 / 9)
    assert loss == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)


@with_and_without_norm
def test_evaluating_leaves_the_model_as_it_is(name, toy_validation):
    model = LeNet(VARIANTS[name], seed=0)
    before = deepcopy(model.state_dict())
    loop.evaluate(model, toy_validation, Normalisation.of(toy_validation.images))
    assert same(model.state_dict(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@with_and_without_norm
def test_validation_images_are_clean(name, toy_train, toy_validation):
    model = LeNet(VARIANTS[name], seed=0)
    by_hand, reported = [], []

    def rescore(epoch):
        by_hand.append(evaluated_by_hand(model, toy_validation, toy_train))
        reported.append((epoch.val_loss, epoch.val_accuracy))

    loop.fit(model, toy_train, toy_validation, recipe_of(name), device=CPU, on_epoch=rescore)
    assert len(reported) == 2
    np.testing.assert_allclose(reported, by_hand, rtol=1e-4, atol=1e-6)


def test_validation_larger_than_a_batch(toy_train):
    model, _ = fit("v4", toy_train, None)
    validation = toy_split(2 * EVALUATION_BATCH + 50, seed=2, level=200)
    evaluated = loop.evaluate(model, validation, Normalisation.of(toy_train.images))
    by_hand = evaluated_by_hand(model, validation, toy_train)
    np.testing.assert_allclose(evaluated, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["baseline", "v1", "v2", "v3", "v4"])
def test_learning_rate_is_that_of_step_lr(name):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.001)
    halve_every = 1000 if name == "baseline" else 5
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=halve_every, gamma=0.5)
    expected = []
    for _ in range(15):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    recipe = variant_recipes(TrainingConfig())[name]
    rates = [loop.learning_rate_at(epoch, recipe) for epoch in range(1, 16)]
    assert rates == expected
    assert len(set(rates)) == (1 if name == "baseline" else 3)


def test_annealing_follows_half_a_cosine_and_multiplies_with_halving():
    config = TrainingConfig(epochs=4, learning_rate=0.1)
    annealed = recipe_of("baseline", config, cosine_annealing=True)
    rates = [loop.learning_rate_at(epoch, annealed) for epoch in range(1, 5)]
    half = 0.5**0.5 / 2
    assert rates == pytest.approx([0.1, 0.1 * (0.5 + half), 0.05, 0.1 * (0.5 - half)])
    both = recipe_of("baseline", config, cosine_annealing=True, halve_learning_rate_every=2)
    assert loop.learning_rate_at(3, both) == pytest.approx(0.025)


SEARCHED = {
    "dropout": {"dropout": 0.3},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "sgd": {"optimizer": "sgd", "weight_decay": 1e-4},
    "smoothing": {"label_smoothing": 0.1},
    "augmentation": {"augmentation": Augmentation(flip=0.5, shift=1, erase=0.1)},
}


def weights_of(recipe, images, torch_seed):
    torch.manual_seed(torch_seed)  # on which nothing may depend
    model = LeNet(recipe.variant, seed=0)
    loop.fit(model, images, None, recipe, device=CPU)
    return list(model.state_dict().values())


@pytest.fixture(scope="module")
def plain(toy_train):
    """The weights of v4 as it is."""
    return weights_of(recipe_of("v4"), toy_train, 0)


@pytest.mark.parametrize("change", SEARCHED.values(), ids=SEARCHED)
def test_what_a_search_may_change_changes_the_weights_and_can_be_repeated(change, plain, toy_train):
    once, again = (weights_of(recipe_of("v4", **change), toy_train, seed) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, once, strict=True))


def test_smoothing_spreads_the_target():
    model = LeNet(VARIANTS["baseline"], seed=0)
    images = torch.rand(8, 1, 28, 28)
    labels = torch.arange(8)
    recipe = recipe_of("baseline", TrainingConfig(auxiliary="untrained"), label_smoothing=0.2)
    loss, logits = loop.training_loss(model, recipe, images, labels)
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


def test_optimizer_uses_the_learning_rate(toy_train):
    used, reported = [], []

    def record(optimizer, arguments, options):
        used.append(optimizer.param_groups[0]["lr"])

    config = TrainingConfig(epochs=3, batch_size=100, learning_rate=0.004)
    recipe = recipe_of("v1", config, halve_learning_rate_every=2)
    hook = register_optimizer_step_pre_hook(record)
    try:
        loop.fit(
            LeNet(recipe.variant, seed=0), toy_train, None, recipe, device=CPU,
            on_epoch=lambda epoch: reported.append(epoch.learning_rate),
        )  # fmt: skip
    finally:
        hook.remove()
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
    train = toy_train.subset(np.arange(70))  # few: two threads are slow beside busy processes

    def weights(seed):
        return fit(name, train, toy_validation, replace(BRIEF, seed=seed))[0].state_dict()

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
    model, result = fit(name, toy_train, toy_validation, replace(config, precision="bfloat16"))
    assert not same(exact.state_dict(), model.state_dict())
    assert {value.dtype for value in model.state_dict().values()} <= {torch.float32, torch.int64}
    assert result.best.val_accuracy > 0.9
    evaluated = loop.evaluate(model, toy_validation, Normalisation.of(toy_train.images))
    assert evaluated == (result.best.val_loss, result.best.val_accuracy)


def pool_last(model):
    """The report's order of ReLU and max-pooling."""
    for wave in (model.first_wave, model.second_wave):
        wave[-2], wave[-1] = wave[-1], wave[-2]
    return model


@with_and_without_norm
def test_pooling_before_relu_gives_the_reports_weights_bit_for_bit(name, toy_train, toy_validation):
    ours, _ = fit(name, toy_train, toy_validation)
    theirs = pool_last(LeNet(VARIANTS[name], seed=0))
    loop.fit(theirs, toy_train, toy_validation, recipe_of(name), device=CPU)
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
    loss, logits = loop.training_loss(model, recipe_of("baseline", config), images, labels)
    heads = [cross_entropy(head, labels) for head in model.auxiliary(images)]
    expected = cross_entropy(model(images), labels) + weight * sum(heads)
    assert torch.equal(logits, model(images))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@with_and_without_norm
def test_last_batch_of_one_image(name, toy_train, toy_validation):
    train = toy_train.subset(np.arange(65))
    model, result = fit(name, train, toy_validation)
    assert np.isfinite([result.best.train_loss, result.best.val_loss]).all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.fixture
def numbered(toy_train):
    """The toy images, each with its row as label."""
    return Split(toy_train.images, torch.arange(len(toy_train)))


def batches_of(split, epoch=1, augmentation=AS_PUBLISHED, chunk=loop.AUGMENTATION_CHUNK, **changes):
    normalise = Normalisation.of(split.images)
    recipe = recipe_of("baseline", replace(BRIEF, **changes), augmentation=augmentation)
    return list(loop.training_batches(split, normalise, recipe, epoch, chunk))


def rows_of(batches):
    return torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("chunk", [2000, 64, 10])
@pytest.mark.parametrize("size", [2, 32, 48, 500])
def test_an_epoch_covers_every_image_once(numbered, chunk, size):
    batches = batches_of(numbered, chunk=chunk, batch_size=size)
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


def test_images_keep_their_labels(numbered):
    unchanged = Augmentation(flip=0, jitter=0, autocontrast=0, solarize=0)
    clean = Normalisation.of(numbered.images)(numbered.images)
    for images, labels in batches_of(numbered, augmentation=unchanged, chunk=64):
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
        loop.epoch_generator(seed, epoch, CPU).initial_seed()
        for seed, epoch in product(range(20), range(1, 21))
    }
    assert len(seeds) == 400
