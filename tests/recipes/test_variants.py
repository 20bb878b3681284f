"""The table of variants."""

from dataclasses import FrozenInstanceError, fields

import pytest

from lenet_study.recipes.recipe import TrainingConfig, describe, variant_recipes
from lenet_study.recipes.variants import VARIANTS, Variant

DERIVED = {name: variant for name, variant in VARIANTS.items() if variant.parent}


@pytest.mark.parametrize("variant", DERIVED.values(), ids=DERIVED)
def test_a_variant_differs_from_its_parent_in_one_field(variant):
    differing = {
        field.name
        for field in fields(Variant)
        if getattr(VARIANTS[variant.parent], field.name) != getattr(variant, field.name)
    }
    assert {"change", "parent"} <= differing
    assert len(differing) == 3


def test_changes_tell_variants_apart():
    changes = [variant.change for variant in VARIANTS.values()]
    assert all(changes)
    assert len(set(changes)) == len(VARIANTS)


@pytest.mark.parametrize(
    ("name", "channels", "hidden_units", "batch_norm", "halve_every"),
    [
        ("baseline", (6, 16), (120, 84), False, None),
        ("v1", (6, 16), (120, 84), False, 5),
        ("v2", (32, 64), (120, 84), False, 5),
        ("v3", (32, 64), (200, 140), False, 5),
        ("v4", (32, 64), (200, 140), True, 5),
    ],
)
def test_numbers_are_the_reports(name, channels, hidden_units, batch_norm, halve_every):
    variant = VARIANTS[name]
    assert variant.channels == channels
    assert variant.hidden_units == hidden_units
    assert variant.batch_norm is batch_norm
    assert variant.halve_learning_rate_every == halve_every


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_variants_are_frozen(variant):
    with pytest.raises(FrozenInstanceError):
        variant.batch_norm = True


def test_variants_take_keywords_only():
    with pytest.raises(TypeError):
        Variant("a change", (6, 16), (120, 84), False, None)


def test_parents_lead_back_to_the_baseline():
    parents = {name: VARIANTS[name].parent for name in ("baseline", "v1", "v2", "v3", "v4")}
    assert parents == {"baseline": None, "v1": "baseline", "v2": "v1", "v3": "v2", "v4": "v3"}
    for variant in VARIANTS.values():
        generations = 0
        while variant.parent:
            variant, generations = VARIANTS[variant.parent], generations + 1
            assert generations < len(VARIANTS)
        assert variant is VARIANTS["baseline"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_description_names_the_parent_and_the_change(name):
    variant = VARIANTS[name]
    sentence = describe(variant_recipes(TrainingConfig())[name])
    assert sentence.startswith(f"**{name}**: ")
    assert sentence.endswith(f"{variant.change}.")
    assert (f": {variant.parent}, but " in sentence) == (variant.parent is not None)
