"""The page docs/runs.md, made of the schema: ``make docs`` writes it, a test compares."""

from __future__ import annotations

from collections.abc import Sequence

from lenet_study.tracking.schema import STAGES, File, Metric, Tag, names

_HEAD = """\
# What a run holds

Made by `make docs` from [`schema.py`](../src/lenet_study/tracking/schema.py), which declares every name once.
`StoredTraining.load(run_id)` reads a training back: recipe, seed, history, best epoch, sums, hardware.
Params are the parameters of the command (`python -m lenet_study COMMAND --help`), and `variant.…` for the
fields of the model. Where a recipe file or a search decides, `recipe.…` tells what was used, because
`mlflow run` has logged its own defaults under the plain names.
Names in brackets are those of version 0.1: they are read, never written.
"""


def page() -> str:
    """Return the page as Markdown."""
    stages = [("stage", "the run is"), *((f"`{stage}`", meaning) for stage, meaning in STAGES.items())]
    sections = [_HEAD, "## Stages\n", _table(stages)]
    for title, section in (("Tags", Tag), ("Metrics", Metric), ("Files", File)):
        has_units = section is Metric
        rows: list[tuple[str, ...]] = [("name", "meaning", "unit") if has_units else ("name", "meaning")]
        for name in names(section):
            formerly = "".join(f" (`{former}`)" for former in name.formerly)
            row = (f"`{name}`{formerly}", name.meaning)
            rows.append((*row, name.unit) if has_units else row)
        sections += [f"\n## {title}\n", _table(rows)]
    return "\n".join(sections)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as a Markdown table; the first is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    rule = "|---" * len(rows[0]) + "|"
    return "\n".join([head, rule, *body, ""])


if __name__ == "__main__":
    print(page(), end="")
