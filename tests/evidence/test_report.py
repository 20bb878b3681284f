"""The report's content: what it shows of a study, and that missing pieces are said."""

import base64
import hashlib
import io
import json
import re
import resource
from dataclasses import replace
from html.parser import HTMLParser
from time import process_time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from studies import claims, study_results
from toys import toy_split

from lenet_study.evidence.published import published_epochs, published_models, published_predictions
from lenet_study.evidence.report import layers, svg
from lenet_study.evidence.report.confidence import calibration
from lenet_study.evidence.report.confusion_tables import confusions
from lenet_study.evidence.report.content import (
    LONGEST,
    Embedding,
    Evidence,
    cut,
    evaluated_groups,
    predictions_of,
    run_names,
)
from lenet_study.evidence.report.depth import by_depth
from lenet_study.evidence.report.glance import glance
from lenet_study.evidence.report.hardest import hardest_images
from lenet_study.evidence.report.html_page import SECTIONS, render
from lenet_study.evidence.report.image_sheet import nearest, scatter, sheet, single
from lenet_study.evidence.report.runs_table import run_groups
from lenet_study.evidence.report.seed_curves import curves_of, tabs
from lenet_study.evidence.report.shown_claims import counts, headline, in_order, shown_as
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.report.variant_pairs import families
from lenet_study.evidence.report.weights_table import against_weights
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.training.model import CLASSES

IMAGES = 200


@pytest.fixture(scope="module")
def results():
    return study_results(seeds=4, images=IMAGES, folds=2)


@pytest.fixture(scope="module")
def evidence(results):
    spread = np.random.default_rng(0).normal(size=(IMAGES, 2))
    return Evidence(
        results=results,
        claims=claims(results),
        images=toy_split(IMAGES, seed=1),
        training_images=toy_split(50, seed=2),
        embedding=Embedding(evaluated_groups(results)["v4"][0], spread),
        published_epochs=published_epochs(),
        published_models=published_models(),
    )


@pytest.fixture(scope="module")
def page(evidence):
    return render(evidence)


