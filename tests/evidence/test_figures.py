"""The pictures: what they say is what they were given, and nothing in them overlaps or is cut off."""

import numpy as np
from drawing import assert_global_state_stays, assert_readable, colour, words
from matplotlib.colors import to_hex

from lenet_study.evidence.figures import evaluation_charts, style, training_curves
from lenet_study.recipes.variants import VARIANTS, Augmentation
from lenet_study.training.history import Epoch
from lenet_study.training.model import CLASSES


def history(epochs, offset=0.0, validated=True):
    """The learning rate halves every other epoch; the best validation accuracy is the last."""
    return [
        Epoch(
            epoch=number,
            learning_rate=0.001 / 2 ** ((number - 1) // 2),
            train_loss=1 / number + offset,
            train_accuracy=0.8 + number / 100 - offset,
            val_loss=1.5 / number + offset if validated else None,
            val_accuracy=0.7 + number / 100 - offset if validated else None,
            seconds=1.0,
        )
        for number in range(1, epochs + 1)
    ]


def confusion():
    """Shirts (6) are taken for coats (4), never the other way round; bags (8) have no images."""
    counts = np.diag([1200] * 10)
    counts[6, 6], counts[6, 4], counts[8, 8] = 900, 300, 0
    return counts


def pictures():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 28, 28), dtype=np.uint8)
    labels, predicted = np.arange(9), np.array([*range(7), 0, 0])
    many = {f"fold {fold}": history(3, fold / 50) for fold in range(1, 6)}
    heads = {head: rng.dirichlet(np.ones(10)) for head in ("first", "second", "classifier")}
    embedding = np.arange(18.0).reshape(9, 2)
    yield training_curves.curves({"v2": history(3)}, {"v2": 3}, "v2")
    yield training_curves.curves({"v4 retrained": history(1, validated=False)})
    yield training_curves.curves({name: history(4) for name in VARIANTS}, title="five")
    yield training_curves.curves(many, dict.fromkeys(many, 2))
    seeds = {name: [history(4, seed / 90) for seed in range(3)] for name in VARIANTS}
    yield training_curves.seed_curves(seeds, "three seeds")
    yield training_curves.seed_curves({"v2": [history(4)]})
    yield training_curves.learning_rate(history(1), "one epoch")
    yield training_curves.learning_rate(history(9))
    yield evaluation_charts.confusion_matrix(confusion(), "v2")
    yield evaluation_charts.confusion_comparison(np.diag([10] * 10), confusion(), ("v1", "v2"))
    names = ("v4 seed 10 on test", "v4 seed 10 retrained on test")
    yield evaluation_charts.confusion_comparison(confusion(), confusion(), names)
    yield evaluation_charts.tsne(embedding, labels, predicted, "v2")
    yield evaluation_charts.predictions(images, labels, predicted, np.linspace(0.1, 1, 9))
    yield evaluation_charts.predictions(images, labels, predicted, np.linspace(0.1, 1, 9), "v2 on test")
    yield evaluation_charts.auxiliary(images[0], 9, heads)
    yield evaluation_charts.auxiliary(images[0], 9, heads, "v2 on test: image 0 as each head sees it")
    everything = Augmentation(shift=2, erase=0.1)
    yield training_curves.augmentation(images[:2], images[1:].reshape(2, 4, 28, 28), everything, "v2")


# ---- curves ----


def test_curves_draw_every_number():
    epochs = history(4)
    loss, accuracy = training_curves.curves({"v2": epochs}).axes
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        drawn = {line.get_linestyle(): line for line in axes.lines}
        assert len(axes.lines) == 2
        for dashes, kind in (("--", "train"), ("-", "val")):
            assert list(drawn[dashes].get_xdata()) == [1, 2, 3, 4]
            assert list(drawn[dashes].get_ydata()) == [getattr(e, f"{kind}_{metric}") for e in epochs]
        assert drawn["-"].get_linewidth() > drawn["--"].get_linewidth()


def test_curves_keep_a_variants_colour():
    histories = {name: history(2) for name in reversed(VARIANTS)}
    figure = training_curves.curves(histories)
    for axes in figure.axes:
        colours = [colour(line) for line in axes.lines]
        assert colours == [style.COLOURS[name] for name in histories for _ in ("train", "val")]
    assert words(figure.legends[0]) == [*histories, "validation", "training"]
    (line, _) = training_curves.curves({"v4 retrained": history(2)}).axes[0].lines
    assert colour(line) == style.COLOURS["v4"]


