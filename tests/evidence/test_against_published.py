"""Our models against the published weights."""

from dataclasses import replace

import pytest
from made_up_results import empty_results, made_up_results

from lenet_study.evidence.against_published import COLUMNS, against_published
from lenet_study.evidence.published import published_predictions
from lenet_study.evidence.statistics import mcnemar
from lenet_study.training.model import CLASSES

RESULTS = made_up_results(seeds=2, images=10_000, evaluate_all=False)


def test_every_evaluated_training_is_compared_image_by_image():
    table = against_published(RESULTS)
    assert table.index.tolist() == ["train-v4-0", "train-v4-1"]
    row, predicted = table.loc["train-v4-0"], RESULTS.predictions["train-v4-0"]
    assert row["ours"] == pytest.approx((predicted["true"] == predicted["predicted"]).mean())
    assert row["published"] == 0.9254
    assert row["ours"] - row["published"] == pytest.approx(
        (row["ours_only"] - row["published_only"]) / 10_000
    )
    assert row["p_value"] == mcnemar(row["ours_only"], row["published_only"]).p_value
    assert row["low"] <= row["difference"] <= row["high"]


def test_the_published_weights_are_equal_to_themselves():
    published = published_predictions()
    same = RESULTS.predictions["train-v4-0"].assign(predicted=[CLASSES[k] for k in published["v4"]])
    row = against_published(replace(RESULTS, predictions={"train-v4-0": same})).loc["train-v4-0"]
    assert (row["difference"], row["p_value"], row["ours_only"]) == (0, 1, 0)


def test_other_images_are_not_compared():
    fewer = {"train-v4-0": RESULTS.predictions["train-v4-0"].head(500)}
    assert against_published(replace(RESULTS, predictions=fewer)).empty
    shuffled = {"train-v4-0": RESULTS.predictions["train-v4-0"].iloc[::-1]}
    assert against_published(replace(RESULTS, predictions=shuffled)).empty
    nothing = against_published(empty_results())
    assert (len(nothing), tuple(nothing.columns)) == (0, COLUMNS)
