"""docs/runs.md says what the schema declares."""

from pathlib import Path

from lenet_study.tracking.runs_page import page
from lenet_study.tracking.schema import File, Metric, Tag, names

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "runs.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_name_has_its_meaning_on_the_page():
    shown = page()
    for section in (Tag, Metric, File):
        for name in names(section):
            assert name.meaning
            assert f"`{name}`" in shown
