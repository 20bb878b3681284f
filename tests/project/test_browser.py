"""MLflow's web pages show all variants: the addresses that a study prints, in headless Chromium."""

import re
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd
import pytest
from browsers import MARKS, chromium
from conftest import Recorder, open_store
from servers import free_port, serving

from lenet_study.evidence.figures.style import COLOURS
from lenet_study.recipes.recipe import Recipe, TrainingConfig, describe, variant_recipes
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.tracking import links, saved_views
from lenet_study.tracking.run import open_run
from lenet_study.training.data_files import DataFiles
from lenet_study.training.history import Epoch
from lenet_study.workflows.page import views
from lenet_study.workflows.train import TrainingJob, variant_tags

pytestmark = MARKS

EPOCHS = 5
SEEDS = (0, 1)
PER_EPOCH = ("train/accuracy", "train/loss", "val/accuracy", "val/loss")
FLAGS = (
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1200",
)
# What a first visit writes: the assistant's panel opens by itself and takes a quarter of the width.
VISITED_BEFORE = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}


def history(variant, seed=0):
    """Later variants learn a little better; no two runs share a value."""
    gain = list(VARIANTS).index(variant) / 50 + seed / 500
    return [
        Epoch(
            epoch=number,
            learning_rate=0.001 if variant == "baseline" else 0.0005,
            train_loss=0.7 / number**0.4 - gain,
            train_accuracy=0.87 - 0.15 / number + gain,
            val_loss=0.6 / number**0.4 - gain,
            val_accuracy=0.89 - 0.13 / number + gain,
            seconds=6.0,
        )
        for number in range(1, EPOCHS + 1)
    ]


def write_study(client):
    """A study's runs, as the commands write them, without the training; and a trial, which is not its own.

    Returns:
        The addresses of its pages by name, and the run ids by name.
    """
    runs = {}
    with open_run("study", stage="study", params={"folds": 2, "seed": SEEDS[0]}) as study:
        study.set_tags({"study": study.id})
        for seed in SEEDS:
            for variant in reversed(VARIANTS):  # as the study starts them
                name = variant if seed == SEEDS[0] else f"{variant} seed {seed}"
                recipe = variant_recipes(TrainingConfig(epochs=EPOCHS, seed=seed))[variant]
                runs[name] = write_training(name, recipe, history(variant, seed), study=study.id)
        recipe = variant_recipes(TrainingConfig(epochs=EPOCHS))["v4"]
        with open_run("v4 2-fold", stage="kfold", params={}, study=study.id) as parent:
            for fold in (1, 2):
                name, tags = f"v4 fold {fold}/2", {"fold": fold}
                where = {"stage": "fold", "study": study.id, "parent": parent.id}
                runs[name] = write_training(name, recipe, history("v4", fold), tags, **where)
        for name, accuracy in (("v4", 0.91), ("v4 seed 1", 0.92)):
            with open_run(
                f"{name} on test",
                stage="evaluate",
                params={"model": runs[name], "seed": 0},
                tags={**variant_tags("v4"), "model.run_id": runs[name]},
                study=study.id,
            ) as run:
                scores = {"": accuracy, "_low": accuracy - 0.005, "_high": accuracy + 0.005}
                run.log_metrics({f"test/accuracy{end}": value for end, value in scores.items()})
                run.log_metrics({"test/loss": 0.25, "auxiliary/first_accuracy": 0.9})
                run.log_metrics({"auxiliary/second_accuracy": 0.91, "auxiliary/agreement": 0.93})
            runs[f"{name} on test"] = run.id
        study.log_table(pd.DataFrame([{"training": "v4", "val_accuracy": 0.93}]), "comparison.csv")
        study.log_metrics({"best/val_accuracy": 0.93, "test/accuracy": 0.91})
    for trial, rate in enumerate((0.01, 0.001)):
        config = TrainingConfig(epochs=EPOCHS, learning_rate=rate)
        variant = replace(VARIANTS["v4"], dropout=0.1 * trial)
        recipe = Recipe(name=f"trial {trial}", variant=variant, config=config)
        runs[recipe.name] = write_training(
            recipe.name, recipe, history("v3", trial), {"trial": trial}, stage="trial"
        )
    client.create_registered_model("fashion-mnist-lenet")
    for variant in VARIANTS:
        model = client.create_model_version(
            "fashion-mnist-lenet", f"runs:/{runs[variant]}/model", runs[variant]
        )
        assert model.run_id == runs[variant]
    client.set_registered_model_alias("fashion-mnist-lenet", "champion", "5")
    reporter = Recorder()
    views(reporter)
    addresses = {event[2]: event[3] for event in reporter.events if event[0] == "on_address"}
    side_by_side = links.comparison_address(study.experiment_id, [runs[name] for name in VARIANTS])
    return {**addresses, "comparison": side_by_side}, {**runs, "study": study.id}


