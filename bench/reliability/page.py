"""The table in docs/reliability.md: one section for each part, with the date and the machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

import mlflow
import torch

from bench.machine import machine
from bench.reliability.row import COLUMNS, Row

BEGIN, END = "<!-- begin: made by make faults -->", "<!-- end: made by make faults -->"


def section(title: str, rows: Sequence[Row]) -> str:
    """Return a part's table in Markdown, under its title, date and machine."""
    measured_on = machine()
    about = [
        str(measured_on["when"])[:10],
        f"{measured_on['processor']}, {measured_on['cores']} cores",
        f"Python {platform.python_version()}, torch {torch.__version__}, MLflow {mlflow.__version__}",
    ]
    table = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 2), "---"], *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return f"### {title}\n\n" + "; ".join(about) + ".\n\n" + "\n".join(lines) + "\n"


def write(page: Path, sections: dict[str, str], order: Sequence[str]) -> None:
    """Put sections between the page's markers; those that were not made anew stay.

    Args:
        page: The page.
        sections: Sections by their titles.
        order: All titles.

    Raises:
        ValueError: The page lacks the markers.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    former, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN} and {END}")
    kept = {text.partition("\n")[0].removeprefix("### "): text.strip() + "\n" for text in _sections(former)}
    present = kept | sections
    body = "\n".join(present[title] for title in order if title in present)
    page.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{after}", encoding="utf-8")


def _sections(text: str) -> list[str]:
    return [part for part in re.split(r"^(?=### )", text, flags=re.MULTILINE) if part.startswith("### ")]
