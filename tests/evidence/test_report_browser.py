"""The report's page in headless Chromium: silent, reachable by keyboard, for every reader and width."""

import base64
import functools
import http.server
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsers import MARKS, chromium
from studies import claims, study_results
from toys import toy_split

from lenet_study.evidence.published import published_epochs, published_models
from lenet_study.evidence.report.content import Embedding, Evidence, evaluated_groups
from lenet_study.evidence.report.html_page import SECTIONS, render

ActionChains = pytest.importorskip("selenium.webdriver").ActionChains
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
AXE = Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js"
IMAGES = 400
HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e\u2066\ud800" + "x" * 6000

pytestmark = MARKS
LOGS = {"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
PHONE, LAPTOP, PRINT = (360, 780), (1280, 800), (760, 1000)  # pixels; the last is A4 within its margins

# What MLflow does with an HTML artifact: a frame of its text, in which scripts run, and nothing else may.
FRAME = """<!DOCTYPE html><title>frame</title><iframe style="width:100%;height:700px;border:0" sandbox="allow-scripts"></iframe>
<script>fetch("report.html").then(answer => answer.text()).then(text => {
  document.querySelector("iframe").src = URL.createObjectURL(new Blob([text], {type: "text/html"}));
});</script>"""  # noqa: E501


def evidence():
    """A study of three seeds on toy images, with everything that a report shows."""
    images = toy_split(IMAGES, seed=3)
    results = study_results(seeds=3, images=IMAGES, labels=images.labels.numpy())
    run_ids = [*results.trainings.index, *results.evaluations.index]
    spread = np.random.default_rng(1).normal(0, 1, (IMAGES, 2)) + 3 * images.labels.numpy()[:, None]
    return Evidence(
        results=results,
        claims=claims(results),
        remarks=["A remark about all of them."],
        images=images,
        training_images=toy_split(100, seed=4),
        embedding=Embedding(next(iter(evaluated_groups(results).values()))[0], spread),
        published_epochs=published_epochs(),
        published_models=published_models(),
        addresses={run_id: f"http://127.0.0.1:5000/#/experiments/1/runs/{run_id}" for run_id in run_ids},
    )


def hostile_evidence():
    """The same with texts that anybody may have put into a store."""
    whole = evidence()
    facts = {HOSTILE: HOSTILE, "plain": HOSTILE}
    results = replace(whole.results, facts=facts, missing=(HOSTILE,))
    shown = [
        replace(claim, title=HOSTILE, sentence=HOSTILE, ours=HOSTILE, verdict=HOSTILE)
        for claim in whole.claims
    ]
    return replace(whole, results=results, claims=shown, remarks=[HOSTILE], leading_facts=["plain"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a folder with the pages."""
    folder = tmp_path_factory.mktemp("site")
    empty = study_results(seeds=0, images=10, folds=0)
    pages = {"report": evidence(), "hostile": hostile_evidence(), "empty": Evidence(results=empty)}
    for name, shown in pages.items():
        (folder / f"{name}.html").write_text(render(shown), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME)
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium"), "--hide-scrollbars", **LOGS) as driver:
        yield driver


def show(driver, address, size=LAPTOP, theme="light", medium="screen"):
    """Open a page at a size, in a theme, on the screen or on paper."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})
    # Of several browsers at once, one has the focus, and the keys of the others go nowhere.
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    driver.get(address)


def requests(driver):
    """Addresses that the page has asked for since the last time."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def press(driver, *keys):
    for key in keys:
        ActionChains(driver).send_keys(key).perform()


VIEWS = [
    (PHONE, "light", "screen"),
    (PHONE, "dark", "screen"),
    (LAPTOP, "light", "screen"),
    (LAPTOP, "dark", "screen"),
    (PRINT, "light", "print"),
]


@pytest.mark.parametrize("page", ["report", "hostile", "empty"])
@pytest.mark.parametrize(("size", "theme", "medium"), VIEWS)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(driver, site, page, size, theme, medium):
    show(driver, f"{site}/{page}.html", size, theme, medium)
    driver.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    # The page's own policy forbids other scripts; the driver's are exempt.
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found = driver.execute_async_script("axe.run().then(arguments[0])")
    problems = [
        (problem["id"], node["html"][:120], node["failureSummary"][:200])
        for problem in found["violations"]
        for node in problem["nodes"][:3]
    ]
    assert problems == []
    assert len(found["passes"]) > 15
    width, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner


@pytest.mark.parametrize("page", ["report", "hostile", "empty"])
def test_nothing_is_logged_and_nothing_is_fetched(driver, site, page):
    show(driver, "about:blank")
    requests(driver), driver.get_log("browser")
    show(driver, f"{site}/{page}.html")
    favicon = f"{site}/favicon.ico"  # the browser's own wish
    assert [url for url in requests(driver) if url != favicon] == [f"{site}/{page}.html"]
    assert [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]] == []


def test_hostile_texts_stay_texts(driver, site):
    show(driver, f"{site}/hostile.html")
    assert driver.execute_script("return document.scripts.length") == 2, "the data and our own"
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert "<script>alert(1)</script>" in driver.execute_script("return document.body.innerText")


def test_a_cell_shows_its_images_by_keyboard(driver, site):
    show(driver, f"{site}/report.html")
    driver.execute_script("document.querySelector('.matrix button[data-true=\"6\"]').focus()")
    press(driver, Keys.ARROW_RIGHT, Keys.ENTER)
    pressed = driver.execute_script("return document.activeElement.getAttribute('aria-pressed')")
    assert pressed == "true"
    name, count = driver.execute_script(
        "const g = document.getElementById('gallery');"
        "return [g.querySelector('h4').innerText, g.querySelectorAll('canvas').length]"
    )
    assert name.startswith("Shirt, ")
    assert count > 0
    assert f": {count} image" in name
    painted = driver.execute_async_script(
        "const done = arguments[0], c = document.querySelector('#gallery canvas');"
        "setTimeout(() => done(Math.max(...c.getContext('2d').getImageData(0, 0, 28, 28).data.filter((v, i) => i % 4 < 3))), 300)"  # noqa: E501
    )
    assert painted > 100, "a bright band on dark"


def test_the_map_is_walked_with_arrow_keys(driver, site):
    show(driver, f"{site}/report.html")
    card = "return document.getElementById('map-card').innerText"
    driver.execute_script("document.getElementById('map-canvas').focus()")
    seen = [driver.execute_script(card)]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ARROW_UP):
        press(driver, key)
        seen.append(driver.execute_script(card))
    assert len(set(seen)) >= 4, seen
    assert all("test image" in text for text in seen)
    press(driver, Keys.HOME)
    assert "✗ taken for" in driver.execute_script(card)


def test_curves_tell_the_numbers_of_an_epoch(driver, site):
    show(driver, f"{site}/report.html")
    driver.execute_script("document.querySelector('figure[data-readout] svg').focus()")
    press(driver, Keys.HOME, Keys.ARROW_RIGHT)
    text = driver.execute_script("return document.querySelector('figure[data-readout] output').innerText")
    assert text.startswith("epoch 2: ")
    assert "published" in text


def test_tabs_and_filter_hide_the_others(driver, site):
    show(driver, f"{site}/report.html")
    hidden = "return [...document.querySelectorAll('#curves .tab')].map(tab => tab.offsetHeight > 0)"
    assert driver.execute_script(hidden) == [True, False, False, False]
    driver.execute_script("document.querySelector('input[name=metric]').focus()")
    press(driver, Keys.ARROW_RIGHT)
    assert driver.execute_script(hidden) == [False, True, False, False]
    driver.execute_script("document.querySelector('input[name=verdict][value=failed]').click()")
    rows = "return [...document.querySelectorAll('.scorecard tbody tr')].filter(r => r.offsetHeight).map(r => r.className)"  # noqa: E501
    assert driver.execute_script(rows) == ["failed"]


def test_everything_that_reacts_is_reached_by_tab(driver, site):
    show(driver, f"{site}/report.html")
    reached = set()
    for _ in range(400):
        press(driver, Keys.TAB)
        tag, name = driver.execute_script(
            "const e = document.activeElement; return [e.tagName, e.id || e.name || e.className.baseVal || e.className]"  # noqa: E501
        )
        reached.add((tag, str(name).split(" ")[0]))
        if tag == "BODY":
            break
    names = {name for _, name in reached}
    assert {"theme", "verdict", "metric", "matrix", "map-canvas", "map-wrong", "copy"} <= names
    assert {"SUMMARY", "A", "svg", "BUTTON"} <= {tag for tag, _ in reached}


def test_links_lead_to_runs(driver, site):
    show(driver, f"{site}/report.html")
    links = driver.execute_script("return [...document.querySelectorAll('a.page')].map(a => a.href)")
    assert len(links) == len(evidence().addresses)
    assert all(link.startswith("http://127.0.0.1:5000/#/experiments/1/runs/") for link in links)
    targets = driver.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.getElementById(a.hash.slice(1))).length"  # noqa: E501
    )
    assert targets == 0, "links within the page"


def test_in_mlflows_frame_ids_take_the_place_of_links(driver, site):
    driver.get_log("browser")
    show(driver, f"{site}/frame.html")
    frame = driver.find_element("css selector", "iframe")
    driver.switch_to.frame(frame)
    try:
        ready = "return document.querySelectorAll('#provenance .copy').length"
        for _ in range(50):
            if driver.execute_script(ready):
                break
            time.sleep(0.1)
        assert driver.execute_script("return window.origin") == "null"
        assert driver.execute_script("return document.querySelectorAll('a.page').length") == 0
        ids = driver.execute_script(
            "return [...document.querySelectorAll('code.whole')].map(c => c.textContent)"
        )
        assert set(evidence().addresses) <= set(ids)
        driver.execute_script("document.querySelector('#theme').click()")
        assert "light" in driver.execute_script("return document.querySelector('#theme').textContent")
    finally:
        driver.switch_to.default_content()
    assert [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]] == []


def test_without_scripts_the_page_holds_all_sections(driver, site):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(driver, f"{site}/report.html")
        picture = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
        assert len(base64.b64decode(picture)) > 50_000
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert all(f'<section id="{name}">' in driver.page_source for name in SECTIONS)
