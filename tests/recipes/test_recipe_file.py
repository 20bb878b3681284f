"""Recipe files: what is written is read again, and what is wrong is refused in one sentence."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet_study.errors import UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import PER_RUN, Recipe, TrainingConfig
from lenet_study.recipes.recipe_file import RecipeChoice
from lenet_study.recipes.variants import VARIANTS, Variant

ROOT = Path(__file__).parents[2]
SEARCHED = Recipe(
    name="lenet-7",
    variant=replace(
        VARIANTS["v4"],
        parent=None,
        change="found by a search",
        dropout=0.25,
        optimizer="sgd",
        weight_decay=1e-4,
    ),
    config=TrainingConfig(
        epochs=20, batch_size=64, learning_rate=0.02, auxiliary="joint", auxiliary_weight=0.1
    ),
)


def without_sum(recipe):
    """The content of a user's own file."""
    content = json.loads(recipe_file.dumps(recipe))
    del content["sha256"]
    return content


@pytest.fixture
def content():
    return without_sum(SEARCHED)


@pytest.fixture
def written(tmp_path, content):
    def write(**changes):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(content | changes))
        return str(path)

    return write


def check(content):
    """What is made of the content of a file."""
    return recipe_file.loads(json.dumps(content), "recipe.json")


def test_a_recipe_file_gives_back_its_recipe(written):
    config = TrainingConfig(seed=5, precision="bfloat16")
    recipe = recipe_file.read(written(), config)
    assert recipe == replace(SEARCHED, config=replace(SEARCHED.config, seed=5, precision="bfloat16"))
    assert recipe.searched


def test_a_damaged_digit_is_no_other_recipe():
    text = recipe_file.dumps(SEARCHED)
    assert recipe_file.loads(text, "recipe.json") == replace(SEARCHED, config=SEARCHED.config)
    for place, digit in enumerate(text):
        if digit.isdigit() and text[place - 1] not in "0123456789abcdef":
            damaged = f"{text[:place]}{(int(digit) + 1) % 10}{text[place + 1 :]}"
            with pytest.raises(UserError, match=r"recipe.json is not what its run wrote \(sha256="):
                recipe_file.loads(damaged, "recipe.json")


def test_a_file_holds_name_variant_and_what_it_decides_of_the_configuration(content):
    assert list(content) == ["name", "variant", "config"]
    assert content["variant"].keys() == asdict(SEARCHED.variant).keys()
    assert content["config"].keys() == asdict(SEARCHED.config).keys() - set(PER_RUN)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_file_of_a_variant_is_that_variant(name, tmp_path):
    recipe = Recipe(name=name, variant=VARIANTS[name], config=TrainingConfig(epochs=3))
    path = tmp_path / "recipe.json"
    path.write_text(recipe_file.dumps(recipe))
    assert RecipeChoice(variant="v1", recipe=str(path)).load(TrainingConfig()) == recipe
    assert not recipe.searched


def test_without_a_file_the_variant_counts():
    config = TrainingConfig(epochs=2)
    expected = Recipe(name="v2", variant=VARIANTS["v2"], config=config)
    assert RecipeChoice(variant="v2").load(config) == expected


def test_what_the_file_decides_may_be_repeated_but_not_contradicted(written):
    assert recipe_file.read(written(), TrainingConfig(epochs=20)).config.epochs == 20
    with pytest.raises(UserError, match=r"epochs=7 contradicts recipe=.*, which says 20"):
        recipe_file.read(written(), TrainingConfig(epochs=7))


def test_fingerprints_tell_recipes_apart_whatever_they_are_called():
    same = replace(SEARCHED, name="other", variant=replace(SEARCHED.variant, change="other", parent="v2"))
    fingerprint = SEARCHED.fingerprint()
    assert len(fingerprint) == 16
    assert same.fingerprint() == fingerprint
    assert replace(SEARCHED, config=replace(SEARCHED.config, seed=9)).fingerprint() == fingerprint
    assert replace(SEARCHED, config=replace(SEARCHED.config, epochs=9)).fingerprint() != fingerprint
    assert replace(SEARCHED, variant=VARIANTS["v4"]).fingerprint() != fingerprint