def payload(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def picture(address):
    return np.array(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


class Tags(HTMLParser):
    """Which elements a page has, and whether each is closed by its own end."""

    EMPTY = frozenset({"meta", "img", "input", "br", "hr", "link"})

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# ---- the page ----


def test_the_page_is_well_formed_and_ids_are_unique(page):
    tags = Tags(page)
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)


def test_the_same_evidence_gives_the_same_bytes(evidence, page):
    assert render(evidence) == page


def test_the_policy_allows_our_script_alone_and_nothing_from_elsewhere(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace(
        "&#39;", "'"
    )
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    sources = [
        value
        for _, each in Tags(page).attributes
        for name, value in each.items()
        if name in ("src", "srcset")
    ]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_every_picture_has_a_name(page):
    pictures = [each for tag, each in Tags(page).attributes if tag == "svg"]
    named = [each for each in pictures if each.get("role") == "img"]
    assert len(named) > 30
    assert all(each["aria-label"] for each in named)


def test_every_run_is_named_and_every_link_within_the_page_leads_somewhere(results, page):
    tags = Tags(page)
    ids = {attributes.get("id") for _, attributes in tags.attributes}
    runs = [*results.trainings.index, *results.evaluations.index]
    assert {f"r-{run_id}" for run_id in runs} <= ids
    targets = {attributes["href"][1:] for tag, attributes in tags.attributes if tag == "a"}
    assert targets <= ids


def test_hostile_texts_stay_texts(evidence):
    hostile = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\u202e\ud800' + "'\"&" * 2000
    shown = [replace(claim, title=hostile, ours=hostile, quotation=hostile) for claim in evidence.claims]
    results = replace(evidence.results, facts={hostile: hostile}, missing=(hostile,))
    page = render(
        replace(evidence, claims=shown, results=results, remarks=[hostile], leading_facts=[hostile])
    )
    tags = Tags(page)
    assert sum(tag == "script" for tag, _ in tags.attributes) == 2
    assert not any("onerror" in attributes for _, attributes in tags.attributes)
    assert len(page) < 3_000_000


def test_a_hostile_variant_stays_text(results):
    trainings = results.trainings.replace({"variant": {"v4": '"><script>alert(1)</script>'}})
    page = render(Evidence(results=replace(results, trainings=trainings)))
    assert "<script>alert" not in page
    assert Tags(page).open == []


@pytest.mark.parametrize("lacking", ["images", "embedding", "claims", "published_epochs", "published_models"])
def test_what_is_missing_is_left_out_and_the_rest_is_shown(evidence, lacking):
    plain = Evidence(results=evidence.results)
    page = render(replace(evidence, **{lacking: getattr(plain, lacking)}))
    said = {"embedding": "There is no map", "claims": "No claim has been judged"}
    assert said.get(lacking, "") in page
    assert all(f'id="{name}"' in page for name in SECTIONS)


@pytest.mark.parametrize("lacking", ["histories", "predictions"])
def test_missing_tables_are_said(evidence, lacking):
    results = replace(evidence.results, **{lacking: {}})
    page = render(replace(evidence, results=results))
    assert {"histories": "There are no curves", "predictions": "There are no predictions"}[lacking] in page


def test_a_study_without_any_finished_run_is_a_page(results):
    empty = study_results(seeds=0, folds=0, images=10)
    page = render(Evidence(results=replace(empty, missing=("Nothing has finished",))))
    assert "Nothing has finished" in page
    assert page.count('class="absent"') >= 7


def test_one_seed_gives_no_intervals_and_says_so():
    page = render(Evidence(results=study_results(seeds=1, images=20)))
    assert "one seed alone says nothing of the spread" in page
    texts = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S)
    assert not re.search(r"\bnan\b", texts, re.I)


def test_the_script_gets_predictions_as_digits(results, page):
    data = payload(page)
    tables = predictions_of(results)
    first = next(iter(tables.values()))
    assert [CLASSES[int(digit)] for digit in data["labels"]] == first["true"].tolist()
    assert [len(matrix) for matrix in data["matrices"]] == [4, 4]
    assert [CLASSES[int(digit)] for digit in data["matrices"][0][0]] == first["predicted"].tolist()
    places = np.frombuffer(base64.b64decode(data["map"]["coordinates"]), "<u2").reshape(-1, 2)
    assert len(places) == IMAGES
    assert places.min() == 0
    assert places.max() == 65535


def test_a_map_of_other_images_is_not_drawn(evidence):
    embedding = replace(evidence.embedding, coordinates=np.zeros((3, 2)))
    page = render(replace(evidence, embedding=embedding))
    assert "There is no map" in page
    assert "map" not in payload(page)


def test_a_study_of_ten_seeds_is_made_in_time_and_is_small():
    images = toy_split(10_000, seed=1)
    results = study_results(labels=images.labels.numpy())
    start = process_time()
    page = render(Evidence(results=results, claims=claims(results), images=images))
    assert process_time() - start < 20
    assert len(page.encode()) < 4_000_000  # noise is no clothing: the sheet of real images is half as large
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000  # KiB, of all tests so far


# ---- claims ----


def test_what_failed_or_is_open_comes_first(results):
    kinds = [shown_as(claim.verdict).kind for claim in in_order(claims(results))]
    assert kinds == ["failed", "undecided", "open", "caveat", *["reproduced"] * 4]


def test_the_headline_counts(results):
    shown = claims(results)
    sentence = headline(shown).replace("\u00a0", " ")
    others = "1 with a caveat, 1 not measured, 1 undecided, 1 not reproduced"
    assert sentence == f"4 of 8 published claims were reproduced, {others}."
    assert sum(counts(shown).values()) == len(shown)
    assert headline([]) == "No claim has been judged yet."


def test_an_unknown_verdict_counts_as_not_measured():
    assert shown_as("splendid").kind == "open"


# ---- runs ----


def test_runs_have_names(results):
    names = run_names(results)
    assert len(names) == len(results.trainings) + len(results.evaluations)
    assert {"v4, seed 3", "v4 retrained, seed 0, on test", "v4, fold 2"} <= set(names.values())


def test_each_run_has_the_command_that_makes_it_again(evidence):
    groups = {group.title: group.rows for group in run_groups(evidence)}
    assert [len(rows) for rows in groups.values()] == [20, 4, 2, 8]
    for row in groups["Trainings"]:
        assert row.command == f"lenet-study reproduce --run-id {row.run_id}"
    models = set(evidence.results.trainings.index)
    assert {row.command.split()[-1] for row in groups["Evaluations on the test split"]} <= models


def test_models_with_untrained_heads_count_by_depth_alone(results):
    table = results.trainings.copy()
    chosen = table[(table["variant"] == "v4") & (table["stage"] == "train")].index[0]
    table.loc[chosen, "stage"] = "untrained"
    changed = replace(results, trainings=table)
    assert len(evaluated_groups(changed)["v4"]) == 3
    assert "v4 with untrained heads" in evaluated_groups(changed, untrained_heads=True)
    assert "v4 with untrained heads" in [row[0] for row in by_depth(changed).table.rows]


def test_long_texts_are_cut():
    assert cut("x" * LONGEST) == "x" * LONGEST
    assert cut("x" * 6000) == "x" * LONGEST + "… (6,000 characters)"


# ---- sections ----


def test_curves_have_mean_band_and_published_curve(evidence):
    curves = curves_of(evidence, "v2", "val_accuracy")
    assert curves.values.shape == (4, 15)
    np.testing.assert_allclose(curves.mean, curves.values.mean(0))
    assert (curves.low < curves.values.min(0)).all()
    assert curves.published[0] == published_epochs().query("training == 'v2'")["val_accuracy"].iloc[0]
    assert [tab.metric for tab in tabs(evidence)] == [
        "val_accuracy",
        "val_loss",
        "train_accuracy",
        "train_loss",
    ]


def test_a_seed_with_fewer_epochs_is_drawn_as_far_as_it_goes(evidence):
    results = evidence.results
    run_id = results.trainings.index[results.trainings["variant"] == "v1"][0]
    shorter = {**results.histories, run_id: results.histories[run_id].head(3)}
    curves = curves_of(replace(evidence, results=replace(results, histories=shorter)), "v1", "val_loss")
    assert np.isnan(curves.values).sum() == 12
    assert np.isfinite(curves.mean).all()


def test_pairs_are_the_steps_and_all(results):
    planned, exploratory = families(results)
    assert [(pair.first, pair.second) for pair in planned.pairs] == [
        ("baseline", "v1"), ("v1", "v2"), ("v2", "v3"), ("v3", "v4"),
    ]  # fmt: skip
    assert len(exploratory.pairs) == 10
    step = planned.pairs[1]
    table = results.trainings.query("stage == 'train'").pivot(
        index="seed", columns="variant", values="val_accuracy"
    )
    assert step.mean == pytest.approx((table["v2"] - table["v1"]).mean())
    assert step.low < step.mean < step.high
    assert step.holm_p_value >= step.p_value
    assert step.words == "v2 is better"
    assert step.change == VARIANTS["v2"].change


def test_our_models_stand_beside_the_published_weights():
    labels = published_predictions()["label"].to_numpy()
    results = study_results(seeds=2, images=10_000, labels=labels)
    table = against_weights(results)
    assert [row[0] for row in table.rows] == ["v4, seed 0", "v4, seed 1"]
    assert {row[2] for row in table.rows} == {"92.54\u202f%"}
    assert against_weights(study_results(seeds=1, images=50)) is None


def test_confusions_are_means_over_models(results):
    (first, second) = confusions(results)
    assert (first.name, second.name) == ("v4", "v4 retrained")
    tables = [predictions_of(results)[run_id] for run_id in first.run_ids]
    expected = np.mean([((t["true"] == "Shirt") & (t["predicted"] == "Shirt")).sum() for t in tables])
    _, cells = first.rows[CLASSES.index("Shirt")]
    assert float(cells[CLASSES.index("Shirt")].text) == pytest.approx(expected, abs=0.5)
    assert first.accuracy == pytest.approx(
        results.evaluations.loc[list(first.run_ids), "test_accuracy"].mean()
    )


def test_the_order_of_a_table_of_predictions_does_not_matter(results):
    shuffled = {key: table.sample(frac=1, random_state=1) for key, table in results.predictions.items()}
    assert confusions(replace(results, predictions=shuffled))[0].rows == confusions(results)[0].rows


def test_a_calibrated_model_has_a_small_error():
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 5000)
    right = random.random(5000) < sure
    table = pd.DataFrame({"image": range(5000), "true": "Bag", "predicted": np.where(right, "Bag", "Coat")})
    table["probability"], table["true_probability"] = sure, np.where(right, sure, 1 - sure)
    results = study_results(seeds=1, images=10)
    model = results.evaluations["model_run_id"].iloc[0]
    made = calibration(replace(results, predictions={model: table}))
    assert len(made.charts) == 1
    assert float(made.table.rows[0][2].split("\u202f")[0]) < 3


