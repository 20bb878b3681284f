"""Foreign models: the scale of their images is found or refused, and only what can be scored is."""

import foreign_modules as modules
import pytest
import torch

from lenet_study.errors import UserError
from lenet_study.evidence import foreign
from lenet_study.evidence.foreign import ForeignModule, examine
from lenet_study.training.dataset import Normalisation, Split

CPU = torch.device("cpu")


def module(made):
    return ForeignModule(modules.scripted(made), CPU, "theirs.pt")


@pytest.fixture
def images(toy_train, toy_validation) -> tuple[torch.Tensor, Split]:
    return toy_train.images, toy_validation


# ---- the scale ----


@pytest.mark.parametrize("scale", modules.LOWEST)
def test_auto_finds_the_scale_of_the_images(scale, images):
    model = examine(module(modules.Bands(scale)), "auto", *images)
    assert model.scale == scale
    assert f"{scale} 100.0 %" in model.reason
    assert model.reason.endswith("right of 60 validation images")
    assert model.predict(images[1]).accuracy == 1


def test_a_scale_that_is_given_is_taken_even_if_another_is_better(images):
    model = examine(module(modules.Bands("normalised")), "unit", *images)
    assert (model.scale, model.reason) == ("unit", "as inputs=unit says")
    assert model.predict(images[1]).accuracy == 0


@pytest.mark.parametrize(
    "made", [modules.WithHeads("unit"), modules.Always(0.1)], ids=["any scale", "chance"]
)
def test_auto_refuses_to_guess(made, images):
    with pytest.raises(UserError) as caught:
        examine(module(made), "auto", *images)
    message = str(caught.value)
    assert "model=theirs.pt does not show which images it expects (unit " in message
    assert "inputs=unit, normalised or symmetric" in message


def test_scales_are_what_their_names_say(images):
    train = images[0]
    ends = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    scaled = {name: scale(ends).flatten().tolist() for name, scale in foreign.scales(train).items()}
    normalisation = Normalisation.of(train)
    assert scaled["unit"] == [0, 1]
    assert scaled["symmetric"] == [-1, 1]
    expected = [-normalisation.mean / normalisation.std, (1 - normalisation.mean) / normalisation.std]
    assert scaled["normalised"] == pytest.approx(expected)


# ---- the answers ----


def test_a_tensor_has_no_heads_and_no_features(images):
    predicted = examine(module(modules.Bands("unit")), "auto", *images).predict(images[1])
    assert predicted.logits.shape == (60, 10)
    assert (predicted.first, predicted.second, predicted.features) == (None, None, None)
    assert torch.equal(predicted.labels, images[1].labels)


def test_a_tuple_is_classifier_and_heads(images):
    predicted = examine(module(modules.WithHeads("unit")), "unit", *images).predict(images[1])
    assert predicted.accuracy == 1
    assert (predicted.first.argmax(1) == (images[1].labels + 1) % 10).all()
    assert torch.equal(20 * predicted.second, predicted.logits)


def test_probabilities_become_logits_of_the_same_probabilities(images):
    model = examine(module(modules.Probabilities("unit")), "unit", *images)
    assert model.probabilities
    predicted = model.predict(images[1])
    logits = examine(module(modules.WithHeads("unit")), "unit", *images).predict(images[1])
    torch.testing.assert_close(predicted.probabilities, logits.probabilities)
    assert predicted.loss == pytest.approx(logits.loss, rel=1e-4)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (modules.NineClasses(), "answers 60 images with [60, 9]"),
        (modules.Transposed(), "answers 60 images with [10, 60]"),
        (modules.Named(), "answers 60 images with dict"),
        (modules.Nothing(), "answers 60 images with NoneType"),
        (modules.Colour(), "fails on images [60, 1, 28, 28] (RuntimeError: "),
        (modules.Larger(), "fails on images [60, 1, 28, 28] (RuntimeError: mat1 and mat2 shapes"),
        (modules.Always(float("nan")), "answers with numbers that are not finite"),
        (modules.Always(float("inf")), "answers with numbers that are not finite"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
@pytest.mark.parametrize("inputs", ["auto", "unit"])
def test_what_cannot_be_scored_is_refused_in_one_sentence(made, reason, inputs, images):
    with pytest.raises(UserError) as caught:
        examine(module(made), inputs, *images)
    message = str(caught.value)
    assert f"model=theirs.pt {reason}" in message
    assert ": name " in message
    assert "\n" not in message