def test_a_run_s_params_name_the_variant_s_fields_and_of_a_searched_model_what_its_file_decides():
    logged = SEARCHED.params(from_file=True)
    assert logged["variant.dropout"] == 0.25
    assert logged["variant.augmentation.shift"] == 0
    assert logged["recipe.epochs"] == 20
    decided = asdict(TrainingConfig()).keys() - set(PER_RUN)
    assert {name for name in logged if name.startswith("recipe.")} == {f"recipe.{name}" for name in decided}


def test_of_a_variant_the_params_are_what_tells_it_from_others():
    of_variant = Recipe(name="v4", variant=VARIANTS["v4"]).params(from_file=False)
    fields = ("channels", "hidden_units", "batch_norm", "halve_learning_rate_every")
    assert [*of_variant] == [f"variant.{field}" for field in fields]


# ---- files of version 0.1 ----


def test_a_file_with_the_old_keys_is_read(content):
    former = {"name": content["name"], "spec": content["variant"], "protocol": content["config"]}
    del former["spec"]["parent"]  # which it did not have
    assert check(former) == SEARCHED


def test_a_variant_s_old_file_is_the_variant_with_its_parent():
    recipe = Recipe(name="v2", variant=VARIANTS["v2"])
    former = json.loads(recipe_file.dumps(recipe))
    former = {"name": "v2", "spec": former["variant"], "protocol": former["config"]}
    del former["spec"]["parent"]
    assert check(former) == recipe


def test_the_searched_model_of_the_documentation_keeps_its_fingerprint():
    text = (ROOT / "docs" / "searched.json").read_text()
    assert recipe_file.loads(text, "searched.json").fingerprint() == "005c3305ed598c35"


# ---- what is refused ----


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"v4"', "7", "[" * 100_000])
def test_what_is_no_recipe_file_is_refused(text, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(UserError, match="recipe=") as error:
        recipe_file.read(str(path), TrainingConfig())
    assert "\n" not in str(error.value)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"cannot be read .* name the recipe.json of a run"):
        recipe_file.read(str(path), TrainingConfig())


@pytest.mark.parametrize("missing", [True, False])
def test_a_missing_file_and_a_folder_are_refused(missing, tmp_path):
    path = tmp_path / "none.json" if missing else tmp_path
    with pytest.raises(UserError, match=r"cannot be read .* name the recipe.json of a run"):
        recipe_file.read(str(path), TrainingConfig())


WRONG = [
    ("variant", "channels", [32]),
    ("variant", "channels", [32, 0]),
    ("variant", "channels", [32, 64.0]),
    ("variant", "channels", [32, 64, 128]),
    ("variant", "hidden_units", "200"),
    ("variant", "batch_norm", 1),
    ("variant", "batch_norm", "true"),
    ("variant", "dropout", 1),
    ("variant", "dropout", -0.1),
    ("variant", "dropout", True),
    ("variant", "dropout", "0.1"),
    ("variant", "optimizer", "lion"),
    ("variant", "weight_decay", None),
    ("variant", "weight_decay", False),
    ("variant", "halve_learning_rate_every", 0),
    ("variant", "halve_learning_rate_every", True),
    ("variant", "label_smoothing", float("nan")),
    ("variant", "augmentation", None),
    ("variant", "parent", 3),
    ("config", "epochs", 0),
    ("config", "epochs", 3.5),
    ("config", "epochs", True),
    ("config", "batch_size", 1),
    ("config", "learning_rate", 0),
    ("config", "learning_rate", True),
    ("config", "learning_rate", float("nan")),
    ("config", "learning_rate", float("inf")),
    ("config", "auxiliary", "both"),
]


@pytest.mark.parametrize(("section", "field", "value"), WRONG, ids=[f"{w[1]}={w[2]}" for w in WRONG])
def test_a_wrong_value_is_refused_by_name(section, field, value, content):
    content[section][field] = value
    with pytest.raises(UserError, match=rf"recipe.json: {section}\.{field}.* is refused .*: mend") as error:
        check(content)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("section", "field"), [("variant", "change"), ("variant", "channels")])