def test_the_hardest_images_are_those_that_most_models_get_wrong(evidence):
    hard = hardest_images(evidence, shown=5)
    wrong = sum(
        (table["true"] != table["predicted"]).to_numpy().astype(int)
        for table in predictions_of(evidence.results).values()
    )
    assert [image.wrong for image in hard] == sorted(wrong, reverse=True)[: len(hard)]
    assert all(image.true != image.predicted for image in hard)
    np.testing.assert_array_equal(picture(hard[0].source), evidence.images.images[hard[0].number].numpy())
    assert hard[0].nearest_class in CLASSES


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_have_the_models_parameters(name):
    variant = VARIANTS[name]
    first, second = variant.channels
    heads = 10 * (first * 14 * 14 + 1) + 10 * (second * 25 + 1)
    assert sum(layer.parameters for layer in layers.layers_of(variant)) + heads == parameter_count(variant)


def test_only_what_a_variant_changed_is_marked():
    rows = {row.name: [changed for _, changed in row.cells] for row in layers.layer_rows(list(VARIANTS))}
    assert rows["learning rate"] == [False, True, False, False, False]
    assert rows["batch norm"] == [False, False, False, False, True]
    assert rows["conv 1: output"] == [False, False, True, False, False]
    assert len(layers.drawings(["v1", "nonsense"])) == 1


