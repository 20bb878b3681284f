"""The space of a search: every draw is a model within the budget, and the five variants lie in it."""

from dataclasses import replace

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_study.errors import UserError
from lenet_study.evidence.export import exportable, load_torchscript, save_torchscript
from lenet_study.recipes.variants import VARIANTS, parameters
from lenet_study.search.space import Space
from lenet_study.training.dataset import Normalisation
from lenet_study.training.loop import TrainingConfig
from lenet_study.training.model import LeNet

SMALLEST = 10_142
FULL = Space(500_000, 30)


def drawn(space: Space, seed: int):
    return space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask())


@given(st.integers(0, 2**32 - 1), st.integers(SMALLEST, 2_000_000), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_every_draw_is_a_model_within_the_budget(seed, budget, epochs):
    recipe = drawn(Space(budget, epochs), seed)
    model = LeNet(recipe.spec, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters(recipe.spec) <= budget
    assert 1 <= recipe.config.epochs <= epochs
    assert model.train().heads(torch.zeros(2, 1, 28, 28))[0].isfinite().all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_every_draw_scripts(seed, tmp_path_factory):
    recipe = drawn(FULL, seed)
    model = LeNet(recipe.spec, seed=0).eval()
    path = tmp_path_factory.mktemp("models") / "model.pth"
    save_torchscript(exportable(model, Normalisation(0.3, 0.35), {}), path)
    images = torch.rand(3, 1, 28, 28)
    expected = model((images - 0.3) / 0.35)
    torch.testing.assert_close(load_torchscript(path)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_five_lie_in_the_space(name):
    place = FULL.variants()[name]
    recipe = FULL.suggest(optuna.trial.FixedTrial(dict(place)), seed=4)
    assert replace(recipe.spec, change=VARIANTS[name].change) == VARIANTS[name]
    assert recipe.config == TrainingConfig(seed=4)


def test_variants_beyond_the_budget_are_left_out():
    assert list(Space(500_000, 30).variants()) == list(VARIANTS)
    assert list(Space(333_970, 30).variants()) == ["baseline", "v1", "v2"]
    assert list(Space(77_486, 30).variants()) == ["baseline", "v1"]
    assert list(Space(77_485, 30).variants()) == []


@pytest.mark.parametrize("epochs", [1, 2, 7, 10, 15, 30, 40])
def test_a_variant_trains_for_the_report_s_epochs_or_the_most_there_are(epochs):
    space = Space(500_000, epochs)
    recipe = space.suggest(optuna.trial.FixedTrial(dict(space.variants()["v4"])))
    assert recipe.config.epochs == min(max(15, epochs // 2), epochs)


def test_a_digest_tells_declarations_apart():
    assert FULL.digest() == Space(500_000, 30).digest()
    assert FULL.digest() != Space(500_000, 20).digest() != Space(50_000, 20).digest()


def test_practice_begins_within_the_space_and_the_budget():
    practices = [FULL.suggest(optuna.trial.FixedTrial(dict(place))) for place in FULL.practices()]
    assert len({recipe.digest() for recipe in practices}) == 3
    assert all(parameters(recipe.spec) <= 500_000 for recipe in practices)
    assert all(recipe.spec.cosine_annealing and recipe.config.epochs == 30 for recipe in practices)
    assert Space(400_000, 30).practices() == []


def test_a_budget_below_the_smallest_model_is_refused():
    assert drawn(Space(SMALLEST, 30), 0)
    with pytest.raises(UserError, match=r"max_parameters=10141 .* smallest model .* 10,142"):
        Space(SMALLEST - 1, 30)


def test_the_most_of_everything_is_the_budget():
    highest = optuna.trial.FixedTrial({**FULL.variants()["v4"], "hidden_share": 1.0, "hidden_ratio": 0.7})
    assert 498_000 < parameters(FULL.suggest(highest).spec) <= 500_000


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_as_torch_counts_them(name):
    model = LeNet(VARIANTS[name], seed=0)
    assert parameters(VARIANTS[name]) == sum(parameter.numel() for parameter in model.parameters())
