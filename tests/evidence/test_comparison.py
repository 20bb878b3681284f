"""Two models compared: numbers, words and picture."""

import math

import numpy as np
import pytest
from drawing import assert_global_state_stays, assert_readable, words

from lenet_study.evidence.comparison import MARGIN, OVERLAP, Comparison, OnImages, Pair, over_seeds
from lenet_study.evidence.comparison_words import conclusions, text
from lenet_study.evidence.figures import comparison_chart
from lenet_study.evidence.statistics import corrected_paired_t_test, mcnemar, paired_difference

NAMES = ("v4", "v3")


def comparison(differences, names=NAMES, images=None, noise=0.0):
    """A pair per difference, in points, around 90 %; ``images`` of each pair."""
    pairs = []
    for seed, difference in enumerate(differences):
        accuracy = 0.9 + noise * seed
        validation = (accuracy + difference / 100, accuracy)
        pairs.append(Pair(seeds=(seed, seed), run_ids=("a", "b"), validation=validation, images=images))
    return Comparison(names=names, pairs=tuple(pairs))


BETTER = [0.5, 0.6, 0.55, 0.45, 0.5, 0.52]
EQUAL = [0.01, -0.01, 0.02, -0.02, 0.0, 0.01]
UNDECIDED = [0.5, -0.3, 0.4, 0.1, -0.1, 0.3]


# ---- numbers ----


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        (BETTER, "first"),
        ([-value for value in BETTER], "second"),
        (EQUAL, "equal"),
        (UNDECIDED, "undecided"),
        ([0.5], "undecided"),
        ([0.5, 0.5], "undecided"),
    ],
)
def test_the_interval_decides(differences, outcome):
    assert comparison(differences).validation.outcome == outcome


def test_figures_are_those_of_the_statistics():
    over = comparison(UNDECIDED).validation
    figures, differences = over.figures(), np.array(UNDECIDED) / 100
    test = corrected_paired_t_test(differences, 0.25)
    assert pytest.approx(0.25) == OVERLAP
    assert (figures["difference"], figures["t_p"]) == pytest.approx((test.mean, test.p_value))
    assert figures["first_mean"] - figures["second_mean"] == pytest.approx(test.mean)
    assert (figures["share"], figures["seeds"]) == (4 / 6, 6)
    assert figures["difference_low"] < figures["difference"] < figures["difference_high"]


def test_splits_that_share_images_widen_the_interval():
    first, second = [0.91, 0.92, 0.93], [0.90, 0.915, 0.92]
    assert over_seeds(first, second, 0).low > over_seeds(first, second, OVERLAP).low


def test_one_seed_has_neither_spread_nor_interval():
    figures = comparison([0.5]).validation.figures()
    assert {name for name, value in figures.items() if math.isnan(value)} == {
        "difference_std",
        "difference_low",
        "difference_high",
    }
    assert (figures["t_p"], figures["sign_flip_p"]) == (1, 1)


def test_images_are_counted_by_who_has_them_right():
    first, second = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 1, 0, 1], bool)
    images = OnImages.of(first, second)
    assert images == OnImages(both=2, first_only=2, second_only=1, neither=1)
    assert images.accuracies == (4 / 6, 3 / 6)
    assert images.difference == paired_difference(2, 2, 1, 1)
    assert images.test == mcnemar(2, 1)


def test_the_table_has_only_what_there_is():
    assert not any("test" in name for name in comparison(BETTER).table())
    table = comparison(BETTER, images=OnImages(80, 8, 2, 10)).table()
    assert list(table["val_difference"]) == pytest.approx(np.array(BETTER) / 100)
    assert set(table["test_difference"].round(3)) == {0.06}
    assert set(table["first_only_right"]) == {8}


# ---- words ----


