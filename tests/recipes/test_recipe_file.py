"""Spec files: what is written is read again, and what is wrong is refused in one sentence."""

import json
from dataclasses import replace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_study.errors import UserError
from lenet_study.recipes import recipe as specs
from lenet_study.recipes.recipe import Recipe
from lenet_study.recipes.variants import VARIANTS
from lenet_study.search.space import Space
from lenet_study.training.loop import TrainingConfig

SEARCHED = Recipe(
    name="lenet-7",
    spec=replace(
        VARIANTS["v4"], change="found by a search", dropout=0.25, optimizer="sgd", weight_decay=1e-4
    ),
    config=TrainingConfig(
        epochs=20, batch_size=64, learning_rate=0.02, auxiliary="joint", auxiliary_weight=0.1
    ),
)


@pytest.fixture
def content():
    return json.loads(SEARCHED.text())


@pytest.fixture
def written(tmp_path, content):
    def write(**changes):
        path = tmp_path / "spec.json"
        path.write_text(json.dumps(content | changes))
        return str(path)

    return write


def test_a_spec_file_gives_back_its_recipe(written):
    given = TrainingConfig(seed=5, precision="bfloat16")
    read = specs.read(written(), given)
    assert read == replace(SEARCHED, config=replace(SEARCHED.config, seed=5, precision="bfloat16"))
    assert read.searched


@pytest.mark.parametrize("name", VARIANTS)
def test_the_file_of_a_variant_is_that_variant(name, tmp_path):
    recipe = Recipe(name=name, spec=VARIANTS[name], config=TrainingConfig(epochs=3))
    (tmp_path / "spec.json").write_text(recipe.text())
    assert specs.chosen("v1", str(tmp_path / "spec.json"), TrainingConfig()) == recipe
    assert not recipe.searched


def test_without_a_file_the_variant_counts():
    config = TrainingConfig(epochs=2)
    expected = Recipe(name="v2", spec=VARIANTS["v2"], config=config)
    assert specs.chosen("v2", "", config) == expected


def test_what_the_file_decides_may_be_repeated_but_not_contradicted(written):
    assert specs.read(written(), TrainingConfig(epochs=20)).config.epochs == 20
    with pytest.raises(UserError, match=r"epochs=7 contradicts spec=.*, which says 20"):
        specs.read(written(), TrainingConfig(epochs=7))


def test_digests_tell_recipes_apart_whatever_they_are_called():
    same = replace(SEARCHED, name="other", spec=replace(SEARCHED.spec, change="other"))
    assert same.digest() == SEARCHED.digest()
    assert replace(SEARCHED, config=replace(SEARCHED.config, seed=9)).digest() == SEARCHED.digest()
    assert replace(SEARCHED, config=replace(SEARCHED.config, epochs=9)).digest() != SEARCHED.digest()
    assert replace(SEARCHED, spec=VARIANTS["v4"]).digest() != SEARCHED.digest()


def test_a_run_s_parameters_name_the_spec_and_of_a_searched_model_what_its_file_decides():
    logged = SEARCHED.parameters(of_file=True)
    assert logged["spec.dropout"] == 0.25
    assert logged["spec.augmentation.shift"] == 0
    assert logged["spec.epochs"] == 20
    of_variant = Recipe(name="v4", spec=VARIANTS["v4"], config=TrainingConfig()).parameters(of_file=False)
    assert logged.keys() - of_variant.keys() == {f"spec.{name}" for name in specs.CONFIG}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"v4"'])
def test_what_is_no_spec_file_is_refused(text, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(UserError, match="spec="):
        specs.read(str(path), TrainingConfig())


@pytest.mark.parametrize("missing", [True, False])
def test_a_missing_file_and_a_folder_are_refused(missing, tmp_path):
    path = tmp_path / "none.json" if missing else tmp_path
    with pytest.raises(UserError, match=r"cannot be read .* name the spec.json of a run"):
        specs.read(str(path), TrainingConfig())


WRONG = [
    ("spec", "channels", [32]),
    ("spec", "channels", [32, 0]),
    ("spec", "channels", [32, 64.0]),
    ("spec", "hidden_units", "200"),
    ("spec", "batch_norm", 1),
    ("spec", "batch_norm", "true"),
    ("spec", "dropout", 1),
    ("spec", "dropout", -0.1),
    ("spec", "dropout", True),
    ("spec", "optimizer", "lion"),
    ("spec", "weight_decay", None),
    ("spec", "halve_learning_rate_every", 0),
    ("spec", "label_smoothing", float("nan")),
    ("config", "epochs", 0),
    ("config", "batch_size", 1),
    ("config", "learning_rate", 0),
    ("config", "learning_rate", float("inf")),
    ("config", "auxiliary", "both"),
]


@pytest.mark.parametrize(("part", "field", "value"), WRONG, ids=[f"{w[1]}={w[2]}" for w in WRONG])
def test_a_wrong_value_is_refused_by_name(part, field, value, content):
    content[part][field] = value
    with pytest.raises(UserError, match=field):
        specs.parse(content, "spec.json")


@pytest.mark.parametrize("part", ["spec", "config"])
def test_missing_and_unknown_fields_are_refused(part, content):
    first = next(iter(content[part]))
    with pytest.raises(UserError, match=f"lacks {first}"):
        specs.parse(content | {part: {k: v for k, v in content[part].items() if k != first}}, "spec.json")
    with pytest.raises(UserError, match="unknown field depth"):
        specs.parse(content | {part: content[part] | {"depth": 3}}, "spec.json")


@pytest.mark.parametrize("shift", [-1, 15, 0.5])
def test_a_wrong_augmentation_is_refused(shift, content):
    content["spec"]["augmentation"]["shift"] = shift
    with pytest.raises(UserError, match="shift"):
        specs.parse(content, "spec.json")


@pytest.mark.parametrize("name", ["", "../x", "a\nb", 7, "x" * 101])
def test_what_is_no_name_is_refused(name, content):
    with pytest.raises(UserError, match="is no name"):
        specs.parse(content | {"name": name}, "spec.json")


def test_a_searched_model_cannot_take_a_variant_s_name(content):
    with pytest.raises(UserError, match="name=v4 is that of a variant"):
        specs.parse(content | {"name": "v4"}, "spec.json")


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_every_draw_survives_its_file(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    recipe = Space(500_000, 30).suggest(study.ask())
    assert specs.parse(json.loads(recipe.text()), "spec.json") == recipe
