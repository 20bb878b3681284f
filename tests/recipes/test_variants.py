"""The table of variants."""

from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest

from lenet_study.recipes.variants import VARIANTS, Variant, parent_of


@pytest.mark.parametrize(("parent", "child"), list(pairwise(VARIANTS)))
def test_neighbours_differ_in_one_field(parent, child):
    differing = [
        field.name
        for field in fields(Variant)
        if getattr(VARIANTS[parent], field.name) != getattr(VARIANTS[child], field.name)
    ]
    assert "change" in differing
    assert len(differing) == 2


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
def test_spec_is_frozen(variant):
    with pytest.raises(FrozenInstanceError):
        variant.batch_norm = True


def test_spec_takes_keywords_only():
    with pytest.raises(TypeError):
        Variant("a change", (6, 16), (120, 84), False, None)


def test_parents_lead_back_to_the_baseline():
    parents = {name: parent_of(name) for name in VARIANTS}
    assert parents == {"baseline": None, "v1": "baseline", "v2": "v1", "v3": "v2", "v4": "v3"}