def test_every_variant_and_fold_has_its_own_colour():
    assert set(style.COLOURS) == set(VARIANTS)
    assert len(set(style.COLOURS.values())) == len(VARIANTS)
    assert len(set(style.PALETTE)) == len(style.PALETTE) >= 8  # so that further variants have one, too
    folds = {f"fold {fold}": history(2) for fold in range(1, 11)}
    lines = training_curves.curves(folds).axes[0].lines
    looks = {(colour(line), line.get_marker()) for line in lines}
    assert len(looks) == 10


def test_folds_have_colours_that_no_variant_has():
    folds = {f"fold {fold}": history(2) for fold in range(1, 6)}
    colours = {colour(line) for line in training_curves.curves(folds).axes[0].lines}
    assert len(colours) == 5
    assert not colours & set(style.PALETTE)
    assert style.colours_of(["v4", "v4 seed 3", "fold 1"]) == {
        "v4": style.COLOURS["v4"],
        "v4 seed 3": style.COLOURS["v4"],
        "fold 1": style.colours_of(["fold 1"])["fold 1"],
    }


def test_seeds_are_thin_lines_below_their_mean_and_its_band():
    seeds = [history(4, offset) for offset in (0.0, 0.1, 0.2)]
    figure = training_curves.seed_curves({"v2": seeds, "v4": [history(4)]}, "The 2 variants")
    for axes, metric in zip(figure.axes, ("loss", "accuracy"), strict=True):
        *thin, training, mean, alone_training, alone = axes.lines
        validation = np.array([[getattr(e, f"val_{metric}") for e in epochs] for epochs in seeds])
        np.testing.assert_allclose([line.get_ydata() for line in thin], validation)
        np.testing.assert_allclose(mean.get_ydata(), validation.mean(0))
        np.testing.assert_allclose(training.get_ydata(), [getattr(e, f"train_{metric}") for e in seeds[1]])
        assert max(line.get_linewidth() for line in thin) < mean.get_linewidth()
        (band,) = axes.collections  # a single training has none
        edges = band.get_paths()[0].vertices
        heights = [np.ptp(edges[np.isclose(edges[:, 0], epoch), 1]) for epoch in range(1, 5)]
        np.testing.assert_allclose(heights, 2 * 0.1)  # the sample's deviation is 0.1
        assert [colour(line) for line in (mean, alone)] == [style.COLOURS["v2"], style.COLOURS["v4"]]
        assert alone_training.get_linestyle() == "--"
    written = words(figure.legends[0])
    assert {"v2 (3 seeds)", "v4 (1 seed)", "± standard deviation of the seeds"} <= set(written)


def test_seeds_of_unequal_length_are_compared_where_all_have_epochs():
    axes = training_curves.seed_curves({"v2": [history(4), history(2)]}).axes[0]
    assert list(axes.lines[-1].get_xdata()) == [1, 2]


def test_curves_mark_the_best_epoch():
    histories = {"v1": history(4), "v2": history(4, 0.1)}
    figure = training_curves.curves(histories, {"v1": 4, "v2": 2})
    assert "best epoch" in words(figure.legends[0])
    stars = [line for line in figure.axes[1].lines if line.get_marker() == "*"]
    points = [(*star.get_xdata(), *star.get_ydata()) for star in stars]
    assert points == [(4, histories["v1"][3].val_accuracy), (2, histories["v2"][1].val_accuracy)]
    assert not any("★" in text for text in words(figure))


def test_curves_of_one_training_say_its_best_values():
    written = words(training_curves.curves({"v1": history(4)}, {"v1": 3}))
    assert "★ best epoch 3: 0.5000" in written
    assert "★ best epoch 3: 73.00%" in written


def test_curves_of_a_single_epoch_are_visible():
    figure = training_curves.curves({"v1": history(1)})
    for axes in figure.axes:
        assert all(line.get_marker() not in ("", "None", None) for line in axes.lines)
        assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_curves_without_validation():
    figure = training_curves.curves({"v1": history(3, validated=False)}, {"v1": 3})
    for axes in figure.axes:
        assert [line.get_linestyle() for line in axes.lines] == ["--"]
    assert words(figure.legends[0]) == ["v1", "training"]