def test_the_words_of_a_decision_say_what_intervals_are_over():
    said = text(comparison(BETTER, images=OnImages(8800, 250, 150, 800)))
    for phrase in (
        "v4 and v3: 6 seeds",
        "over seeds; Nadeau and Bengio",
        "95 % over images",
        "6 of 6 seeds: 100%, 95 % interval 54.1% to 100.0%",
        "sign flips p = 0.0312; corrected paired t-test p = ",
        "v4 is better than v3 on validation images",
    ):
        assert phrase in said


def test_an_undecided_comparison_says_how_many_seeds_would_do():
    over = comparison(UNDECIDED).validation
    (sentence,) = conclusions(comparison(UNDECIDED))
    assert over.seeds_to_detect is None
    assert over.seeds_to_narrow is None
    assert "no number of seeds up to 1,000 would settle it (splits that share images" in sentence
    (sentence,) = conclusions(comparison([0.15, 0.3, 0.0, 0.3, 0.1]))
    over = comparison([0.15, 0.3, 0.0, 0.3, 0.1]).validation
    assert f"{over.seeds_to_narrow} seeds ({over.seeds_to_narrow - 5} more) would narrow" in sentence


def test_equal_in_practice_is_not_undecided():
    (sentence,) = conclusions(comparison(EQUAL))
    assert "equal in practice" in sentence
    assert f"±{100 * MARGIN:g} points" in sentence


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (OnImages(8800, 300, 100, 800), "v4 beats v3"),
        (OnImages(8800, 100, 300, 800), "v3 beats v4"),
        (OnImages(8800, 100, 110, 990), "cannot be told apart"),
    ],
)
def test_one_pair_is_about_two_models(images, words):
    validation, test = conclusions(comparison([0.5], images=images))
    assert "nothing of how the next training would come out" in validation
    assert words in test
    assert "nothing of how the next training would come out" in test


def test_differences_that_do_not_vary_have_no_interval():
    said = text(comparison([0.0, 0.0, 0.0]))
    assert "no interval" in said
    assert "v4 is better with 0 of 3 seeds, equal with 3: 0%" in said
    assert "nan" not in said.lower()


# ---- picture ----


def pictures():
    images = OnImages(8800, 250, 150, 800)
    long = (
        "lenet-trial-123 retrained (version 17)",
        "a searched model with a name that is much too long to fit",
    )
    for result in (
        comparison([0.5]),
        comparison([0.5], names=long, images=images),
        comparison(UNDECIDED, noise=0.001),
        comparison(BETTER + EQUAL, images=images, noise=0.001),
        comparison([-value for value in BETTER], names=long, images=images, noise=0.002),
    ):
        yield comparison_chart.comparison(result, ("#7B3294", "#117733"))


def test_nothing_in_the_pictures_overlaps_or_is_cut_off():
    for figure in pictures():
        assert_readable(figure)


def test_drawing_leaves_matplotlib_s_settings(monkeypatch):
    assert_global_state_stays(monkeypatch, comparison_chart, lambda: next(pictures()))


def test_the_picture_draws_every_pair_and_the_means():
    result = comparison(UNDECIDED, noise=0.001)
    figure = comparison_chart.comparison(result, ("#7B3294", "#117733"))
    accuracies, differences = figure.axes
    over = result.validation
    first, second = accuracies.lines[:2]
    assert list(first.get_xdata()) == [*over.first, np.mean(over.first)]
    assert list(second.get_xdata()) == [*over.second, np.mean(over.second)]
    dots = next(line for line in differences.lines if len(line.get_xdata()) == len(UNDECIDED))
    assert list(dots.get_xdata()) == pytest.approx(UNDECIDED)
    (interval,) = differences.collections[0].get_segments()
    assert list(interval[:, 0]) == pytest.approx([100 * over.low, 100 * over.high])
    assert [label for label in words(accuracies) if label == "mean"] == ["mean"]
    assert "Difference: undecided" in words(differences)


def test_models_of_one_variant_have_two_colours():
    first, second = comparison_chart.colours_of(("v4", "v4"))
    assert first != second
    assert comparison_chart.colours_of(("v4", "slim"))[0] == comparison_chart.COLOURS["v4"]