def write_training(name, recipe, epochs, tags=None, *, stage="train", **where):
    with open_run(
        name,
        stage=stage,
        params=TrainingJob(recipe=recipe, data=DataFiles.at("data")).params(),
        tags={**variant_tags(recipe.name), **(tags or {})},
        description=describe(recipe),
        **where,
    ) as run:
        for epoch in epochs:
            run.log_epoch(epoch)
        run.log_metrics({"system/cpu_utilization_percentage": 50.0})  # the monitor waits for the first epoch
        run.log_best(epochs[-1])
        augmented = epochs[-1].val_accuracy - 0.01
        count = parameter_count(recipe.variant)
        run.log_metrics({"best/val_accuracy_augmented": augmented, "parameter_count": count})
        run.set_tags({"parity": "passed"})
    return run.id


@contextmanager
def user_interface(folder, uri):
    """A real `mlflow ui` on a free port."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    environment = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of no use here, and slow to start
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with serving(command, f"{address}/health", folder, **environment):
        yield address


@pytest.fixture(scope="module")
def study(initialised_database, tmp_path_factory):
    """A written study behind a running UI: its addresses there and its run ids."""
    folder = tmp_path_factory.mktemp("browser")
    with open_store(initialised_database, folder) as store:
        addresses, runs = write_study(store)
        with user_interface(folder, f"sqlite:///{folder}/mlflow.db") as address:
            here = {name: url.replace(links.LOCAL_UI, address) for name, url in addresses.items()}
            yield here, runs


@pytest.fixture(scope="module")
def driver(study, tmp_path_factory):
    """A browser that has been on MLflow's pages before."""
    with chromium(tmp_path_factory.mktemp("chromium"), *FLAGS) as driver:
        addresses, _ = study
        driver.get(addresses["The five"].partition("#")[0] + "version")  # same origin, no application
        for key, value in VISITED_BEFORE.items():
            driver.execute_script("localStorage.setItem(arguments[0], arguments[1])", key, value)
        yield driver


# The charts drawn so far, by metric: for each trace its name, colour and number of points.
CHARTS = """
const charts = {};
for (const card of document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')) {
  const plot = card.querySelector('.js-plotly-plot');
  const title = card.querySelector('h4');
  if (!plot || !plot._fullData || !title) continue;
  const lines = [...plot.querySelectorAll('.scatterlayer path.js-line')];
  charts[title.title] = {
    drawn: lines.filter(line => line.getTotalLength() > 20).length,
    colours: lines.map(line => line.style.stroke),
    traces: plot._fullData.map(trace => [trace.name, trace.type, (trace.x || []).length]),
  };
}
return charts;
"""


# The bars drawn so far, by metric: values and colours.
BARS = """
const charts = {};
for (const card of document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')) {
  const plot = card.querySelector('.js-plotly-plot');
  const title = card.querySelector('h4');
  const trace = plot && plot._fullData && plot._fullData.find(trace => trace.type === 'bar');
  if (!trace || !title || !plot.querySelector('.barlayer path')) continue;
  const values = Array.from(trace.x, value => Math.round(value * 1e6) / 1e6);
  charts[title.title] = {values, colours: [].concat(trace.marker.color)};
}
return charts;
"""
# The axes of the parallel coordinates; what the page writes beside them is cut short.
PARALLEL = """
return [...document.querySelectorAll('.parcoords .dimension')].map(axis => axis.__data__);
"""
COLUMNS = """
return [...document.querySelectorAll('.ag-header-cell')].map(cell => cell.innerText.trim());
"""
LINKS = """
const links = {};
for (const link of document.querySelectorAll('a'))
  links[link.textContent] = link.href;
return links;
"""


def wait(driver, condition, seconds=20):
    """The first true value of the condition; a timeout shows the page's text."""
    deadline = time.monotonic() + seconds
    while not (value := condition(driver)):
        if time.monotonic() > deadline:
            pytest.fail(f"not on the page within {seconds} s: {body(driver)}")
        time.sleep(0.2)
    return value