def test_a_missing_field_without_default_is_refused(section, field, content):
    del content[section][field]
    with pytest.raises(UserError, match=rf"{section}\.{field} is refused \(Field required\)"):
        check(content)


def test_a_missing_variant_and_a_missing_name_are_refused(content):
    for key in ("variant", "name"):
        with pytest.raises(UserError, match=rf"{key} is refused \(Field required\)"):
            check({name: value for name, value in content.items() if name != key})


def test_a_missing_field_has_its_default(content):
    """A file from before a field was there means what it meant then."""
    del content["config"]["batch_size"], content["variant"]["dropout"]
    recipe = check(content)
    assert recipe.config == replace(SEARCHED.config, batch_size=32)
    assert recipe.variant == replace(SEARCHED.variant, dropout=0.0)


@pytest.mark.parametrize("section", ["variant", "config"])
def test_unknown_fields_are_refused(section, content):
    with pytest.raises(UserError, match=rf"{section}\.depth=3 is refused"):
        check(content | {section: content[section] | {"depth": 3}})
    with pytest.raises(UserError, match=r"depth=3 is refused"):
        check(content | {"depth": 3})


@pytest.mark.parametrize("name", PER_RUN)
def test_what_is_chosen_for_each_run_is_refused(name, content):
    value = getattr(TrainingConfig(), name)
    with pytest.raises(UserError, match=rf"config\.{name} is no part of a recipe: name it on the command"):
        check(content | {"config": content["config"] | {name: value}})


@pytest.mark.parametrize("shift", [-1, 15, 0.5, True])
def test_a_wrong_augmentation_is_refused(shift, content):
    content["variant"]["augmentation"]["shift"] = shift
    with pytest.raises(UserError, match=r"variant\.augmentation\.shift"):
        check(content)


@pytest.mark.parametrize("name", ["", "../x", "a\nb", "x" * 101])
def test_what_is_no_name_is_refused(name, content):
    with pytest.raises(UserError, match="is no name"):
        check(content | {"name": name})


def test_a_number_is_no_name(content):
    with pytest.raises(UserError, match="name=7 is refused"):
        check(content | {"name": 7})


def test_a_searched_model_cannot_take_a_variant_s_name(content):
    with pytest.raises(UserError, match="name=v4 is that of a variant"):
        check(content | {"name": "v4"})


RECIPES = st.builds(
    Recipe,
    name=st.from_regex(r"[A-Z][\w .,+-]{0,20}", fullmatch=True),  # no variant begins so
    variant=st.builds(Variant),
    config=st.builds(
        TrainingConfig,
        seed=st.just(0),
        precision=st.just("float32"),
    ),
)


@given(recipe=RECIPES)
@settings(max_examples=50, deadline=None)
def test_every_recipe_survives_its_file(recipe):
    """Hypothesis reads types and ranges from the declarations, those of fields to come included."""
    assert recipe_file.loads(recipe_file.dumps(recipe), "recipe.json") == recipe


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_every_draw_of_a_search_survives_its_file(seed):
    from lenet_study.search.space import Space

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    recipe = Space(500_000, 30).suggest(study.ask())
    assert recipe_file.loads(recipe_file.dumps(recipe), "recipe.json") == recipe


@pytest.mark.parametrize("parent", ["nonsense", "v9"])
def test_a_parent_that_is_no_variant_is_refused(parent):
    content = without_sum(SEARCHED)
    content["variant"]["parent"] = parent
    with pytest.raises(UserError, match=rf"variant.parent={parent} is no variant: write null, or baseline"):
        recipe_file.loads(json.dumps(content), "recipe=x")


def test_a_file_with_a_key_of_both_versions_is_refused():
    content = without_sum(SEARCHED)
    content["spec"] = content["variant"]
    with pytest.raises(UserError, match=r"spec.* is refused"):
        recipe_file.loads(json.dumps(content), "recipe=x")


def test_a_long_value_is_cut_in_the_sentence():
    content = without_sum(SEARCHED)
    content["variant"]["dropout"] = "x" * 1000
    with pytest.raises(UserError) as error:
        recipe_file.loads(json.dumps(content), "recipe=x")
    assert len(str(error.value)) < 300
