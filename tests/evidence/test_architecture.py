"""The picture of a variant: its shapes and counts are the model's, its orange the variant's change."""

from dataclasses import replace

import pytest
import torch
from drawing import assert_global_state_stays, assert_readable, colour, texts, words
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from lenet_study.evidence.figures import architecture
from lenet_study.evidence.figures.style import CHANGED
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.recipes.variants import VARIANTS, Variant
from lenet_study.training.model import LeNet

every_variant = pytest.mark.parametrize("name", VARIANTS)


def row_of(figure, label):
    """The architecture's texts on the height of a row's label, from left to right."""
    (height,) = (text.get_position()[1] for text in texts(figure) if text.get_text() == label)
    row = [text for text in texts(figure.axes[0]) if text.get_position()[1] == height]
    return [text.get_text() for text in sorted(row, key=lambda text: text.get_position()[0])][1:]


def orange(figure):
    return sorted(text.get_text() for text in texts(figure) if colour(text) == CHANGED)


def boxes(figure):
    """Outline colours of the stages and heads."""
    return [to_hex(box.get_edgecolor()[0]).upper() for box in figure.findobj(PolyCollection)]


def test_the_baseline_is_the_reports():
    figure = architecture.draw("baseline", VARIANTS["baseline"])
    shapes = ["1×28×28", "6×28×28", "6×14×14", "16×10×10", "16×5×5", "400", "120", "84", "10"]
    counts = ["–", "156", "–", "2,416", "–", "–", "48,120", "10,164", "850"]
    assert row_of(figure, "output") == shapes
    assert row_of(figure, "parameters") == counts
    heads = [text for text in words(figure) if text.startswith("aux_output")]
    assert heads == [
        "aux_output1\nfully connected, 1,176 → 10 logits\n11,770 parameters",
        "aux_output2\nfully connected, 400 → 10 logits\n4,010 parameters",
    ]


@every_variant
def test_it_shows_the_models_shapes_and_counts(name):
    model = LeNet(VARIANTS[name], seed=0).eval()
    shapes, counts, output = ["1×28×28"], [[]], torch.zeros(1, 1, 28, 28)
    for layer in (*model.first_wave, *model.second_wave, *model.classifier):
        output = layer(output)
        if type(layer).__name__ not in ("ReLU", "BatchNorm1d", "BatchNorm2d", "Dropout"):
            shapes.append("×".join(f"{size:,}" for size in output.shape[1:]))
            counts.append([])
        if count := sum(parameter.numel() for parameter in layer.parameters()):
            counts[-1].append(f"{count:,}")
    figure = architecture.draw(name, VARIANTS[name])
    assert [text.split(" (was")[0] for text in row_of(figure, "output")] == shapes
    assert row_of(figure, "parameters") == [" + ".join(count) or "–" for count in counts]
    written = "\n".join(words(figure))
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{total:,} parameters" in written
    for head in (model.aux_output1, model.aux_output2):
        parameters = head.weight.numel() + head.bias.numel()
        assert f"{head.in_features:,} → 10 logits\n{parameters:,} parameters" in written
    assert VARIANTS[name].change in written


@pytest.mark.parametrize(
    ("name", "changes", "stages"),
    [
        ("baseline", [], 0),
        ("v1", ["learning rate: halved every 5 epochs"], 0),
        ("v2", ["32×28×28 (was 6)", "64×10×10 (was 16)"], 2),
        ("v3", ["140 (was 84)", "200 (was 120)"], 2),
        ("v4", ["batch norm"] * 4, 4),
    ],
)
def test_it_highlights_the_change_alone(name, changes, stages):
    figure = architecture.draw(name, VARIANTS[name])
    headline = [text for text in orange(figure) if text.startswith(f"{name} = ")]
    assert len(headline) == (name != "baseline")
    assert sorted([*changes, *headline]) == orange(figure)
    assert boxes(figure).count(CHANGED) == stages
    assert len(boxes(figure)) == 11  # 9 stages, 2 heads


def test_it_shows_the_schedule_of_the_epochs_that_were_trained():
    config = TrainingConfig(epochs=7, learning_rate=0.4)
    (constant,) = architecture.draw("baseline", VARIANTS["baseline"], config=config).axes[1].patches
    (halved,) = architecture.draw("v1", VARIANTS["v1"], config=config).axes[1].patches
    assert list(constant.get_data().values) == [0.4] * 7
    assert list(halved.get_data().values) == [0.4] * 5 + [0.2] * 2
    labels = architecture.draw("v1", VARIANTS["v1"], config=config).axes[1].get_yticklabels()
    assert [label.get_text() for label in labels] == ["0", "0.2", "0.4"]


@pytest.mark.parametrize("epochs", [1, 2, 15, 300])
def test_any_number_of_epochs_can_be_read(epochs):
    config = TrainingConfig(epochs=epochs, learning_rate=0.00012345)
    assert_readable(architecture.draw("v1", VARIANTS["v1"], config=config))


WIDER = Variant(
    change="more of everything",
    parent="v4",
    channels=(48, 96),
    hidden_units=(300, 140),
    batch_norm=True,
    halve_learning_rate_every=2,
)


def test_it_draws_a_variant_added_to_the_table():
    figure = architecture.draw("v5", WIDER, {**VARIANTS, "v5": WIDER})
    changes = ["300 (was 200)", "48×28×28 (was 32)", "96×10×10 (was 64)"]
    assert orange(figure) == [
        *changes,
        "learning rate: halved every 2 epochs",
        "v5 = v4, but more of everything",
    ]


def test_a_variant_is_drawn_as_a_change_of_its_parent_whatever_its_place_in_the_table():
    variant = replace(VARIANTS["v2"], parent="v2", change="half of the inputs dropped", dropout=0.5)
    figure = architecture.draw("v5", variant, {**VARIANTS, "v5": variant})
    dropped = ["flatten, drop 0.5", "ReLU, drop 0.5", "ReLU, drop 0.5"]
    assert orange(figure) == sorted([*dropped, "v5 = v2, but half of the inputs dropped"])
    assert "333,970 parameters (v2: 333,970)" in words(figure)
    assert any("Orange: changed from v2" in text for text in words(figure))


def test_a_variant_of_another_table_is_drawn_beside_its_parent_there():
    table = {"plain": VARIANTS["v3"]}
    figure = architecture.draw("new", replace(WIDER, parent="plain"), table)
    assert "new = plain, but more of everything" in words(figure)
    assert orange(figure).count("batch norm") == 4


def test_annealing_is_a_change_of_the_schedule():
    variant = replace(VARIANTS["v1"], parent="v1", change="annealing", cosine_annealing=True)
    figure = architecture.draw("v5", variant, {**VARIANTS, "v5": variant})
    assert orange(figure) == ["learning rate: annealed along a half cosine", "v5 = v1, but annealing"]


@pytest.mark.parametrize("parent", [None, "v9"], ids=["none", "unknown"])
def test_without_a_parent_in_the_table_nothing_is_orange(parent):
    figure = architecture.draw("lenet-7", replace(WIDER, parent=parent))
    assert orange(figure) == []
    assert CHANGED not in boxes(figure)
    assert "lenet-7: more of everything" in words(figure)
    assert not any("Orange" in text for text in words(figure))


@every_variant
def test_nothing_is_cut_off_and_nothing_overlaps(name):
    assert_readable(architecture.draw(name, VARIANTS[name]))


def test_global_state_stays_as_it_was(monkeypatch):
    assert_global_state_stays(monkeypatch, architecture, lambda: architecture.draw("v4", VARIANTS["v4"]))
