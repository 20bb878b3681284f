"""`make faults` works, with few tries; the full table is in docs/reliability.md."""

import re
from pathlib import Path

import pytest
from bench.reliability import page
from bench.reliability.__main__ import PARTS, main
from bench.reliability.content import Content, Steps, StoredRun
from bench.reliability.row import COLUMNS, Row
from bench.reliability.stores import ToyStores
from click.testing import CliRunner

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def stores(tmp_path_factory, initialised_database):
    return ToyStores(tmp_path_factory.mktemp("faults"), initialised_database)


@pytest.mark.parametrize("part", ["kills", "signals", "power", "mistakes"])
def test_faults_end_as_promised(stores, part):
    rows = PARTS[part].inject(stores, 1)
    assert all(row.tries and row.as_promised == row.tries for row in rows), rows


RUN = StoredRun("baseline", "FINISHED", "sum", {"val/loss": ((1, 0.5), (2, 0.25))})
WHOLE = Content({"baseline": [RUN]}, versions=1)


def content(versions=1, **changes):
    return Content({"baseline": [StoredRun(**{**vars(RUN), **changes})]}, versions)


@pytest.mark.parametrize(
    ("left", "deviations", "steps"),
    [
        (content(), [], Steps()),
        (content(weights="other"), ["other weights"], Steps()),
        (content(history={"val/loss": ((1, 0.5),)}), ["another history"], Steps(lost=1)),
        (
            content(history={"val/loss": ((1, 0.5), (1, 0.5), (2, 0.25))}),
            ["another history"],
            Steps(doubled=1),
        ),
        (content(history={"val/loss": ((1, 0.5), (2, 0.3))}), ["another history"], Steps()),
        (content(status="RUNNING"), ["a run is still RUNNING", "a unit is missing"], Steps(lost=2)),
        (content(versions=2), ["2 versions instead of 1"], Steps()),
        (Content({"baseline": [RUN, RUN]}, 1), ["2 runs of one unit FINISHED"], Steps()),
        (Content({}, 0), ["a unit is missing", "0 versions instead of 1"], Steps(lost=2)),
    ],
)
def test_what_differs_from_an_uninterrupted_store_is_seen(left, deviations, steps):
    assert left.deviations(WHOLE) == deviations
    assert left.steps(WHOLE) == steps


def test_a_row_counts_tries_and_says_how_the_others_ended():
    row = Row("a fault")
    row.count([], 1.0)
    row.count(["other weights", "other weights"], 3.25)
    row.count_steps(lost=2, doubled=0)
    assert row.cells() == ["a fault", "2", "1", "2", "0", "3.2", "1: other weights"]


def test_the_page_keeps_the_tables_that_are_not_made_anew(tmp_path):
    path = tmp_path / "reliability.md"
    path.write_text(f"# Before\n\n{page.BEGIN}\n{page.END}\n\nAfter.\n")
    for title, fault in (("B", "first"), ("A", "second"), ("B", "third")):
        page.write(path, {title: page.section(title, [Row(fault)])}, ["A", "B"])
    text = path.read_text()
    assert text.startswith(f"# Before\n\n{page.BEGIN}\n\n### A\n")
    assert text.endswith(f"{page.END}\n\nAfter.\n")
    assert [fault in text for fault in ("first", "second", "third")] == [False, True, True]
    assert text.index("second") < text.index("### B") < text.index("third")


def test_an_unknown_part_is_refused():
    result = CliRunner().invoke(main, ["--parts", "kills,nosuch", "--page", str(PAGE)])
    assert result.exit_code == 2
    assert "nosuch: choose from kills" in result.output


def test_every_table_of_the_page_has_the_columns_the_date_and_the_machine():
    text = PAGE.read_text(encoding="utf-8")
    tables = text.partition(page.BEGIN)[2].partition(page.END)[0]
    titles = re.findall(r"^### (.*)$", tables, re.MULTILINE)
    assert titles
    assert titles == [part.title for part in PARTS.values() if part.title in titles]
    assert tables.count("| " + " | ".join(COLUMNS) + " |") == len(titles)
    about = re.findall(r"^20\d\d-\d\d-\d\d; .+, \d+ cores; Python .+, torch .+, MLflow .+\.$", tables, re.M)
    assert len(about) == len(titles)
