"""The space of a search: every suggestion is a model within the budget, and the variants lie in it."""

from dataclasses import replace

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_study.errors import UserError
from lenet_study.evidence.export import exportable, load_torchscript, save_torchscript
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.search.space import Space
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet

SMALLEST = 10_142
FULL = Space(500_000, 30)


def suggested(space: Space, seed: int):
    return space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask())


@given(st.integers(0, 2**32 - 1), st.integers(SMALLEST, 2_000_000), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_every_suggestion_is_a_model_within_the_budget(seed, budget, epochs):
    recipe = suggested(Space(budget, epochs), seed)
    model = LeNet(recipe.variant, seed=0)
    assert (
        sum(parameter.numel() for parameter in model.parameters())
        == parameter_count(recipe.variant)
        <= budget
    )
    assert 1 <= recipe.config.epochs <= epochs
    assert model.train().heads(torch.zeros(2, 1, 28, 28))[0].isfinite().all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_every_suggestion_scripts(seed, tmp_path_factory):
    recipe = suggested(FULL, seed)
    model = LeNet(recipe.variant, seed=0).eval()
    path = tmp_path_factory.mktemp("models") / "model.pth"
    save_torchscript(exportable(model, Normalisation(0.3, 0.35), {}), path)
    images = torch.rand(3, 1, 28, 28)
    expected = model((images - 0.3) / 0.35)
    torch.testing.assert_close(load_torchscript(path)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variants_lie_in_the_space(name):
    point = FULL.variant_points()[name]
    recipe = FULL.suggest(optuna.trial.FixedTrial(dict(point)), seed=4)
    expected = replace(VARIANTS[name], change=recipe.variant.change, parent=None)
    assert recipe.variant == expected
    assert recipe.config == TrainingConfig(seed=4)


def test_variants_beyond_the_budget_are_left_out():
    assert list(FULL.variant_points()) == list(VARIANTS)
    assert list(Space(333_970, 30).variant_points()) == ["baseline", "v1", "v2"]
    assert list(Space(77_486, 30).variant_points()) == ["baseline", "v1"]
    assert list(Space(77_485, 30).variant_points()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"halve_learning_rate_every": 4},
        {"channels": (33, 64)},
        {"channels": (200, 64)},
        {"weight_decay": 0.3},
        {"dropout": 0.6},
        {"hidden_units": (200, 30)},
    ],
)
def test_a_variant_outside_the_space_is_left_out(changes):
    variants = {**VARIANTS, "v5": replace(VARIANTS["v2"], parent="v2", **changes)}
    assert list(FULL.variant_points(variants)) == list(VARIANTS)


def test_another_variant_within_the_space_has_its_point():
    v5 = replace(VARIANTS["v2"], parent="v2", change="dropout", dropout=0.25)
    point = FULL.variant_points({"v5": v5})["v5"]
    assert FULL.suggest(optuna.trial.FixedTrial(dict(point))).variant.dropout == 0.25


@pytest.mark.parametrize("epochs", [1, 2, 7, 10, 15, 30, 40])
def test_a_variant_trains_for_the_report_s_epochs_or_the_most_there_are(epochs):
    space = Space(500_000, epochs)
    recipe = space.suggest(optuna.trial.FixedTrial(dict(space.variant_points()["v4"])))
    assert recipe.config.epochs == min(max(15, epochs // 2), epochs)


def test_a_digest_tells_declarations_apart():
    assert FULL.digest() == Space(500_000, 30).digest()
    assert FULL.digest() != Space(500_000, 20).digest() != Space(50_000, 20).digest()


def test_practice_begins_within_the_space_and_the_budget():
    recipes = [FULL.suggest(optuna.trial.FixedTrial(dict(point))) for point in FULL.warm_start_points()]
    assert len({recipe.fingerprint() for recipe in recipes}) == 3
    assert all(parameter_count(recipe.variant) <= 500_000 for recipe in recipes)
    assert all(recipe.variant.cosine_annealing and recipe.config.epochs == 30 for recipe in recipes)
    assert Space(400_000, 30).warm_start_points() == []


def test_a_budget_below_the_smallest_model_is_refused():
    assert suggested(Space(SMALLEST, 30), 0)
    with pytest.raises(UserError, match=r"max_parameters=10141 .* smallest model .* 10,142"):
        Space(SMALLEST - 1, 30)


def test_the_most_of_everything_is_the_budget():
    highest = optuna.trial.FixedTrial(
        {**FULL.variant_points()["v4"], "hidden_share": 1.0, "hidden_ratio": 0.7}
    )
    assert 498_000 < parameter_count(FULL.suggest(highest).variant) <= 500_000


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_counted_as_torch_counts_them(name):
    model = LeNet(VARIANTS[name], seed=0)
    assert parameter_count(VARIANTS[name]) == sum(parameter.numel() for parameter in model.parameters())