# ---- images and pictures ----


def test_an_image_is_found_in_the_sheet_by_its_index():
    images = toy_split(11, seed=1).images
    address, columns = sheet(images)
    whole = picture(address)
    assert columns == 4
    assert whole.shape[:2] == (3 * 28, 4 * 28)
    row, column = divmod(9, columns)
    tile = whole[28 * row : 28 * (row + 1), 28 * column : 28 * (column + 1)]
    grey = tile if tile.ndim == 2 else tile[..., 0]
    assert abs(grey.astype(float) - images[9].numpy()).mean() < 12


def test_a_single_image_is_exact():
    image = toy_split(1, seed=1).images[0]
    np.testing.assert_array_equal(picture(single(image)), image.numpy())


def test_the_nearest_image_is_the_same_one():
    others = toy_split(60, seed=3)
    assert nearest(others.images[[7, 0, 59]], others) == [7, 0, 59]
    distances = ((others.images.float() - torch.full((28, 28), 50.0)) ** 2).flatten(1).sum(1)
    assert nearest(torch.full((1, 28, 28), 50, dtype=torch.uint8), others) == [int(distances.argmin())]


def test_a_scattered_point_has_its_colour():
    pixels = picture(scatter(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[255, 0, 0], [0, 0, 255]]), 20))
    assert pixels[0, 0].tolist() == [255, 0, 0, 255]
    assert pixels[17, 17].tolist() == [0, 0, 255, 255]
    assert pixels[10, 10, 3] == 0


def test_markup_is_escaped():
    assert str(svg.element("text", "<b>", title='"')) == '<text title="&#34;">&lt;b&gt;</text>'
    assert "<b>" not in svg.picture(1, 1, "<b>")


def test_a_scale_has_round_ticks():
    scale = Scale(0.884, 0.931, 0, 100)
    assert scale.ticks(4) == pytest.approx([0.9, 0.92])
    assert svg.labels(scale.ticks(4), "%")[0] == "90\u202f%"
    assert Scale.around([float("nan"), float("inf")], 0, 1).low < 0


def test_an_unknown_interval_has_no_bar():
    drawn = svg.interval_picture(float("-inf"), float("inf"), scale=Scale(0, 1, 0, 140), name="x", mark=0.5)
    assert "<rect" not in drawn
    assert "<polygon" in drawn


def test_no_accuracy_is_expected_beyond_all_images():
    results = study_results(seeds=2, images=10, folds=0)
    results.trainings.loc[results.trainings["variant"] == "v1", "val_accuracy_augmented"] = [0.82, 0.99]
    ticks = re.findall(r">(\d+)\s?%<", glance(Evidence(results=results)))
    assert max(map(int, ticks)) <= 100