def test_accuracy_is_in_percent():
    axis = training_curves.curves({"v1": history(3)}).axes[1].yaxis
    assert axis.get_major_formatter()(0.9) in ("90%", "90.0%")


def test_learning_rate_steps_over_epochs():
    (axes,) = training_curves.learning_rate(history(5), title="v1").axes
    (steps,) = axes.patches
    assert list(steps.get_data().values) == [0.001, 0.001, 0.0005, 0.0005, 0.00025]
    assert list(steps.get_data().edges) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert [text.get_text() for text in axes.texts] == ["0.001", "0.0005", "0.00025"]


# ---- confusion ----


def cells(axes):
    """Text and colour behind it, by (row, column)."""
    (image,) = axes.images
    colours = image.to_rgba(image.get_array())
    return {
        (int(y), int(x)): (text.get_text(), colours[int(y), int(x)])
        for text in axes.texts
        for x, y in [text.get_position()]
    }


def test_confusion_rows_are_true_classes():
    figure = evaluation_charts.confusion_matrix(confusion(), title="v2 on test")
    axes = figure.axes[0]
    written = {place: text for place, (text, _) in cells(axes).items()}
    assert written[6, 6] == "900\n75.0%"
    assert written[6, 4] == "300\n25.0%"
    assert written[0, 0] == "1,200\n100.0%"
    assert written[4, 6] == written[8, 8] == ""
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(CLASSES)
    assert "10,500 of 10,800 images correct (97.22%)" in words(figure)


def test_comparison_is_after_minus_before():
    before = np.diag([100] * 10)
    before[0, 0], before[0, 1] = 90, 10
    after = np.diag([200] * 10)  # twice the images: percentages stay comparable
    after[1, 1], after[1, 2] = 150, 50
    figure = evaluation_charts.confusion_comparison(before, after, ("v1", "v2"))
    first, second, difference = (cells(axes) for axes in figure.axes[:3])
    assert (first[0, 1][0], second[1, 2][0]) == ("10.0", "25.0")
    written = {place: text for place, (text, _) in difference.items() if text}
    assert written == {(0, 0): "+10.0", (0, 1): "-10.0", (1, 1): "-25.0", (1, 2): "+25.0"}
    red, blue = 0, 2
    for place, better in (((0, 0), True), ((0, 1), True), ((1, 1), False), ((1, 2), False)):
        rgba = difference[place][1]
        assert (rgba[blue] > rgba[red]) == better
    assert "v2, compared with v1" in words(figure)
    assert "blue is better" in figure.axes[2].get_title()
    scales = {axes.get_ylabel() for axes in figure.axes[4:]}
    assert scales == {"share of the true class (%)", "percentage points better"}


def test_comparison_draws_both_recalls_and_fits_a_page():
    figure = evaluation_charts.confusion_comparison(np.diag([10] * 10), confusion(), ("v1", "v2"))
    before, after = figure.axes[3].lines
    assert list(before.get_xdata()) == [100] * 10
    assert list(after.get_xdata()) == [100] * 6 + [75, 100, 0, 100]
    assert words(figure.axes[3].get_legend()) == ["v1", "v2"]
    small = min(text.get_fontsize() for axes in figure.axes for text in axes.texts)
    assert small * 7 / figure.get_figwidth() >= 5  # points on a page of 7 inches


# ---- images and embeddings ----


def test_tsne_names_classes_and_counts_mistakes():
    labels = np.repeat(np.arange(9), 3)  # no ankle boots
    predicted = labels.copy()
    predicted[[1, 5]] = 9
    embedding = np.stack([labels * 10 + np.tile([-1, 0, 7], 9), -labels], axis=1).astype(float)
    figure = evaluation_charts.tsne(embedding, labels, predicted, title="v2")
    *drawn, _ = figure.axes[0].collections  # the last one is for the legend
    points, rings = drawn[::2], drawn[1::2]
    np.testing.assert_array_equal(points[3].get_offsets(), embedding[labels == 3])
    assert len({to_hex(point.get_facecolor()[0]) for point in points}) == 10
    ringed = {k: ring.get_offsets().tolist() for k, ring in enumerate(rings) if len(ring.get_offsets())}
    assert ringed == {0: embedding[[1]].tolist(), 1: embedding[[5]].tolist()}
    for point, ring in zip(points, rings, strict=True):  # the true class's colour stays visible
        assert to_hex(ring.get_facecolor()[0]) == to_hex(point.get_facecolor()[0])
    names = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert names == {CLASSES[k]: (10 * k, -k) for k in range(9)}
    assert "misclassified\n(2 of 27)" in words(figure.legends[0])


