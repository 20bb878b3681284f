"""``history``: all changes of the champion."""

from __future__ import annotations

import textwrap

import pandas as pd

from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.champions import CHAMPION, Champions
from lenet_study.tracking.store import NAME, connect

WIDTH = 100  # columns of a reason


def history(reporter: Reporter = Reporter()) -> None:
    """Print who made which version the champion, when, why, and by which run.

    Raises:
        StoreError: The store failed, or the history is damaged.
    """
    connect()
    state = Champions().history()
    changes = state.changes
    if state.champion != state.aliases.get(CHAMPION, ""):
        reporter.message(f"The alias {CHAMPION} is not as the history says: the next `promote` sees to it.")
    if not changes:
        reporter.message(f"There has been no {NAME}@{CHAMPION} yet: `promote` makes one.")
        return
    rows = [
        {
            "time (UTC)": change.time.removesuffix("+00:00"),
            "by": change.user or "–",
            "change": change.action,
            "from": change.former or "–",
            "to": change.version or "–",
            "run": change.run_id or "–",
        }
        for change in changes
    ]
    heading, *lines = pd.DataFrame(rows).to_string(index=False).splitlines()
    reporter.message(heading)
    for line, change in zip(lines, changes, strict=True):
        reporter.message(line)
        reporter.message(textwrap.fill(change.reason, WIDTH, initial_indent="    ", subsequent_indent="    "))