def body(driver):
    return driver.execute_script("return document.body ? document.body.innerText : ''")


SHOW_SECTION = """
for (const header of document.querySelectorAll('[data-testid="experiment-view-compare-runs-section-header"]'))
  if (header.innerText.trim().split(/\\s/)[0] === arguments[0]) { header.scrollIntoView(); return true; }
return false;
"""


def rgb(colour):
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"


def open_view(driver, addresses, name, runs):
    """Open a view by its address, and wait until its runs are there."""
    driver.get("about:blank")  # a new address behind the # alone does not load the page anew
    driver.get(addresses[name])
    wait(driver, lambda d: f"{runs} matching runs" in body(d))
    text = body(driver)
    assert "shared view" in text  # not the page's own state
    assert "\nPrompts" not in text  # of the GenAI mode, which MLflow opens in by default
    return text


def show_section(driver, section):
    wait(driver, lambda d: d.execute_script(SHOW_SECTION, section))


def chart(driver, metric, lines=0):
    """A chart once it is drawn: its traces, and its lines in their colours."""
    return wait(
        driver,
        lambda d: (found := d.execute_script(CHARTS).get(metric)) and found["drawn"] >= lines and found,
    )


def bars(driver, metric):
    """The bars of a chart: their colours by value."""
    drawn = wait(driver, lambda d: d.execute_script(BARS).get(metric))
    return dict(zip(drawn["values"], drawn["colours"], strict=True))


def charts_in(text, section):
    """The number of charts of a section, as its header tells."""
    return int(re.search(rf"^{section}\s*\((\d+)\)", text, re.MULTILINE)[1])


def test_the_five_shows_curves_bars_and_what_differs(driver, study):
    addresses, _ = study
    text = open_view(driver, addresses, "The five", len(VARIANTS))
    assert [line for line in text.splitlines() if line in VARIANTS][: len(VARIANTS)] == list(VARIANTS), text
    show_section(driver, "Curves")
    for metric in PER_EPOCH:
        drawn = chart(driver, metric, lines=len(VARIANTS))
        lines = [trace for trace in drawn["traces"] if trace[2] == EPOCHS]
        assert {name.split()[0] for name, _, _ in lines} == set(VARIANTS), drawn
        assert {rgb(COLOURS[name]) for name in VARIANTS} <= set(drawn["colours"]), drawn
    show_section(driver, "Best")
    expected = {round(history(name)[-1].val_accuracy, 6): COLOURS[name] for name in VARIANTS}
    assert bars(driver, "best/val_accuracy") == expected
    assert len(bars(driver, "best/val_accuracy_augmented")) == len(VARIANTS)
    show_section(driver, "What")
    axes = ["variant.channels", "variant.hidden_units", "variant.batch_norm"]
    wait(driver, lambda d: d.execute_script(PARALLEL) == [*axes, "learning_rate", "best/val_accuracy"])


def test_the_page_s_further_charts_are_in_closed_sections(driver, study):
    addresses, _ = study
    open_view(driver, addresses, "The five", len(VARIANTS))
    chart(driver, "val/accuracy", lines=len(VARIANTS))
    text = wait(driver, lambda d: "System metrics" in body(d) and body(d))
    assert charts_in(text, "Curves") == len(PER_EPOCH)
    assert charts_in(text, "best") == 4
    assert charts_in(text, "System metrics") == 1
    assert "system/cpu_utilization_percentage" not in driver.execute_script(CHARTS)


def test_the_five_in_a_table_has_the_columns_a_reader_needs(driver, study):
    addresses, _ = study
    driver.set_window_size(2400, 1200)
    try:
        open_view(driver, addresses, "The five, in a table", len(VARIANTS))
        five, *_ = saved_views.views("", 0)
        expected = {column.partition("`")[2].rstrip("`") for column in five.columns}
        assert len(expected) == 10
        wait(driver, lambda d: expected <= set(d.execute_script(COLUMNS)))
    finally:
        driver.set_window_size(1600, 1200)
    assert "481458" in body(driver)


