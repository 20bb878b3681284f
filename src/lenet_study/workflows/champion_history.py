"""``history``: all changes of the champion."""

from __future__ import annotations

import pandas as pd

from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.champions import CHAMPION, Champions
from lenet_study.tracking.store import NAME, connect


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
            "why": change.reason,
        }
        for change in changes
    ]
    reporter.message(pd.DataFrame(rows).to_string(index=False))