def test_predictions_tell_right_from_wrong_without_colour():
    images = np.arange(9, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    labels, predicted = np.full(9, 6), np.array([6] * 7 + [4, 6])
    figure = evaluation_charts.predictions(images, labels, predicted, np.linspace(0.2, 1, 9))
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.images[0].get_array()[0, 0] for axes in panels] == list(range(9))
    assert panels[0].get_title() == "✓ Shirt 20%"
    assert panels[7].get_title() == "✗ Coat 90%\ntrue: Shirt"
    right, wrong = (panels[i].spines["left"] for i in (0, 7))
    assert right.get_edgecolor() != wrong.get_edgecolor()
    assert wrong.get_linewidth() > right.get_linewidth()
    assert figure.get_suptitle() == "Predicted class and its probability; 8 of 9 correct"
    named = evaluation_charts.predictions(images, labels, predicted, np.linspace(0.2, 1, 9), "v2 on test")
    assert named.get_suptitle() == "v2 on test: predicted class and its probability; 8 of 9 correct"


def test_auxiliary_draws_each_heads_probabilities():
    probabilities = {"first": np.eye(10)[2] * 0.6 + 0.04, "classifier": np.eye(10)[5] * 0.9 + 0.01}
    figure = evaluation_charts.auxiliary(np.zeros((28, 28), np.uint8), 5, probabilities)
    picture, *panels = figure.axes
    assert "true class: Sandal" in picture.get_title()
    assert [axes.get_title() for axes in panels] == ["first\n✗ Pullover", "classifier\n✓ Sandal"]
    for axes, values in zip(panels, probabilities.values(), strict=True):
        (bars,) = axes.containers
        np.testing.assert_allclose([bar.get_width() for bar in bars], values)
        colours = [bar.get_facecolor() for bar in bars]
        assert [colours.count(one) for one in colours].index(1) == values.argmax()
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(CLASSES)
    assert panels[0].yaxis_inverted()


def test_augmentation_has_a_row_per_image():
    originals = np.full((2, 28, 28), [[[10]], [[20]]], dtype=np.uint8)
    augmented = originals[:, None] + np.arange(1, 4, dtype=np.uint8)[:, None, None]
    figure = training_curves.augmentation(originals, augmented, Augmentation(), "v4, augmented")
    (image,) = figure.axes[0].images
    middles = image.get_array()[15::30, 15::30]  # an image and a gap of one pixel around it
    assert middles.tolist() == [[10, 11, 12, 13], [20, 21, 22, 23]]
    assert set(np.unique(image.get_array())) == {*range(10, 14), *range(20, 24), 255}
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["original", "augmented 1", "augmented 2", "augmented 3"]
    assert image.get_clim() == (0, 255)
    assert figure.get_suptitle() == "v4, augmented"


def test_augmentation_names_its_transforms():
    images = np.zeros((1, 28, 28), np.uint8)
    figure = training_curves.augmentation(images, images[:, None].repeat(8, 1), Augmentation(shift=3, flip=0))
    caption = " ".join(figure.axes[0].get_xlabel().split())
    assert caption == (
        "At random: brightness and contrast changed by up to 20 %, contrast stretched to the full range "
        "(20 %), grey levels from 15 on inverted (20 %), moved by up to 3 pixels."
    )
    none = Augmentation(flip=0, jitter=0, autocontrast=0, solarize=0)
    assert training_curves.transforms(none) == "nothing"


# ---- all of them ----


def test_nothing_is_cut_off_and_nothing_overlaps():
    for figure in pictures():
        assert_readable(figure)


def test_global_state_stays_as_it_was(monkeypatch):
    modules = (training_curves, evaluation_charts)
    assert_global_state_stays(monkeypatch, style, lambda: list(pictures()), *modules)