def test_seeds_are_grouped_in_the_list_and_overlaid_in_the_charts(driver, study):
    addresses, _ = study
    text = open_view(driver, addresses, "Seeds", len(SEEDS) * len(VARIANTS))
    for variant in VARIANTS:
        assert f"Group: {variant}" in text
    drawn = bars(driver, "best/val_accuracy")
    assert sorted(drawn.values()) == sorted(len(SEEDS) * [COLOURS[name] for name in VARIANTS])
    show_section(driver, "Curves")
    curves = chart(driver, "val/accuracy", lines=len(SEEDS) * len(VARIANTS))
    assert set(curves["colours"]) == {rgb(COLOURS[name]) for name in VARIANTS}


def test_folds_are_shown_without_their_parent(driver, study):
    addresses, _ = study
    text = open_view(driver, addresses, "Folds", 2)
    assert "v4 fold 1/2" in text
    assert len(bars(driver, "best/val_accuracy")) == 2
    show_section(driver, "Curves")
    chart(driver, "val/accuracy", lines=2)


def test_evaluations_are_compared_on_test(driver, study):
    addresses, _ = study
    text = open_view(driver, addresses, "On test", 2)
    assert "v4 seed 1 on test" in text
    assert bars(driver, "test/accuracy").keys() == {0.91, 0.92}
    assert bars(driver, "auxiliary/first_accuracy")


def test_trials_of_a_search(driver, study):
    addresses, _ = study
    open_view(driver, addresses, "Search", 2)
    chart(driver, "val/accuracy", lines=2)
    wait(driver, lambda d: "parameter_count vs. best/val_accuracy" in d.execute_script(CHARTS))
    wait(driver, lambda d: "variant.dropout" in d.execute_script(PARALLEL))


def test_the_ladder_lists_the_runs_that_made_versions(driver, study):
    addresses, _ = study
    text = open_view(driver, addresses, "Ladder of versions", len(VARIANTS))
    assert {line for line in text.splitlines() if line in VARIANTS} == set(VARIANTS)
    wait(driver, lambda d: "version" in d.execute_script(COLUMNS))


def test_the_menu_lists_the_views_in_their_order(driver, study):
    addresses, _ = study
    open_view(driver, addresses, "The five", len(VARIANTS))
    driver.find_element("css selector", '[data-testid="saved-views-trigger"]').click()
    names = [view.name for view in saved_views.views("", 0)]
    text = wait(driver, lambda d: "Ladder of versions" in body(d) and body(d))
    listed = [line for line in text.splitlines() if line in names]
    assert listed[-len(names) :] == names


def test_notes_lead_on(driver, study):
    addresses, runs = study
    base = addresses["The five"].partition("#")[0]
    experiment = re.search(r"experiments/(\d+)/", addresses["The five"])[1]
    driver.get("about:blank")
    driver.get(base + links.run_page(experiment, runs["v4"]))
    wait(driver, lambda d: "v3, but batch norm" in body(d))
    targets = driver.execute_script(LINKS)
    assert f"{base}{links.run_page(experiment, runs['study'])}" == targets["study"]
    assert f"{base}{links.run_page(experiment, runs['v4 on test'])}" == targets["on test"]
    driver.get("about:blank")
    driver.get(targets[f"version {len(VARIANTS)}"])
    text = wait(driver, lambda d: "Intended use" in body(d) and body(d))
    assert "test accuracy\t91.00%\t90.50% to 91.50%" in text
    driver.get("about:blank")
    driver.get(targets["study"])
    text = wait(driver, lambda d: "Best validation accuracy 93.00%" in body(d) and body(d))
    assert addresses["Folds"] == driver.execute_script(LINKS)["Folds"]


def test_the_comparison_page_shows_all_trainings_side_by_side(driver, study):
    addresses, runs = study
    driver.get("about:blank")  # a new address behind the # alone does not load the page anew
    driver.get(addresses["comparison"])
    title = f"Comparing {len(VARIANTS)} Runs from 1 Experiment"
    wait(driver, lambda d: title in body(d) and "val/loss" in body(d))
    text = body(driver)
    rows = [line.split("\t") for line in text.splitlines()]
    assert ["Run ID:", *(runs[name] for name in VARIANTS)] in rows
    assert ["variant", *VARIANTS] in rows  # a parameter; also the tag of this name
    assert ["epochs", *[str(EPOCHS)] * len(VARIANTS)] in rows
    values = [str(round(history(variant)[-1].val_accuracy, 3)) for variant in VARIANTS]
    assert "best/val_accuracy" in text
    assert "\n".join(values) in text
