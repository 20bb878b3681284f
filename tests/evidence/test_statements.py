"""Statements about predictions, and how sure they are."""

import numpy as np
import pandas as pd
import pytest

from lenet_study.evidence.statements import STATEMENTS, support
from lenet_study.training.model import CLASSES

SHIRT, TSHIRT, COAT = "Shirt", "T-shirt/top", "Coat"
UPPER = (TSHIRT, "Pullover", "Dress", COAT, SHIRT)


def table(errors, images=100, agreement=1.0):
    """Predictions of so many images of each class; ``errors`` are numbers by true and predicted class."""
    true = [name for name in CLASSES for _ in range(images)]
    predicted = list(true)
    for (one, other), count in errors.items():
        start = true.index(one) + sum(p != one for p, t in zip(predicted, true, strict=True) if t == one)
        predicted[start : start + count] = [other] * count
    agree = np.arange(len(true)) < agreement * len(true)
    return pd.DataFrame(
        {
            "true": true,
            "predicted": predicted,
            "auxiliary_first": true,
            "auxiliary_second": np.where(agree, true, "none"),
        }
    )


def share(name, tables, classes=(), others=(), **options):
    return support(STATEMENTS[name], tables, classes, others, resamples=200, **options).share


SHIRTS = {(SHIRT, TSHIRT): 30, (SHIRT, COAT): 10, (COAT, SHIRT): 5}


def test_the_hardest_class_has_the_lowest_recall():
    assert share("hardest_class", [table(SHIRTS)], [SHIRT]) == 1
    assert share("hardest_class", [table(SHIRTS)], [COAT]) == 0
    assert 0.1 < share("hardest_class", [table({(SHIRT, COAT): 10, (COAT, SHIRT): 10})], [SHIRT]) < 0.9
    assert share("hardest_class", [table({})], [SHIRT]) == 0  # all are equally easy


def test_a_class_is_mostly_taken_for_its_most_frequent_confusion():
    assert share("mostly_taken_for", [table(SHIRTS)], [SHIRT, TSHIRT]) == 1
    assert share("mostly_taken_for", [table(SHIRTS)], [SHIRT, COAT]) == 0
    assert share("mostly_each_other", [table(SHIRTS)], [SHIRT, TSHIRT]) == 0  # no T-shirt is taken for one
    both = {("Sneaker", "Ankle boot"): 20, ("Ankle boot", "Sneaker"): 20}
    assert share("mostly_each_other", [table(both)], ["Sneaker", "Ankle boot"]) == 1


def test_errors_within_a_group_are_counted():
    assert share("most_errors_within", [table(SHIRTS)], UPPER) == 1
    outside = {("Bag", SHIRT): 60}
    assert share("most_errors_within", [table({**SHIRTS, **outside})], UPPER) < 0.1
    assert share("most_errors_within", [table({})], UPPER) == 0


def test_a_comparing_statement_pairs_images_and_seeds():
    before, after = table({(SHIRT, TSHIRT): 30}), table({(SHIRT, TSHIRT): 20})
    assert share("taken_less_often", [after] * 3, [SHIRT, TSHIRT], [before] * 3) == 1
    assert share("taken_less_often", [before] * 3, [SHIRT, TSHIRT], [after] * 3) == 0
    # Every seed is better by itself, though the seeds differ much: only pairs show it.
    spread = [table({(SHIRT, TSHIRT): 10 * k}) for k in (2, 5, 8)]
    better = [table({(SHIRT, TSHIRT): 10 * k - 8}) for k in (2, 5, 8)]
    assert share("taken_less_often", better, [SHIRT, TSHIRT], spread) == 1


def test_heads_that_agree_do_not_disagree():
    assert share("heads_disagree", [table({}, agreement=0.93)]) == 0
    assert share("heads_disagree", [table({}, agreement=0.14)]) == 1


def test_seeds_that_contradict_each_other_leave_a_statement_open():
    shirts, coats = table({(SHIRT, TSHIRT): 40}), table({(COAT, SHIRT): 40})
    assert 0.05 < share("hardest_class", [shirts, coats], [SHIRT]) < 0.95


def test_draws_are_seeded():
    close = [table({(SHIRT, COAT): 11, (COAT, SHIRT): 10})]
    first, again, other = (share("hardest_class", close, [SHIRT], seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("name", "classes", "words"),
    [
        (
            "hardest_class",
            [SHIRT],
            "Shirt has a recall of 60.0 %; the lowest two are of Shirt and Coat",
        ),
        ("mostly_taken_for", [SHIRT, TSHIRT], "75 % of the errors on Shirt are T-shirt/top"),
        ("most_errors_within", UPPER, "100 % of all errors are among these 5 classes"),
        ("heads_disagree", [], "both heads name the same class on 100.0 % of the images"),
    ],
)
def test_the_figure_behind_a_statement_is_told(name, classes, words):
    assert support(STATEMENTS[name], [table(SHIRTS)], classes, resamples=1).words == words
    compared = support(
        STATEMENTS["taken_less_often"], [table({})], [SHIRT, TSHIRT], [table(SHIRTS)], resamples=1
    )
    assert compared.words == "30.0 % of Shirt are taken for T-shirt/top before, 0.0 % after"
