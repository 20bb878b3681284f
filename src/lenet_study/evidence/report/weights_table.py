"""Our models against the published weights, image by image."""

from __future__ import annotations

from lenet_study.evidence.against_published import against_published
from lenet_study.evidence.report import svg
from lenet_study.evidence.report.content import Table, run_names
from lenet_study.evidence.results import StudyResults

_HEAD = (
    "our model",
    "ours",
    "published",
    "right in ours alone",
    "in theirs alone",
    "difference, points",
    "p",
)


def against_weights(results: StudyResults) -> Table | None:
    """Return a row for each training that can be compared; None if none can."""
    table, names = against_published(results), run_names(results)
    rows = [
        (
            names[str(run_id)],
            *(svg.percent(row[side], 2) for side in ("ours", "published")),
            *(f"{row[side]:.0f}" for side in ("ours_only", "published_only")),
            "{} ({} to {})".format(*(svg.difference(row[end]) for end in ("difference", "low", "high"))),
            svg.p_value(row["p_value"]),
        )
        for run_id, row in table.iterrows()
    ]
    caption = (
        "On the same 10,000 test images: McNemar's exact test, and the difference with Newcombe's 95 % "
        "interval; both speak of two trained models, not of two recipes"
    )
    return Table(caption, _HEAD, rows) if rows else None
